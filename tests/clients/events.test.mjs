// Every client from npm reports the same events, those of the table in `events.json`.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";

import { clients } from "./clients.mjs";
import { Server, until } from "./server.mjs";

const table = JSON.parse(await readFile(new URL("events.json", import.meta.url), "utf8"));
const names = table.cases.flatMap(({ event }) => event ?? []);

let server;
before(async () => {
  server = await Server.start();
});
after(() => server?.stop());

test("the table knows every client", () => {
  for (const name of Object.keys(clients)) assert.ok(table.clients[name], `${name} is missing`);
});

for (const [client, open] of Object.entries(clients)) {
  test(`${client} reports every event as it was published`, { timeout: 60_000 }, async () => {
    const channel = `events-of-${client}`;
    const reported = [];
    let opened = false;
    const close = open(server.streamUrl(channel), names, {
      opened: () => (opened = true),
      event: (event) => reported.push(event),
    });
    try {
      await until("the stream to open", () => opened);
      const expected = [];
      let lastId = "";
      for (const { what, data, times = 1, arrives, event, id, retry } of table.cases) {
        const fields = Object.fromEntries(Object.entries({ event, id, retry }).filter(([, value]) => value));
        const given = await server.publish(channel, data.repeat(times), fields);
        if (id) assert.equal(given, id, `${what}: the server changed the publisher's id`);
        lastId = given ?? (table.clients[client].only_own_ids ? "" : lastId);
        expected.push({ name: event ?? "message", data: arrives ?? data.repeat(times), id: lastId });
      }
      await server.publish(channel, "the end");
      await until("the last event", () => reported.at(-1)?.data === "the end");
      expected.forEach((event, index) => {
        assert.deepEqual(shorten(reported[index]), shorten(event), table.cases[index].what);
        assert.deepEqual(reported[index], event, table.cases[index].what);
      });
      assert.equal(reported.length, expected.length + 1, "events that nobody published");
    } finally {
      close();
    }
  });
}

/** So that a difference in a long event can be read. */
function shorten(event) {
  const data = event?.data;
  return data?.length > 200 ? { ...event, data: `${data.slice(0, 100)}... (${data.length})` } : event;
}

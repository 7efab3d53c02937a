// Every client from npm reports the events of the table in `events.json`.

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

test("the table lists every client", () => {
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
        const options = Object.entries({ event, id, retry }).filter(([, value]) => value);
        const sent = data.repeat(times);
        const assigned = await server.publish(channel, sent, Object.fromEntries(options));
        if (id) assert.equal(assigned, id, `${what}: the server changed the publisher's id`);
        lastId = assigned ?? (table.clients[client].only_publisher_ids ? "" : lastId);
        expected.push({ name: event ?? "message", data: arrives ?? sent, id: lastId });
      }
      await server.publish(channel, "the end");
      await until("the last event", () => reported.at(-1)?.data === "the end");
      expected.forEach((event, index) => {
        assert.deepEqual(shorten(reported[index]), shorten(event), table.cases[index].what);
        assert.deepEqual(reported[index], event, table.cases[index].what);
      });
      assert.equal(reported.length, expected.length + 1, "events that were not published");
    } finally {
      close();
    }
  });
}

/** Shortens long data, so that a difference is readable. */
function shorten(event) {
  const data = event?.data;
  if (!(data?.length > 200)) return event;
  return { ...event, data: `${data.slice(0, 100)}... (${data.length})` };
}

// The server ends and starts again: every client that reconnects by itself is back with its last id.
//
// All clients wait for the same restart, so that it has to be paid once.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { clients } from "./clients.mjs";
import { RecordingProxy } from "./proxy.mjs";
import { Server, until } from "./server.mjs";

/** The publisher's own, so that it does not matter whether the server numbers events by itself. */
const LAST_ID = "before-the-restart";

const waiting = Object.entries(clients).map(([client, open]) => ({
  client,
  open,
  channel: `reconnect-of-${client}`,
  events: [],
  opened: 0,
}));

let server;
let proxy;

before(async () => {
  server = await Server.start();
  proxy = await RecordingProxy.start(server.port);
  for (const one of waiting) {
    one.close = one.open(`http://127.0.0.1:${proxy.port}/sse/stream?channel=${one.channel}`, [], {
      opened: () => one.opened++,
      // A server that lost its events with its process may announce the gap, under a name of its own.
      event: (event) => event.name === "message" && one.events.push(event),
    });
  }
  for (const one of waiting) {
    await until(`${one.client} to open its stream`, () => one.opened === 1);
    await server.publish(one.channel, "before", { id: LAST_ID });
    await until(`${one.client} to report the first event`, () => one.events.length === 1);
  }
});

after(async () => {
  for (const one of waiting) one.close?.();
  await proxy?.stop();
  await server?.stop();
});

test("the server ends its streams in an orderly way, and starts again on its port", async () => {
  const { port } = server;
  assert.equal(await server.stop(), 0, server.program.output);
  server = await Server.start(port);
});

for (const one of waiting) {
  test(`${one.client} comes back with its last id, and gets the next event`, { timeout: 40_000 }, async () => {
    await until("a second stream", () => proxy.streams(one.channel).length >= 2 && one.opened >= 2);
    assert.equal(proxy.streams(one.channel).at(-1).lastEventId, LAST_ID);
    await server.publish(one.channel, "after");
    await until("the next event", () => one.events.at(-1).data === "after");
    assert.deepEqual(one.events.map(({ data }) => data), ["before", "after"]);
  });
}

// The server restarts: every client that reconnects automatically resumes with its last id.
//
// All clients share one restart, which takes a while.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { clients } from "./clients.mjs";
import { RecordingProxy } from "./proxy.mjs";
import { Server, until } from "./server.mjs";

/** A publisher's id, so the test does not depend on the server's own ids. */
const LAST_ID = "before-the-restart";

const streams = Object.entries(clients).map(([client, open]) => ({
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
  for (const one of streams) {
    one.close = one.open(`http://127.0.0.1:${proxy.port}/sse/stream?channel=${one.channel}`, [], {
      opened: () => one.opened++,
      // A server that lost its events in the restart may report a gap, in an event with a name.
      event: (event) => event.name === "message" && one.events.push(event),
    });
  }
  for (const one of streams) {
    await until(`${one.client} to open its stream`, () => one.opened === 1);
    await server.publish(one.channel, "before", { id: LAST_ID });
    await until(`${one.client} to report the first event`, () => one.events.length === 1);
  }
});

after(async () => {
  for (const one of streams) one.close?.();
  await proxy?.stop();
  await server?.stop();
});

test("the server closes its streams cleanly, and restarts on its port", async () => {
  const { port } = server;
  assert.equal(await server.stop(), 0, server.program.output);
  server = await Server.start(port);
});

for (const one of streams) {
  const name = `${one.client} reconnects with its last id, and receives the next event`;
  test(name, { timeout: 40_000 }, async () => {
    const isResumed = () => proxy.streams(one.channel).length >= 2 && one.opened >= 2;
    await until("a second stream", isResumed);
    assert.equal(proxy.streams(one.channel).at(-1).lastEventId, LAST_ID);
    await server.publish(one.channel, "after");
    await until("the next event", () => one.events.at(-1).data === "after");
    assert.deepEqual(one.events.map(({ data }) => data), ["before", "after"]);
  });
}

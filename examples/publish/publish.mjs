// Publishes durable events with node-redis. Look here for how to call the function from Node.
//
// Run: node publish.mjs [CHANNEL]

import { createClient } from "redis";

/** Publishes an event and returns its id. Options: event, id, retry, key, end. */
async function publish(client, channel, data, options = {}) {
  const pairs = Object.entries(options).flat().map(String);
  return client.fCall("headwater_publish", {
    keys: ["headwater:{0}"],
    arguments: [channel, data, ...pairs],
  });
}

const client = createClient({ url: process.env.REDIS_URL ?? "redis://127.0.0.1:6379" });
client.on("error", (error) => console.error(error.message));
await client.connect();
const channel = process.argv[2] ?? "news";

console.log(await publish(client, channel, "hello"));
// The same key returns the same id and publishes nothing: safe to repeat after an error.
const order = { event: "order", key: "order-4711" };
console.log(await publish(client, channel, '{"total": 59.9}', order));
console.log(await publish(client, channel, '{"total": 59.9}', order));
try {
  await publish(client, channel, "", { id: "not an id" });
} catch (error) {
  console.log(error.message);
}
await client.close();

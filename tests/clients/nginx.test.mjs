// Behind nginx with only `proxy_pass` configured, events arrive at once.
//
// nginx buffers responses by default. The server's `X-Accel-Buffering: no` turns that off for its
// streams. Without it the test over nginx's default protocol, HTTP/1.0, fails: not even the head of
// the response arrives. nginx 1.22 passed chunks of HTTP/1.1 on at once even without it.

import assert from "node:assert/strict";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { clients } from "./clients.mjs";
import { freePort, Program, Server, until } from "./server.mjs";

/** The documented limit, for the median: one late event on a busy machine is not a failure. */
const MEDIAN_LIMIT_MS = 100;
const WORST_LIMIT_MS = 1000;
const EVENTS = 21;

const protocols = { "nginx's default protocol": "", "HTTP/1.1": "proxy_http_version 1.1;" };

let server;
let folder;
let nginx;
const ports = {};

before(async () => {
  server = await Server.start();
  folder = await mkdtemp(join(tmpdir(), "headwater-nginx-"));
  // nginx's workers drop root, and must still be able to access their directories.
  await chmod(folder, 0o755);
  for (let attempt = 1; ; attempt++) {
    for (const protocol of Object.keys(protocols)) ports[protocol] = await freePort();
    await writeFile(join(folder, "nginx.conf"), configuration());
    nginx = new Program("nginx", ["-p", folder, "-c", join(folder, "nginx.conf"), "-e", "stderr"]);
    const [anyPort] = Object.values(ports);
    if (await nginx.answers(`http://127.0.0.1:${anyPort}/health/ready`)) break;
    assert.ok(attempt < 3, `nginx does not start; its output:\n${nginx.output}`);
  }
});

after(async () => {
  await nginx?.stop();
  await server?.stop();
  if (folder) await rm(folder, { recursive: true });
});

for (const protocol of Object.keys(protocols)) {
  const name = `an event passes nginx within ${MEDIAN_LIMIT_MS} ms over ${protocol}`;
  test(name, { timeout: 60_000 }, async (t) => {
    const channel = `nginx-${ports[protocol]}`;
    const arrivals = new Map();
    let opened = false;
    const url = `http://127.0.0.1:${ports[protocol]}/sse/stream?channel=${channel}`;
    const close = clients.eventsource(url, [], {
      opened: () => (opened = true),
      event: ({ data }) => arrivals.set(data, performance.now()),
    });
    try {
      await until("the stream to open", () => opened);
      const delays = [];
      for (let event = 0; event < EVENTS; event++) {
        const data = `event ${event}`;
        const published = performance.now();
        await server.publish(channel, data);
        await until(`${data} of ${EVENTS}`, () => arrivals.has(data), 5000);
        delays.push(arrivals.get(data) - published);
      }
      delays.sort((a, b) => a - b);
      const rounded = (delay) => Math.round(delay * 10) / 10;
      const [median, worst] = [delays[EVENTS >> 1], delays.at(-1)].map(rounded);
      t.diagnostic(`median ${median} ms, worst ${worst} ms`);
      assert.ok(median < MEDIAN_LIMIT_MS, `the median is ${median} ms`);
      assert.ok(worst < WORST_LIMIT_MS, `the worst is ${worst} ms`);
    } finally {
      close();
    }
  });
}

function configuration() {
  const servers = Object.entries(protocols).map(
    ([name, line]) => `
      server {
        listen 127.0.0.1:${ports[name]};
        location / {
          proxy_pass http://127.0.0.1:${server.port};
          ${line}
        }
      }`,
  );
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
  return `
    daemon off;
    worker_processes 1;
    pid nginx.pid;
    events {}
    http {
      access_log off;
      ${temporary.map((kind) => `${kind}_temp_path ${kind};`).join("\n      ")}
      ${servers.join("\n")}
    }`;
}

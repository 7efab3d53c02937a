// The real server, started on a free port for one test file, and ended by its own process id.
//
// Look here when a test cannot start the server. `server.py` is the same for the Python tests.

import { spawn } from "node:child_process";
import { once } from "node:events";
import net from "node:net";

/** Long enough for a busy machine; a healthy server answers within 50 ms. */
const START_LIMIT_MS = 20_000;
/** The server drains for at most 10 s, and then a little. */
const STOP_LIMIT_MS = 15_000;

/** Waits until `condition()` gives something true, and returns that. `what` may be a function. */
export async function until(what, condition, limitMs = 20_000) {
  const deadline = Date.now() + limitMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) {
      throw new Error(`waited ${limitMs} ms in vain for ${typeof what === "function" ? what() : what}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** A port that was free a moment ago. */
export async function freePort() {
  const listener = net.createServer().listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address();
  listener.close();
  await once(listener, "close");
  return port;
}

/** A child process with what it printed. */
export class Program {
  constructor(command, args, options = {}) {
    this.name = command.split("/").at(-1);
    this.output = "";
    this.child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], ...options });
    this.child.on("error", (error) => (this.output += `${error}\n`));
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => (this.output += text));
    }
    this.ended = new Promise((resolve) => {
      this.child.on("close", (code, signal) => resolve(signal ?? code));
      this.child.on("error", () => resolve("not started"));
    });
    this.running = true;
    this.ended.then(() => (this.running = false));
  }

  /** Waits until `url` answers 200. False if the program ended before; ends one that hangs. */
  async answers(url) {
    const ready = () => fetch(url).then((answer) => answer.arrayBuffer().then(() => answer.ok)).catch(() => false);
    const what = () => `${url} of ${this.name}, which printed:\n${this.output}`;
    try {
      await until(what, async () => !this.running || (await ready()), START_LIMIT_MS);
    } catch (error) {
      await this.stop();
      throw error;
    }
    return this.running;
  }

  /** SIGTERM, then the exit code. */
  async stop() {
    this.child.kill("SIGTERM");
    const limit = setTimeout(() => this.child.kill("SIGKILL"), STOP_LIMIT_MS);
    const end = await this.ended;
    clearTimeout(limit);
    return end;
  }
}

/** The environment without the server's settings, nor ours: a test is the same for everybody. */
function plainEnvironment() {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("HEADWATER_")));
}

/** A running `headwater serve` with the embedded broker. */
export class Server {
  static async start(port) {
    const binary = process.env.HEADWATER_BIN;
    if (!binary) {
      throw new Error(
        "HEADWATER_BIN is not set: run `cargo xtask test --only clients`, or give it the path of the server's binary",
      );
    }
    // Somebody else may take a free port before the server does: then it takes another one.
    for (let attempt = 1; ; attempt++) {
      const server = new Server();
      server.port = port ?? (await freePort());
      server.url = `http://127.0.0.1:${server.port}`;
      const address = `127.0.0.1:${server.port}`;
      server.program = new Program(binary, ["serve", "--listen", address], { env: plainEnvironment() });
      if (await server.program.answers(`${server.url}/health/ready`)) return server;
      if (attempt === 3) throw new Error(`the server ended at once, and printed:\n${server.program.output}`);
    }
  }

  streamUrl(channel) {
    return `${this.url}/sse/stream?channel=${encodeURIComponent(channel)}`;
  }

  /** Publishes one event and returns its id. */
  async publish(channel, data, fields = {}) {
    const query = new URLSearchParams({ channel, ...fields });
    const answer = await fetch(`${this.url}/sse/publish?${query}`, { method: "POST", body: data });
    const text = await answer.text();
    if (answer.status !== 200) throw new Error(`publishing was answered ${answer.status}: ${text}`);
    return JSON.parse(text).id;
  }

  /** Ends the server as an operator would, and says how it ended: 0 is right. */
  stop() {
    return this.program.stop();
  }
}

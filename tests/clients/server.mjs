// The real server, started on a free port for one test file, and stopped by its process id.
//
// Look here when a test cannot start the server. `server.py` is the same for the Python tests.

import { spawn } from "node:child_process";
import { once } from "node:events";
import net from "node:net";

/** Long enough for a busy machine; a healthy server answers within 50 ms. */
const START_LIMIT_MS = 20_000;
/** A little more than the server's drain timeout of 10 s. */
const STOP_LIMIT_MS = 15_000;

/** Waits until `condition()` returns a truthy value, and returns it. `what` may be a function. */
export async function until(what, condition, limitMs = 20_000) {
  const deadline = Date.now() + limitMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) {
      const text = typeof what === "function" ? what() : what;
      throw new Error(`timed out after ${limitMs} ms: ${text}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** A port that was free when it was checked. */
export async function freePort() {
  const listener = net.createServer().listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address();
  listener.close();
  await once(listener, "close");
  return port;
}

/** A child process and its output. */
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

  /** Waits until `url` responds with 200. False if the program exited; stops one that hangs. */
  async answers(url) {
    const ready = async () => {
      try {
        const response = await fetch(url);
        await response.arrayBuffer();
        return response.ok;
      } catch {
        return false;
      }
    };
    const what = () => `${url} of ${this.name}; its output:\n${this.output}`;
    try {
      await until(what, async () => !this.running || (await ready()), START_LIMIT_MS);
    } catch (error) {
      await this.stop();
      throw error;
    }
    return this.running;
  }

  /** Sends SIGTERM, and returns the exit code. */
  async stop() {
    this.child.kill("SIGTERM");
    const limit = setTimeout(() => this.child.kill("SIGKILL"), STOP_LIMIT_MS);
    const end = await this.ended;
    clearTimeout(limit);
    return end;
  }
}

/** The environment without HEADWATER_ variables, which would change the server's settings. */
function plainEnvironment() {
  const isOther = ([name]) => !name.startsWith("HEADWATER_");
  return Object.fromEntries(Object.entries(process.env).filter(isOther));
}

/** A running `headwater serve` with the embedded broker. */
export class Server {
  static async start(port) {
    const binary = process.env.HEADWATER_BIN;
    if (!binary) {
      throw new Error(
        "HEADWATER_BIN is not set: run `cargo xtask test --only clients`, " +
          "or set it to the path of the server's binary",
      );
    }
    // Another program may take the free port before the server does: try another port then.
    for (let attempt = 1; ; attempt++) {
      const server = new Server();
      server.port = port ?? (await freePort());
      server.url = `http://127.0.0.1:${server.port}`;
      const address = `127.0.0.1:${server.port}`;
      const env = plainEnvironment();
      server.program = new Program(binary, ["serve", "--listen", address], { env });
      if (await server.program.answers(`${server.url}/health/ready`)) return server;
      if (attempt === 3) {
        throw new Error(`the server exited at once; its output:\n${server.program.output}`);
      }
    }
  }

  streamUrl(channel) {
    return `${this.url}/sse/stream?channel=${encodeURIComponent(channel)}`;
  }

  /** Publishes an event and returns its id. */
  async publish(channel, data, fields = {}) {
    const query = new URLSearchParams({ channel, ...fields });
    const answer = await fetch(`${this.url}/sse/publish?${query}`, { method: "POST", body: data });
    const text = await answer.text();
    if (answer.status !== 200) throw new Error(`publishing failed with ${answer.status}: ${text}`);
    return JSON.parse(text).id;
  }

  /** Stops the server with SIGTERM, and returns the exit code, which should be 0. */
  stop() {
    return this.program.stop();
  }
}

// Starts and stops the server under test. Look here when a test cannot reach the server.

import { spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { createServer } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';

const START_DEADLINE_MS = 15_000;
const STOP_DEADLINE_MS = 15_000;
const POLL_MS = 25;

/** A running server. `stop` and `start` use the same port, as a restart does. */
export class Server {
  #child = null;
  #log = '';
  #flags;

  /** @param {number} port @param {string[]} flags of `headwater serve` */
  constructor(port, flags) {
    this.port = port;
    this.#flags = flags;
    this.origin = `http://127.0.0.1:${port}`;
    this.page = `${this.origin}/sse/demo`;
  }

  /** Starts a server on a free port. */
  static async start(...flags) {
    const server = new Server(await freePort(), flags);
    await server.start();
    return server;
  }

  async start() {
    const child = spawn(binary(), ['serve', '--listen', `127.0.0.1:${this.port}`, ...this.#flags], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child = child;
    const note = (text) => {
      this.#log = `${this.#log}${text}`.slice(-4_000);
    };
    child.stdout.on('data', note);
    child.stderr.on('data', note);
    child.on('error', note);
    const deadline = Date.now() + START_DEADLINE_MS;
    while (!(await this.#ready())) {
      const exited =
        child.exitCode !== null || child.signalCode !== null || child.pid === undefined;
      if (exited || Date.now() > deadline) {
        child.kill('SIGKILL');
        const why = exited ? 'exited' : 'was not ready in time';
        throw new Error(`the server ${why}; its output:\n${this.#log}`);
      }
      await pause(POLL_MS);
    }
  }

  /** Stops the server with SIGTERM, as an operator does. */
  async stop() {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const exited = new Promise((resolve) => child.once('exit', () => resolve(true)));
    child.kill('SIGTERM');
    const deadline = pause(STOP_DEADLINE_MS, false, { ref: false });
    if (await Promise.race([exited, deadline])) return;
    child.kill('SIGKILL');
    throw new Error(
      `the server did not exit within ${STOP_DEADLINE_MS} ms of SIGTERM; its output:\n${this.#log}`,
    );
  }

  /**
   * Publishes an event over HTTP.
   * @param {string} channel
   * @param {string} data
   * @param {{event?: string, id?: string, end?: string}} [options]
   */
  publish(channel, data, options = {}) {
    const query = new URLSearchParams({ channel, ...options });
    return fetch(`${this.origin}/sse/publish?${query}`, { method: 'POST', body: data });
  }

  async #ready() {
    try {
      return (await fetch(`${this.origin}/health/ready`)).status === 200;
    } catch {
      return false;
    }
  }
}

function binary() {
  const path = process.env.HEADWATER_BIN;
  if (!path) {
    throw new Error(
      'HEADWATER_BIN is not set: run cargo build --release, then use target/release/headwater',
    );
  }
  return usable(path, `HEADWATER_BIN=${path} is not executable: build the server first`);
}

/** The path of Chromium. */
export function chromiumPath() {
  const path = process.env.CHROMIUM ?? '/usr/bin/chromium';
  const advice = 'install the package chromium, or set CHROMIUM to its path';
  return usable(path, `no Chromium at ${path}: ${advice}`);
}

function usable(path, otherwise) {
  try {
    accessSync(path, constants.X_OK);
    return path;
  } catch {
    throw new Error(otherwise);
  }
}

function freePort() {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}

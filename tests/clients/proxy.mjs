// A byte proxy that records every request: shows what a client sends when it reconnects.
//
// It changes and delays nothing, so the client talks to the real server.

import { once } from "node:events";
import net from "node:net";

export class RecordingProxy {
  /** Requests in order of arrival: `{ path, lastEventId, answered }`. */
  requests = [];
  #sockets = new Set();

  static async start(targetPort) {
    const proxy = new RecordingProxy();
    proxy.listener = net.createServer((client) => proxy.#connect(client, targetPort));
    proxy.listener.listen(0, "127.0.0.1");
    await once(proxy.listener, "listening");
    proxy.port = proxy.listener.address().port;
    return proxy;
  }

  /** Requests for a stream of a channel that the server has answered. */
  streams(channel) {
    const isStream = ({ path, answered }) => answered && path.endsWith(`channel=${channel}`);
    return this.requests.filter(isStream);
  }

  async stop() {
    this.listener.close();
    for (const socket of this.#sockets) socket.destroy();
    await once(this.listener, "close");
  }

  #connect(client, targetPort) {
    const server = net.connect(targetPort, "127.0.0.1");
    let request;
    let unread = "";
    client.on("data", (bytes) => {
      // GET requests only, so there are no bodies between the heads.
      const heads = (unread + bytes.toString("latin1")).split("\r\n\r\n");
      unread = heads.pop();
      for (const head of heads) {
        request = parseHead(head);
        this.requests.push(request);
      }
    });
    server.on("data", () => {
      if (request) request.answered = true;
    });
    for (const [from, to] of [[client, server], [server, client]]) {
      this.#sockets.add(from);
      from.pipe(to);
      // A server that is down is a broken connection for the client.
      from.on("error", () => to.destroy());
      from.on("close", () => this.#sockets.delete(from));
    }
  }
}

function parseHead(head) {
  const [requestLine, ...fields] = head.split("\r\n");
  const headers = Object.fromEntries(
    fields.map((field) => {
      const colon = field.indexOf(":");
      return [field.slice(0, colon).toLowerCase(), field.slice(colon + 1).trim()];
    }),
  );
  const path = requestLine.split(" ")[1];
  return { path, lastEventId: headers["last-event-id"], answered: false };
}

// A ticket per stream: the backend requests it, and the page never sees a token.
//
// Run by `cargo xtask test --only access`; needs only Node. GET /ticket?user=ann&channel=news
// responds with a ticket, which a page requests before `new EventSource(...&ticket=...)`.

import { createHmac } from "node:crypto";
import { createServer } from "node:http";

const [port, hub] = process.argv.slice(2);
const secret = process.env.HEADWATER_JWT_SECRET;

function sign(claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

async function ticket(user, channel) {
  const claims = {
    sub: user,
    exp: Date.now() / 1000 + 3600,
    headwater: { subscribe: ["news", `user:${user}:*`] },
  };
  const query = new URLSearchParams({ channel });
  const headers = { authorization: `Bearer ${sign(claims)}` };
  return fetch(`${hub}/sse/ticket?${query}`, { method: "POST", headers });
}

createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, "http://localhost");
  // A real application knows the user from its session.
  const user = searchParams.get("user");
  if (pathname !== "/ticket" || !user) {
    response.writeHead(404).end();
    return;
  }
  const answer = await ticket(user, searchParams.get("channel") ?? "news");
  const headers = { "content-type": "application/json", "cache-control": "no-store" };
  response.writeHead(answer.status, headers).end(await answer.text());
}).listen(Number(port), "127.0.0.1");

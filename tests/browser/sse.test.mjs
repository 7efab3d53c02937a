// The page's stream reader, without a browser: the decoder against the shared cases, and the stream
// against a small HTTP server that ends, rejects and accepts streams.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { test } from 'node:test';
import {
  EventStream,
  SseDecoder,
  gapOf,
  reconnectDelay,
} from '../../crates/headwater-server/assets/sse.js';

const VECTORS = new URL('../../crates/headwater/tests/it/sse-vectors.jsonl', import.meta.url);
const DEADLINE_MS = 10_000;

const vectors = readFileSync(VECTORS, 'utf8')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line));

function decode(chunks) {
  const decoder = new SseDecoder();
  const events = chunks.flatMap((chunk) => decoder.push(chunk));
  return { events, retry: decoder.retry, last_event_id: decoder.lastEventId };
}

test('the decoder passes every shared case, in its chunks, in one piece and byte by byte', () => {
  assert.ok(vectors.length >= 75, `only ${vectors.length} cases were read`);
  for (const { id, chunks, events, retry, last_event_id } of vectors) {
    const pieces = chunks.map((chunk) => Buffer.from(chunk, 'base64'));
    const whole = Buffer.concat(pieces);
    const bytes = [...whole].map((byte) => Uint8Array.of(byte));
    const expected = { events, retry, last_event_id };
    assert.deepEqual(decode(pieces), expected, `${id}, in its chunks`);
    assert.deepEqual(decode([whole]), expected, `${id}, in one piece`);
    assert.deepEqual(decode(bytes), expected, `${id}, byte by byte`);
  }
});

test('an id survives a reconnect until another id arrives', () => {
  const decoder = new SseDecoder('7');
  const events = decoder.push(Buffer.from('data: a\n\n'));
  assert.deepEqual(events, [{ type: 'message', data: 'a', id: '7' }]);
  assert.equal(decoder.lastEventId, '7');
});

test('an event without an end is an error, not buffered indefinitely', () => {
  const piece = Buffer.alloc(1 << 20, 'x');
  const endless = (decoder, bytes) => {
    for (let i = 0; i < 20; i += 1) decoder.push(bytes);
  };
  assert.throws(() => endless(new SseDecoder(), piece), RangeError, 'one line');
  const line = Buffer.concat([Buffer.from('data:'), piece, Buffer.from('\n')]);
  assert.throws(() => endless(new SseDecoder(), line), RangeError, 'many lines');
});

test('the wait before a reconnect honours retry, grows, and is bounded', () => {
  assert.equal(reconnectDelay(2_000, 0, 0), 2_000);
  assert.equal(reconnectDelay(2_000, 1, 0), 4_000);
  assert.equal(reconnectDelay(2_000, 0, 1), 2_500);
  assert.equal(reconnectDelay(2_000, 99, 0), 15_000);
  assert.equal(reconnectDelay(60_000, 5, 0), 60_000, 'a longer retry wins over the bound');
  assert.equal(reconnectDelay(0, 0, 0), 100, 'no busy loop');
  assert.equal(reconnectDelay(2 ** 31 - 1, 9, 1), 2 ** 31 - 1, 'never more than a timer holds');
});

test('a gap event names the channel and the reason', () => {
  const data = '{"channel":"news","reason":"trimmed"}';
  const gap = (data) => gapOf({ type: 'headwater-gap', data, id: '' });
  assert.deepEqual(gap(data), { channel: 'news', reason: 'trimmed' });
  assert.deepEqual(gap('null'), { channel: '', reason: 'null' });
  assert.equal(gapOf({ type: 'message', data, id: '' }), null);
});

/** Serves one response after the other to an EventStream, until `until` returns true. */
async function read(t, answers, until) {
  const requests = [];
  const server = createServer((request, response) => {
    requests.push(request.headers);
    answers[Math.min(requests.length, answers.length) - 1](response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const events = [];
  const states = [];
  let stream;
  t.after(() => {
    stream.close();
    server.closeAllConnections();
    server.close();
  });
  await new Promise((resolve, reject) => {
    const fail = () => reject(new Error(`timed out; states: ${JSON.stringify(states)}`));
    const timer = setTimeout(fail, DEADLINE_MS);
    const check = () => {
      if (!until({ events, states, stream, requests })) return;
      clearTimeout(timer);
      resolve();
    };
    stream = new EventStream(`http://127.0.0.1:${server.address().port}/`, {
      onEvent: (event) => {
        events.push(event);
        check();
      },
      onState: (state) => {
        states.push(state.name);
        check();
      },
    });
    stream.open();
  });
  return { requests, events, states, stream };
}

const ok = (body) => (response) => {
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  response.end(body);
};
const status = (code, body = '', type = 'text/plain') => (response) => {
  response.writeHead(code, { 'content-type': type });
  response.end(body);
};
const stopped = ({ stream }) => stream?.state.name === 'stopped';
const finished = ({ stream }) => stream?.state.name === 'finished';

test('a stream that ends is resumed after the last event, and 204 finishes it', async (t) => {
  const first = ok('retry: 1\n\nid: …1\ndata: a\n\nid: 2\ndata: cut');
  const answers = [first, ok('data: b\n\n'), status(204)];
  const { requests, events, states, stream } = await read(t, answers, finished);
  assert.deepEqual(events, [
    { type: 'message', data: 'a', id: '…1' },
    { type: 'message', data: 'b', id: '…1' },
  ]);
  const ids = requests.map((headers) => headers['last-event-id']);
  const utf8 = Buffer.from('…1').toString('latin1');
  assert.deepEqual(ids, [undefined, utf8, utf8]);
  const round = ['connecting', 'open', 'reconnecting'];
  assert.deepEqual(states, [...round, ...round, 'connecting', 'finished']);
  assert.equal(stream.reconnects, 1);
});

test('a stream is retried after 503, 429 and a broken connection', async (t) => {
  const broken = (response) => response.destroy();
  const answers = [ok('retry: 1\n\n'), status(503), status(429), broken, ok('data: back\n\n')];
  const { events, stream } = await read(t, answers, ({ events: seen }) => seen.length > 0);
  assert.equal(events[0].data, 'back');
  assert.equal(stream.reconnects, 1, 'failed attempts are not reconnects');
});

test('a denied stream stops and shows the reason', async (t) => {
  const body = '{"title":"Forbidden","detail":"Ask for a token."}';
  const problem = status(403, body, 'application/problem+json');
  const { stream } = await read(t, [problem], stopped);
  assert.equal(stream.state.reason, 'Ask for a token.');
});

test('a response that is not an event stream stops the stream', async (t) => {
  const { stream } = await read(t, [status(200, 'data: a\n\n', 'text/html')], stopped);
  assert.match(stream.state.reason, /expected text\/event-stream, got text\/html/);
});

test('a closed stream is silent', async (t) => {
  const two = ok('data: a\n\ndata: b\n\n');
  const { events, states, stream } = await read(t, [two], ({ events: seen, stream: opened }) => {
    if (seen.length > 0 && opened.state.name === 'open') opened.close();
    return seen.length > 0;
  });
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(events.length, 1, 'the second event of the same chunk is not delivered');
  assert.equal(states.at(-1), 'closed');
  assert.equal(stream.state.name, 'closed');
});

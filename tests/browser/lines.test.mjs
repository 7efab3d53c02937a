// The copyable command lines and the JSON layout, without a browser. A real shell parses the shell
// lines.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { prettyJson } from '../../crates/headwater-server/assets/pretty-json.js';
import {
  curlSubscribe,
  curlPublish,
  eventSource,
  jsQuote,
  redisPublish,
  shellQuote,
} from '../../crates/headwater-server/assets/snippets.js';

const BASE = new URL('https://example.org/prefix/sse/demo');
const NASTY = [
  "it's", "'", "''", '"', '$HOME `id` $(id) \\ !', 'two\nlines', '', '@file', '-x', '*', '~',
  'a&b;c|d#e', '\u2028 ü 豆腐', '{a,b}',
];

/** The words that a shell parses from a line. Shell functions replace the programs. */
function words(line) {
  const stub = (name) => `${name}() { printf '%s\\0' ${name} "$@"; }`;
  const script = `${stub('curl')}; ${stub('redis-cli')}\n${line}`;
  return execFileSync('bash', ['-c', script], { encoding: 'utf8' }).split('\0').slice(0, -1);
}

test('quoted text is one word to a shell, unchanged', () => {
  for (const text of NASTY) {
    const script = `printf %s ${shellQuote(text)}`;
    assert.equal(execFileSync('sh', ['-c', script], { encoding: 'utf8' }), text);
  }
});

test('the shell lines carry data, channel, name and id as typed', () => {
  for (const text of NASTY) {
    const draft = { channel: `c ${text}`, data: text, name: text, id: text };
    const [program, flag, data, address, ...rest] = words(curlPublish(BASE, draft));
    assert.deepEqual([program, flag, data, rest], ['curl', '--data-raw', text, []]);
    const url = new URL(address);
    assert.equal(url.origin + url.pathname, 'https://example.org/prefix/sse/publish');
    assert.equal(url.searchParams.get('channel'), `c ${text}`);
    assert.equal(url.searchParams.get('end'), null);
    assert.match(curlPublish(BASE, { ...draft, end: true }), /&end=1'?$/);
    assert.equal(url.searchParams.get('event') ?? '', text);
    assert.equal(url.searchParams.get('id') ?? '', text);
    assert.deepEqual(words(redisPublish(draft)), ['redis-cli', 'PUBLISH', `c ${text}`, text]);
  }
});

test('the subscribing lines name every channel', () => {
  const channels = ["o'clock", 'a&b', 'ü'];
  const [program, flag, address] = words(curlSubscribe(BASE, channels));
  assert.deepEqual([program, flag], ['curl', '-N']);
  assert.deepEqual(new URL(address).searchParams.getAll('channel'), channels);
});

test('the JavaScript runs, and has a listener for every name', () => {
  const names = ['"\\', '</script>', '\u2028', "o'clock"];
  const code = eventSource(BASE, ['a b', "c'd"], [...names, 'message']);
  assert.ok(!code.includes('</'), 'it is safe in a script element');
  const made = [];
  class EventSource {
    constructor(url) {
      made.push(new URL(url).searchParams.getAll('channel'));
    }
    addEventListener(name) {
      made.push(name);
    }
  }
  new Function('EventSource', code)(EventSource);
  assert.deepEqual(made, [['a b', "c'd"], 'message', ...names]);
  assert.equal(JSON.parse(jsQuote('</a>')), '</a>');
});

test('JSON is formatted without changing a token', () => {
  const check = (input, expected) => assert.equal(prettyJson(input), expected, input);
  check(
    '{"a":1,"a":[true,null],"s":"x, {y}: \\"z\\" \\\\"}',
    '{\n  "a": 1,\n  "a": [\n    true,\n    null\n  ],\n  "s": "x, {y}: \\"z\\" \\\\"\n}',
  );
  check('[12345678901234567890, 1.10, 1e400]', '[\n  12345678901234567890,\n  1.10,\n  1e400\n]');
  check(' [ ] ', '[]');
  check('{"a":{},"b":[[]]}', '{\n  "a": {},\n  "b": [\n    []\n  ]\n}');
  const large = `[${'1,'.repeat(20_000)}1]`;
  // However it is nested, the layout is bounded.
  const nested = (depth, inside) => '['.repeat(depth) + inside + ']'.repeat(depth);
  for (const text of [nested(10_000, ''), nested(5_000, '1'), nested(90, '1,'.repeat(9_000) + '1')]) {
    assert.ok((prettyJson(text) ?? '').length < 250_000, text.slice(0, 20));
  }
  check(nested(3, '1'), '[\n  [\n    [\n      1\n    ]\n  ]\n]');
  for (const plain of ['', 'hello', '"text"', '12', '{bad}', '[1,]', large]) check(plain, null);
});

// The demo page in Chromium against the real server. Needs HEADWATER_BIN, and CHROMIUM if it is not
// at /usr/bin/chromium. Every wait is for a condition, with a deadline.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';
import { Server, chromiumPath } from './server.mjs';

const DEADLINE_MS = 20_000;
const FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
const DESK = { viewport: { width: 1360, height: 850 } };
const PHONE = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };

let browser;
let server;

before(async () => {
  browser = await chromium.launch({ executablePath: chromiumPath(), args: FLAGS });
  server = await Server.start();
});

after(async () => {
  await browser?.close();
  await server?.stop();
});

/** A new browser window, closed when the test ends. */
async function newWindow(t, options = DESK) {
  const context = await browser.newContext(options);
  t.after(() => context.close());
  context.setDefaultTimeout(DEADLINE_MS);
  return context;
}

/** Opens the page with the test's channels, and waits until all of them are open. */
async function openPage(context, channels, { at = server.page, prepare = async () => {} } = {}) {
  const page = await context.newPage();
  page.problems = [];
  page.logged = [];
  page.on('pageerror', (error) => page.problems.push(String(error)));
  page.on('console', (message) => {
    const isProblem = ['error', 'warning'].includes(message.type());
    (isProblem ? page.problems : page.logged).push(message.text());
  });
  await page.addInitScript(() => {
    addEventListener('securitypolicyviolation', (event) => {
      console.error(`CSP: ${event.violatedDirective} ${event.blockedURI}`);
    });
  });
  await prepare(page);
  await page.goto(`${at}?${new URLSearchParams(channels.map((name) => ['channel', name]))}`);
  await state(page, 'open');
  return page;
}

/** Waits for the connection's state as the page shows it. */
function state(page, name) {
  return page.locator(`html[data-state="${name}"]`).waitFor({ state: 'attached' });
}

/** The row of the event with this data, once it is shown. */
async function row(page, data) {
  const has = page.locator('.event-data', { hasText: data });
  const found = page.locator('.event').filter({ has });
  await found.first().waitFor();
  assert.equal(await found.count(), 1, `one row with ${data}`);
  return found;
}

const text = (scope, selector) => scope.locator(selector).textContent();

async function published(response) {
  assert.equal(response.status, 200, await response.clone().text());
}

test('an event published on the page arrives on the page and in the console', async (t) => {
  const page = await openPage(await newWindow(t), ['own']);
  await page.fill('#publish-data', 'from the spring');
  await page.click('#publish-button');
  const event = await row(page, 'from the spring');
  assert.equal(await text(event, '.event-channel'), 'own');
  assert.ok(await event.locator('.event-name').isHidden(), 'the default name is not shown');
  assert.match(await text(event, '.event-time'), /^\d\d:\d\d:\d\d\.\d{3}$/);
  await page.locator('#publish-result[data-state="done"]').waitFor();
  const id = await text(event, '.event-id');
  assert.match(id, /^[0-9a-f]+-\d+$/, "an event without a publisher's id has its position");
  assert.equal(await text(page, '#publish-result'), `Published to own with ID ${id}.`);
  assert.equal(await text(page, '#event-count'), '1 event');
  const isLogged = (line) => /^\[headwater\] own message.*from the spring$/s.test(line);
  assert.ok(page.logged.some(isLogged), page.logged.join('\n'));
  assert.match(await text(page, '#server'), /^\d+\.\d+\.\d+\S* · embedded broker$/);
  assert.match(await text(page, '#redis-note'), /without --redis/);
  assert.ok(await page.locator('#copy-redis').isDisabled());
  assert.deepEqual(page.problems, []);
});

test('the page is served with a strict content security policy', async () => {
  const policy = (await fetch(server.page)).headers.get('content-security-policy') ?? '';
  assert.match(policy, /default-src 'none'/);
  assert.match(policy, /script-src 'self'(;|$)/);
  assert.doesNotMatch(policy, /unsafe/);
});

test('two tabs both receive an event published over HTTP', async (t) => {
  const context = await newWindow(t);
  const tabs = [await openPage(context, ['tabs']), await openPage(context, ['tabs'])];
  await published(await server.publish('tabs', 'for both'));
  for (const tab of tabs) await row(tab, 'for both');
});

test('a named event is shown with its name, id and channel', async (t) => {
  const page = await openPage(await newWindow(t), ['left', 'right']);
  const options = { event: 'deploy.done', id: 'build-7' };
  await published(await server.publish('right', 'with a name', options));
  const event = await row(page, 'with a name');
  assert.equal(await text(event, '.event-channel'), 'right');
  assert.equal(await text(event, '.event-name'), 'deploy.done');
  assert.equal(await text(event, '.event-id'), 'build-7');
  const script = await text(page, '#line-script');
  assert.match(script, /"deploy\.done"/, 'the JavaScript line has a listener for the name');
});

test('markup in an event stays text', async (t) => {
  const page = await openPage(await newWindow(t), ['markup']);
  const markup = '<img src=x onerror="document.title=\'owned\'"><b>bold</b>';
  await published(await server.publish('markup', markup, { event: '<i>name</i>' }));
  const event = await row(page, markup);
  assert.equal(await text(event, '.event-name'), '<i>name</i>');
  assert.equal(await page.locator('#events img, #events b, #events i').count(), 0);
  assert.equal(await page.title(), 'Headwater');
  assert.deepEqual(page.problems, []);
});

test('JSON is formatted on request, exactly', async (t) => {
  const page = await openPage(await newWindow(t), ['json']);
  const sent = '{"seq":12345678901234567890,"ok":true}';
  await published(await server.publish('json', sent));
  const data = page.locator('.event-data');
  await data.waitFor();
  assert.equal(await data.textContent(), '{\n  "seq": 12345678901234567890,\n  "ok": true\n}');
  await page.uncheck('#pretty');
  assert.equal(await data.textContent(), sent);
});

test('the page reconnects after a restart of the server', async (t) => {
  const own = await Server.start();
  t.after(() => own.stop());
  const page = await openPage(await newWindow(t), ['restart'], { at: own.page });
  await published(await own.publish('restart', 'before'));
  await row(page, 'before');
  assert.ok(await page.locator('#reconnects').isHidden(), 'there were none');
  await own.stop();
  await state(page, 'reconnecting');
  await page.locator('#status-text', { hasText: /^Reconnecting in \d+ s$/ }).waitFor();
  await page.locator('#reconnect-now').waitFor();
  await own.start();
  await state(page, 'open');
  assert.match(await text(page, '#reconnects'), /^[1-9]\d* reconnects?$/);
  assert.ok(await page.locator('#reconnect-now').isHidden());
  const gap = page.locator('.event.is-gap');
  await gap.waitFor();
  const expected = /missing on restart, because the log was reset/;
  assert.match(await text(gap, '.event-gap'), expected);
  await published(await own.publish('restart', 'afterwards'));
  await row(page, 'afterwards');
});

test('with a data directory the page resumes after a restart and misses nothing', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'headwater-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const own = await Server.start('--data', join(directory, 'log'));
  t.after(() => own.stop());
  const page = await openPage(await newWindow(t), ['stored'], { at: own.page });
  await published(await own.publish('stored', 'before'));
  await row(page, 'before');
  await own.stop();
  await state(page, 'reconnecting');
  const away = (route) => route.abort();
  await page.route('**/sse/stream**', away);
  await own.start();
  await published(await own.publish('stored', 'missed'));
  await page.unroute('**/sse/stream**', away);
  await row(page, 'missed');
  await row(page, 'before');
  await published(await own.publish('stored', 'afterwards'));
  await row(page, 'afterwards');
  assert.equal(await page.locator('.event.is-gap').count(), 0);
});

test('the page has no connection in the back/forward cache, and resumes after it', async (t) => {
  const page = await openPage(await newWindow(t), ['cache']);
  await published(await server.publish('cache', 'seen', { id: 'seen-1' }));
  await row(page, 'seen');
  const [ended] = await Promise.all([
    page.waitForEvent('requestfailed', (request) => request.url().includes('/sse/stream')),
    page.evaluate(() => dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))),
  ]);
  assert.match(ended.failure().errorText, /ABORTED/);
  await state(page, 'closed');
  await published(await server.publish('cache', 'missed'));
  const [again] = await Promise.all([
    page.waitForRequest('**/sse/stream**'),
    page.evaluate(() => dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))),
  ]);
  assert.equal((await again.allHeaders())['last-event-id'], 'seen-1');
  await row(page, 'missed');
  await state(page, 'open');
  await published(await server.publish('cache', 'afterwards'));
  await row(page, 'afterwards');
  await row(page, 'missed');
});

test('a channel is added with events published before', async (t) => {
  for (const data of ['first', 'second']) await published(await server.publish('earlier', data));
  const page = await openPage(await newWindow(t), ['now']);
  await page.selectOption('#channel-rewind', 'all');
  await page.fill('#channel-name', 'earlier');
  await page.press('#channel-name', 'Enter');
  await row(page, 'first');
  await row(page, 'second');
  const shown = await page.locator('.event-data').allTextContents();
  assert.deepEqual(shown, ['second', 'first'], 'the newest is on top');
});

test('the last event ends its channel, which is not an error', async (t) => {
  const page = await openPage(await newWindow(t), ['ending']);
  await page.fill('#publish-data', 'the last one');
  await page.check('#publish-end');
  await page.click('#publish-button');
  await row(page, 'the last one');
  await state(page, 'finished');
  assert.equal(await text(page, '#status-text'), 'Channel ended');
  assert.ok(await page.locator('#reconnect-now').isHidden());
  assert.match(await text(page, '#publish-result'), /The channel has ended\.$/);
  assert.ok(!(await page.isChecked('#publish-end')));
  await page.click('#publish-button');
  await page.locator('#publish-result[data-state="error"]').waitFor();
  assert.match(await text(page, '#publish-result'), /was ended by its publisher/);
});

/** Serves these bytes to the first stream, and passes later ones to the server. */
function canned(body) {
  const serve = (route) => route.fulfill({ contentType: 'text/event-stream', body });
  return (page) => page.route('**/sse/stream**', serve, { times: 1 });
}

test('a gap is shown as a gap', async (t) => {
  const gap = 'retry: 1\n\nevent: headwater-gap\ndata: {"channel":"gap","reason":"trimmed"}\n\n';
  const page = await openPage(await newWindow(t), ['gap'], { prepare: canned(gap) });
  const shown = page.locator('.event.is-gap');
  await shown.waitFor();
  const expected = /events are missing on gap, because they are no longer retained/;
  assert.match(await text(shown, '.event-gap'), expected);
});

test('a flood is bounded: the newest 500 stay, the rest are counted', async (t) => {
  const events = Array.from({ length: 3_000 }, (_, i) => `data: drop ${i}.\n\n`).join('');
  const prepare = canned(`retry: 1\n\n${events}`);
  const page = await openPage(await newWindow(t), ['flood'], { prepare });
  await page.locator('#event-count', { hasText: '3,000 events, newest 500 shown' }).waitFor();
  assert.equal(await page.locator('.event').count(), 500);
  assert.equal(await text(page.locator('.event').first(), '.event-data'), 'drop 2999.');
});

test('pause holds events back, resume shows them, clear removes them', async (t) => {
  const page = await openPage(await newWindow(t), ['pause']);
  await page.click('#pause');
  await published(await server.publish('pause', 'held back'));
  await page.locator('#pause', { hasText: 'Resume (1 waiting)' }).waitFor();
  assert.equal(await page.locator('.event').count(), 0);
  await page.click('#pause');
  await row(page, 'held back');
  await page.click('#clear');
  assert.equal(await page.locator('.event').count(), 0);
  assert.equal(await text(page, '#event-count'), '0 events');
});

test('channels are added and removed, stored in the URL, and limited', async (t) => {
  const page = await openPage(await newWindow(t), ['one']);
  const add = async (name) => {
    await page.fill('#channel-name', name);
    await page.press('#channel-name', 'Enter');
  };
  const listed = () => page.locator('.channel-name').allTextContents();
  const address = () => new URL(page.url()).searchParams.getAll('channel');
  for (const name of ['two & more', 'three', 'four']) await add(name);
  await page.locator('.channel[data-state="open"]').nth(3).waitFor();
  assert.deepEqual(address(), ['one', 'two & more', 'three', 'four']);
  await add('five');
  const note = /Not subscribed to five: this page is limited to 4 channels/;
  assert.match(await text(page, '#channel-note'), note);
  assert.deepEqual(await listed(), ['one', 'two & more', 'three', 'four']);
  await page.fill('#publish-data', 'a connection is left for publishing');
  await page.click('#publish-button');
  await row(page, 'a connection is left for publishing');

  await page.getByRole('button', { name: 'Unsubscribe from three' }).click();
  assert.deepEqual(address(), ['one', 'two & more', 'four']);
  assert.equal(await text(page, '#channel-note'), '');
  await published(await server.publish('three', 'not subscribed'));
  await published(await server.publish('two & more', 'to the second'));
  assert.equal(await text(await row(page, 'to the second'), '.event-channel'), 'two & more');
  assert.equal(await page.locator('.event', { hasText: 'not subscribed' }).count(), 0);
  await page.reload();
  await state(page, 'open');
  assert.deepEqual(await listed(), ['one', 'two & more', 'four']);
});

test('the copied lines do what the page does, with any quoting', async (t) => {
  const permissions = ['clipboard-read', 'clipboard-write'];
  const context = await newWindow(t, { ...DESK, permissions });
  const page = await openPage(context, ["o'clock"]);
  const data = 'it\'s "quoted" $HOME `id` \\ !\nsecond line';
  await page.fill('#publish-data', data);
  await page.fill('#publish-name', "it's");
  const copied = async (label) => {
    const button = page.getByRole('button', { name: `Copy: ${label}` });
    await button.click();
    await page.locator('[data-copy]', { hasText: 'Copied' }).first().waitFor();
    return page.evaluate(() => navigator.clipboard.readText());
  };
  const curl = (line) => {
    const script = `curl() { printf '%s\\0' "$@"; }\n${line}`;
    return execFileSync('bash', ['-c', script], { encoding: 'utf8' }).split('\0').slice(0, -1);
  };

  const [flag, body, address] = curl(await copied('publish with curl'));
  assert.deepEqual([flag, body], ['--data-raw', data]);
  await published(await fetch(address, { method: 'POST', body }));
  const event = await row(page, 'second line');
  assert.equal(await text(event, '.event-data'), data);
  assert.equal(await text(event, '.event-name'), "it's");

  const [buffering, stream] = curl(await copied('subscribe with curl'));
  assert.equal(buffering, '-N');
  const made = [];
  class EventSource {
    constructor(url) {
      made.push(url);
    }
    addEventListener(name) {
      made.push(name);
    }
  }
  new Function('EventSource', await copied('subscribe in JavaScript'))(EventSource);
  assert.deepEqual(made, [stream, 'message', "it's"]);
  assert.equal(stream, `${server.origin}/sse/stream?channel=o%27clock`);
  const quoted = data.replaceAll("'", "'\\''");
  assert.equal(await text(page, '#line-redis'), `redis-cli PUBLISH 'o'\\''clock' '${quoted}'`);
});

test('the page works with the keyboard alone', async (t) => {
  const page = await openPage(await newWindow(t), ['keys']);
  const focused = () => page.evaluate(() => document.activeElement.id);
  for (let presses = 0; (await focused()) !== 'publish-data'; presses += 1) {
    assert.ok(presses < 20, 'the data field is not reached with Tab');
    await page.keyboard.press('Tab');
  }
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.equal(outline, 'solid', 'focus is visible');
  await page.keyboard.press('Control+A');
  await page.keyboard.type('typed, not clicked');
  await page.keyboard.press('Control+Enter');
  await row(page, 'typed, not clicked');
});

test('a phone shows everything without scrolling sideways', async (t) => {
  const page = await openPage(await newWindow(t, PHONE), ['phone', `long-${'x'.repeat(200)}`]);
  const options = { event: 'n'.repeat(200), id: 'i'.repeat(60) };
  await published(await server.publish('phone', `unbroken ${'y'.repeat(600)}`, options));
  const event = await row(page, 'unbroken');
  await event.scrollIntoViewIfNeeded();
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(width <= 390, `the page is ${width} px wide`);
  const selector =
    'button, .channel, .scroll, .event-data, .line pre, .note, input, textarea';
  const overflowing = await page.evaluate((all) =>
    [...document.querySelectorAll(all)]
      .filter((node) => {
        const typed = node.matches('input, textarea'); // these scroll their own text
        const tooWide = !typed && node.scrollWidth > node.clientWidth + 1;
        return tooWide || node.getBoundingClientRect().right > innerWidth + 1;
      })
      .map((node) => node.id || node.className),
    selector,
  );
  assert.deepEqual(overflowing, []);
});

test('dark and light mode differ, and text is readable in both', async (t) => {
  const colours = {};
  for (const colorScheme of ['light', 'dark']) {
    const page = await openPage(await newWindow(t, { ...DESK, colorScheme }), ['colours']);
    colours[colorScheme] = await page.evaluate(() => {
      const style = getComputedStyle(document.documentElement);
      return { ground: style.backgroundColor, ink: style.color };
    });
  }
  const brightness = (colour) =>
    colour.match(/\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 3;
  const { light, dark } = colours;
  const isLight = brightness(light.ground) > 200 && brightness(light.ink) < 80;
  const isDark = brightness(dark.ground) < 60 && brightness(dark.ink) > 180;
  assert.ok(isLight && isDark, JSON.stringify(colours));
});

test('a rejected publish shows the message of the server', async (t) => {
  const page = await openPage(await newWindow(t), ['rejected']);
  const name = 'x'.repeat(300);
  const response = await server.publish('rejected', 'data', { event: name });
  assert.equal(Math.floor(response.status / 100), 4);
  assert.match(response.headers.get('content-type'), /^application\/problem\+json/);
  const { detail } = await response.json();
  assert.ok(detail, 'the problem has a detail');
  await page.fill('#publish-name', name);
  await page.click('#publish-button');
  await page.locator('#publish-result[data-state="error"]').waitFor();
  const sentence = `${detail[0].toUpperCase()}${detail.slice(1)}`;
  assert.ok((await text(page, '#publish-result')).startsWith(sentence));
});

test('a plain EventSource in the page receives an event', async (t) => {
  const page = await openPage(await newWindow(t), ['shown']);
  await page.evaluate(
    () =>
      new Promise((resolve, reject) => {
        const source = new EventSource(new URL('stream?channel=plain', location.href));
        window.received = new Promise((received) => {
          source.addEventListener('tick', (event) => received([event.type, event.data]));
        });
        source.onopen = () => resolve();
        source.onerror = () => reject(new Error('EventSource failed'));
      }),
  );
  await published(await server.publish('plain', 'hello', { event: 'tick' }));
  assert.deepEqual(await page.evaluate(() => window.received), ['tick', 'hello']);
  assert.deepEqual(page.problems, []);
});

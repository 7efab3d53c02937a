// The lines to copy: what is on the screen, for a shell or for another page. Look here when a
// copied line does not do what the page does.

/**
 * Quotes for any POSIX shell: within single quotes, only the single quote is special.
 * @param {string} text
 */
export function shellQuote(text) {
  if (/^[A-Za-z0-9_./:=@%+,-]+$/.test(text)) return text;
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** A JavaScript string literal that is also safe inside a script element. @param {string} text */
export function jsQuote(text) {
  const escape = (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`;
  return JSON.stringify(text).replace(/[<\u2028\u2029]/g, escape);
}

/** @param {URL} base the page's address @param {string[]} channels @param {string} [rewind] */
export function streamUrl(base, channels, rewind = '') {
  const url = new URL('stream', base);
  const query = new URLSearchParams(channels.map((channel) => ['channel', channel]));
  if (rewind) query.set('rewind', rewind);
  url.search = query.toString();
  return url;
}

/** @param {URL} base the page's address @param {Draft} draft */
export function publishUrl(base, { channel, name, id, end }) {
  const url = new URL('publish', base);
  const query = new URLSearchParams({ channel });
  if (name) query.set('event', name);
  if (id) query.set('id', id);
  if (end) query.set('end', '1');
  url.search = query.toString();
  return url;
}

/**
 * The content of the publish form; an empty name or ID means none.
 * @typedef {{channel: string, data: string, name: string, id: string, end: boolean}} Draft
 */

/** @param {URL} base @param {string[]} channels */
export function curlSubscribe(base, channels) {
  return `curl -N ${shellQuote(streamUrl(base, channels).href)}`;
}

/**
 * `--data-raw`, because `-d` reads a file when the data starts with `@`.
 * @param {URL} base
 * @param {Draft} draft
 */
export function curlPublish(base, draft) {
  return `curl --data-raw ${shellQuote(draft.data)} ${shellQuote(publishUrl(base, draft).href)}`;
}

/** @param {Draft} draft */
export function redisPublish({ channel, data }) {
  return `redis-cli PUBLISH ${shellQuote(channel)} ${shellQuote(data)}`;
}

/**
 * @param {URL} base
 * @param {string[]} channels
 * @param {string[]} names  event names received so far: EventSource needs a listener for each
 */
export function eventSource(base, channels, names) {
  const listeners = ['message', ...names.filter((name) => name !== 'message')].map(
    (name) =>
      `events.addEventListener(${jsQuote(name)}, ` +
      '(event) => console.log(event.type, event.data));',
  );
  const first = `const events = new EventSource(${jsQuote(streamUrl(base, channels).href)});`;
  return [first, ...listeners].join('\n');
}

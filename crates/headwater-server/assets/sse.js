// Reads Server-Sent Events over fetch(): the decoder, and a stream that reconnects automatically.
// Look here when an event is parsed wrongly, or a stream reconnects at the wrong moment.
//
// Why not EventSource: it passes a named event only to listeners for that name, so a page that
// shows every event cannot be written with it. Most pages know their event names; they should use
// EventSource, which needs no library.

import { explain } from './problem.js';

/** Wait before the first reconnect until the server sends `retry:`. The value that browsers use. */
const RETRY_DEFAULT_MS = 3_000;
/** `retry: 0` must not become a busy loop against a server that closes every stream at once. */
const RETRY_MIN_MS = 100;
/** Failed attempts double the wait up to this, unless `retry:` itself is longer. */
const BACKOFF_MAX_MS = 15_000;
/** setTimeout fires at once above this (it keeps the milliseconds in 32 bits). */
const TIMER_MAX_MS = 2 ** 31 - 1;
/** Characters in one event, so that a stream that never ends a line cannot fill the memory. */
const EVENT_MAX_CHARS = 16 * 1024 * 1024;

/** The event that reports missing events, which are no longer available. */
export const GAP_EVENT = 'headwater-gap';

/**
 * @typedef {object} SseEvent
 * @property {string} type  the event's name, `message` if it has none
 * @property {string} data
 * @property {string} id    the last event id after this event
 */

/** Bytes in, events out: the parsing rules of the HTML standard, without I/O. */
export class SseDecoder {
  /** The position to resume from: the id of the last block that was complete. */
  lastEventId;
  /** Milliseconds of the last valid `retry:` field, or null. */
  retry = null;

  #utf8 = new TextDecoder(); // removes one leading BOM, makes U+FFFD of bad bytes
  #line = ''; // the start of a line whose end has not arrived
  #afterCr = false; // the last chunk ended with CR: an LF that comes next belongs to it
  #idBuffer;
  #type = '';
  #data = [];
  #chars = 0;

  /** @param {string} lastEventId the id survives a reconnect: events without one keep it */
  constructor(lastEventId = '') {
    this.lastEventId = lastEventId;
    this.#idBuffer = lastEventId;
  }

  /**
   * @param {Uint8Array} bytes
   * @returns {SseEvent[]} the events that are complete with these bytes
   * @throws {RangeError} when an event exceeds the bound
   */
  push(bytes) {
    let text = this.#utf8.decode(bytes, { stream: true });
    if (text === '') return [];
    if (this.#afterCr && text.startsWith('\n')) text = text.slice(1);
    this.#afterCr = text === '' ? false : text.endsWith('\r');

    const events = [];
    let start = 0;
    for (const end of text.matchAll(/\r\n|\r|\n/g)) {
      const line = this.#line + text.slice(start, end.index);
      this.#line = '';
      start = end.index + end[0].length;
      const event = line === '' ? this.#dispatch() : this.#field(line);
      if (event) events.push(event);
    }
    this.#line += text.slice(start);
    if (this.#line.length + this.#chars > EVENT_MAX_CHARS) {
      throw new RangeError(`an event is larger than ${EVENT_MAX_CHARS} characters`);
    }
    return events;
  }

  #field(line) {
    const colon = line.indexOf(':');
    if (colon === 0) return; // a comment
    const name = colon < 0 ? line : line.slice(0, colon);
    const skip = line[colon + 1] === ' ' ? 2 : 1; // exactly one space is removed
    const value = colon < 0 ? '' : line.slice(colon + skip);
    if (name === 'data') {
      this.#data.push(value);
      this.#chars += value.length;
    } else if (name === 'event') {
      this.#type = value;
    } else if (name === 'id') {
      if (!value.includes('\0')) this.#idBuffer = value;
    } else if (name === 'retry') {
      if (/^[0-9]+$/.test(value)) this.retry = Math.min(Number(value), TIMER_MAX_MS);
    }
  }

  #dispatch() {
    this.lastEventId = this.#idBuffer; // also without data: such a block moves the position
    const type = this.#type || 'message';
    const event = { type, data: this.#data.join('\n'), id: this.lastEventId };
    const empty = this.#data.length === 0;
    this.#type = '';
    this.#data = [];
    this.#chars = 0;
    return empty ? undefined : event;
  }
}

/**
 * What a stream is doing. `at` is the time of the next attempt in milliseconds since the epoch.
 * @typedef {{name: 'closed'} | {name: 'connecting'} | {name: 'open'}
 *   | {name: 'finished'}
 *   | {name: 'reconnecting', at: number, reason: string}
 *   | {name: 'stopped', reason: string}} StreamState
 */

/**
 * One stream that reconnects indefinitely and resumes after the last event it received.
 *
 * It differs from EventSource in one point: it retries after 408, 429 and 5xx, which a proxy sends
 * while the server behind it restarts. 204 finishes it and other errors stop it, as in EventSource.
 */
export class EventStream {
  /** @type {StreamState} */
  state = { name: 'closed' };
  /** How often the stream was opened again after it was lost. */
  reconnects = 0;
  lastEventId = '';

  #url;
  #onEvent;
  #onState;
  #attempt = null; // the AbortController of the connection that counts; others are history
  #timer = 0;
  #retry = RETRY_DEFAULT_MS;
  #failures = 0; // attempts since the stream was last open
  #wasLost = false;

  /**
   * @param {string | URL} url
   * @param {{onEvent: (event: SseEvent) => void, onState: (state: StreamState) => void}} callbacks
   */
  constructor(url, { onEvent, onState }) {
    this.#url = url;
    this.#onEvent = onEvent;
    this.#onState = onState;
  }

  /** Connects now, from any state; also skips the wait before a reconnect. */
  open() {
    this.#leave();
    this.#connect();
  }

  /** Ends the connection. `open` resumes after the last event. */
  close() {
    this.#leave();
    this.#enter({ name: 'closed' });
  }

  #leave() {
    clearTimeout(this.#timer);
    if (this.state.name === 'open') this.#wasLost = true;
    const attempt = this.#attempt;
    this.#attempt = null;
    attempt?.abort();
  }

  #enter(state) {
    this.state = state;
    this.#onState(state);
  }

  async #connect() {
    const attempt = new AbortController();
    this.#attempt = attempt;
    this.#enter({ name: 'connecting' });
    let end;
    try {
      end = await this.#read(attempt.signal);
    } catch (error) {
      const tooLarge = error instanceof RangeError;
      end = { again: !tooLarge, reason: tooLarge ? error.message : 'connection lost' };
    }
    if (this.#attempt !== attempt) return; // closed or opened again in the meantime
    attempt.abort(); // frees the connection when the response was not read to its end
    this.#attempt = null;
    if (end.finished) this.#enter({ name: 'finished' });
    else if (end.again) this.#wait(end.reason);
    else this.#enter({ name: 'stopped', reason: end.reason });
  }

  /**
   * Reads one response.
   * @returns {Promise<{finished: true} | {again: boolean, reason: string}>} how it ended
   */
  async #read(signal) {
    const headers = { Accept: 'text/event-stream' };
    if (this.lastEventId) headers['Last-Event-ID'] = utf8Header(this.lastEventId);
    const response = await fetch(this.#url, { headers, signal, cache: 'no-store' });
    const { status } = response;
    if (status === 204) {
      return { finished: true };
    }
    if (status !== 200) {
      const again = status === 408 || status === 429 || status >= 500;
      return { again, reason: await explain(response) };
    }
    const type = response.headers.get('content-type') ?? 'nothing';
    if (!/^text\/event-stream *(;|$)/i.test(type)) {
      return { again: false, reason: `expected text/event-stream, got ${type}` };
    }
    this.#opened();
    const reader = response.body.getReader();
    const decoder = new SseDecoder(this.lastEventId);
    for (;;) {
      const { done, value } = await reader.read();
      if (signal.aborted) break;
      if (done) return { again: true, reason: 'the server closed the stream' };
      for (const event of decoder.push(value)) {
        this.lastEventId = event.id;
        this.#onEvent(event);
        if (signal.aborted) break; // the callback closed the stream
      }
      if (signal.aborted) break;
      this.lastEventId = decoder.lastEventId;
      this.#retry = decoder.retry ?? this.#retry;
    }
    return { again: true, reason: 'closed' };
  }

  #opened() {
    this.#failures = 0;
    if (this.#wasLost) this.reconnects += 1;
    this.#wasLost = false;
    this.#enter({ name: 'open' });
  }

  #wait(reason) {
    if (this.state.name === 'open') this.#wasLost = true;
    const ms = reconnectDelay(this.#retry, this.#failures, Math.random());
    this.#failures += 1;
    this.#timer = setTimeout(() => this.#connect(), ms);
    this.#enter({ name: 'reconnecting', at: Date.now() + ms, reason });
  }
}

/**
 * The wait before the next attempt: never shorter than `retry`, doubled per failed attempt, and
 * spread by up to a quarter so that the clients of a restarted server do not reconnect as one wave.
 * @param {number} retry     the server's `retry:`, in ms
 * @param {number} failures  attempts that failed since the stream was open
 * @param {number} spread    0 to 1, random
 */
export function reconnectDelay(retry, failures, spread) {
  const first = Math.max(retry, RETRY_MIN_MS);
  const base = Math.min(first * 2 ** failures, Math.max(first, BACKOFF_MAX_MS));
  return Math.min(Math.round(base * (1 + spread / 4)), TIMER_MAX_MS);
}

/**
 * The content of a gap event.
 * @param {SseEvent} event
 * @returns {{channel: string, reason: string} | null} null if it is not a gap event
 */
export function gapOf(event) {
  if (event.type !== GAP_EVENT) return null;
  try {
    const { channel, reason } = JSON.parse(event.data);
    return { channel: String(channel), reason: String(reason) };
  } catch {
    return { channel: '', reason: event.data };
  }
}

/** Headers carry bytes: fetch wants one character per UTF-8 byte. */
function utf8Header(text) {
  return Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join('');
}

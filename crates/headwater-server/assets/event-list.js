// The list of events: bounded, newest first, drawn once per frame however many events arrive.
// Look here when events are shown badly, too late, or too many.
//
// Nothing in an event is trusted: it reaches the page through textContent only.

import { element } from './element.js';
import { prettyJson } from './pretty-json.js';
import { gapOf } from './sse.js';

/** Rows kept, and events waiting to be drawn: about what a browser lays out without effort. */
export const EVENTS_MAX = 500;
/** Characters of data shown before "Show all": one huge event must not stall the page. */
const PREVIEW_CHARS = 4_000;
/** More new rows than this in one frame are a flood, where a highlight is only flicker. */
const HIGHLIGHT_MAX = 12;

const GAP_REASONS = {
  trimmed: 'they are no longer retained',
  'unknown-id': 'the server does not know the last event that this page received',
  epoch: 'the log was reset, or the last event ID is from another server',
  'broker-lost': 'the connection to the broker was lost',
};

/**
 * @typedef {object} Entry
 * @property {Date} time
 * @property {string} channel
 * @property {number} slot  which of the channel colours
 * @property {import('./sse.js').SseEvent} event
 */

export class EventList {
  total = 0;
  paused = false;
  pretty = true;

  #list;
  #onChange;
  #waiting = []; // oldest first
  #entries = new WeakMap(); // row -> entry, to lay out its data again
  #frame = 0;

  /**
   * @param {HTMLOListElement} list
   * @param {() => void} onChange called after every change of `shown`, `waiting` or `total`
   */
  constructor(list, onChange) {
    this.#list = list;
    this.#onChange = onChange;
  }

  get shown() {
    return this.#list.childElementCount;
  }

  get waiting() {
    return this.#waiting.length;
  }

  /** @param {Entry} entry */
  add(entry) {
    this.total += 1;
    this.#waiting.push(entry);
    // Hidden pages get no frames, paused ones draw nothing: events that would be removed anyway
    // are dropped.
    // Cutting in blocks keeps the cost per event constant.
    if (this.#waiting.length > 2 * EVENTS_MAX) this.#waiting.splice(0, EVENTS_MAX);
    this.#schedule();
  }

  clear() {
    this.total = 0;
    this.#waiting = [];
    this.#list.replaceChildren();
    this.#onChange();
  }

  /** @param {boolean} paused */
  setPaused(paused) {
    this.paused = paused;
    this.#schedule();
  }

  /** @param {boolean} pretty */
  setPretty(pretty) {
    this.pretty = pretty;
    for (const row of this.#list.children) {
      this.#fillData(row.querySelector('.event-data'), this.#entries.get(row));
    }
  }

  #schedule() {
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#frame = 0;
    if (!this.paused && this.#waiting.length > 0) {
      const entries = this.#waiting.slice(-EVENTS_MAX);
      this.#waiting = [];
      const rows = entries.map((entry) => this.#row(entry)).reverse();
      if (rows.length <= HIGHLIGHT_MAX) for (const row of rows) row.classList.add('is-new');
      this.#list.prepend(...rows);
      while (this.#list.childElementCount > EVENTS_MAX) this.#list.lastElementChild.remove();
    }
    this.#onChange();
  }

  /** @param {Entry} entry */
  #row(entry) {
    const { time, channel, slot, event } = entry;
    const row = element('li', 'event');
    row.dataset.slot = String(slot);
    const clock = element('time', 'event-time', clockTime(time));
    clock.dateTime = time.toISOString();
    const name = element('span', 'event-name', event.type === 'message' ? '' : event.type);
    name.hidden = event.type === 'message'; // the default name is noise
    const id = element('span', 'event-id', event.id);
    id.title = event.id ? `ID ${event.id}` : '';
    row.append(clock, element('span', 'event-channel', channel), name, id);
    const gap = gapOf(event);
    if (gap) {
      row.classList.add('is-gap');
      row.append(element('p', 'event-gap', gapText(gap)));
    } else {
      const data = element('pre', 'event-data');
      this.#entries.set(row, entry);
      this.#fillData(data, entry);
      row.append(data);
    }
    return row;
  }

  #fillData(node, entry) {
    if (!node) return; // a gap has no data
    const text = (this.pretty && prettyJson(entry.event.data)) || entry.event.data;
    node.classList.toggle('is-empty', text === '');
    if (text.length <= PREVIEW_CHARS) {
      node.textContent = text === '' ? 'empty' : text;
      return;
    }
    const length = text.length.toLocaleString('en');
    const all = element('button', 'quiet', `Show all ${length} characters`);
    all.type = 'button';
    all.addEventListener('click', () => {
      node.textContent = text;
    });
    node.replaceChildren(`${text.slice(0, PREVIEW_CHARS)}…\n`, all);
  }
}

/** @param {{channel: string, reason: string}} gap */
function gapText({ channel, reason }) {
  const where = channel ? ` on ${channel}` : '';
  return `Gap: events are missing${where}, because ${GAP_REASONS[reason] ?? `of ${reason}`}.`;
}

/** Local time with milliseconds, because events arrive in bursts. @param {Date} time */
function clockTime(time) {
  const two = (number) => String(number).padStart(2, '0');
  const ms = String(time.getMilliseconds()).padStart(3, '0');
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}.${ms}`;
}

// The channels this page listens to: one stream and one row each, kept in the page's address.
// Look here when a channel is not listened to, or its state is shown wrongly.

import { element } from './element.js';
import { streamUrl } from './snippets.js';
import { EventStream } from './sse.js';

/**
 * One stream per channel is how the page knows the channel of named events. Over HTTP/1.1 a browser
 * has six connections to one server, for all its tabs: four leave room to load and to publish.
 */
export const CHANNELS_MAX = 4;
/** The server's bound on a channel's name. */
const CHANNEL_MAX_BYTES = 255;
/** After this long without an answer, the page tells about the six connections. */
const SLOW_CONNECT_MS = 4_000;
/** How often the seconds until the next attempt are written anew. */
const COUNTDOWN_MS = 250;

/** States from the one that needs most attention to the one that needs least. */
const STATES = ['stopped', 'reconnecting', 'connecting', 'closed', 'open', 'finished'];

/**
 * @typedef {object} Channel
 * @property {string} name
 * @property {number} slot      which of the channel colours
 * @property {EventStream} stream
 * @property {HTMLLIElement} row
 * @property {HTMLElement} label
 * @property {HTMLElement} reason
 * @property {number} connectingSince
 */

export class ChannelList {
  #list;
  #base;
  #onEvent;
  #onChange;
  /** @type {Map<string, Channel>} */
  #channels = new Map();
  #countdown = 0;

  /**
   * @param {HTMLUListElement} list
   * @param {URL} base the page's address
   * @param {{onEvent: (channel: string, slot: number, event: import('./sse.js').SseEvent) => void,
   *   onChange: () => void}} callbacks
   */
  constructor(list, base, { onEvent, onChange }) {
    this.#list = list;
    this.#base = base;
    this.#onEvent = onEvent;
    this.#onChange = onChange;
  }

  get names() {
    return [...this.#channels.keys()];
  }

  get reconnects() {
    return this.#sum(({ stream }) => stream.reconnects);
  }

  /** The state that needs most attention, `idle` without channels, and how many channels are in it. */
  get summary() {
    for (const name of STATES) {
      const count = this.#sum(({ stream }) => Number(stream.state.name === name));
      if (count > 0) return { name, count, of: this.#channels.size, text: this.#soonest(name) };
    }
    return { name: 'idle', count: 0, of: 0, text: 'Not listening' };
  }

  /**
   * @param {string} name
   * @param {string} [rewind] how far back to begin, as in the server's `rewind=`; nothing is from now
   * @returns {string} why the channel cannot be added, or nothing
   */
  add(name, rewind = '') {
    if (this.#channels.has(name)) return `You already listen to ${name}.`;
    const fault = channelFault(name);
    if (fault) return fault;
    if (this.#channels.size >= CHANNELS_MAX) return limitText(name);
    const used = new Set([...this.#channels.values()].map(({ slot }) => slot));
    const slot = [0, 1, 2, 3].find((free) => !used.has(free)) ?? 0;
    const channel = { name, slot, connectingSince: 0, ...this.#row(name, slot) };
    channel.stream = new EventStream(streamUrl(this.#base, [name], rewind), {
      onEvent: (event) => this.#onEvent(name, slot, event),
      onState: () => this.#stateChanged(channel),
    });
    this.#channels.set(name, channel);
    this.#list.append(channel.row);
    this.#saveInAddress();
    channel.stream.open();
    return '';
  }

  remove(name) {
    const channel = this.#channels.get(name);
    if (!channel) return;
    this.#channels.delete(name);
    channel.stream.close();
    channel.row.remove();
    this.#saveInAddress();
    this.#onChange();
  }

  /** Connects all streams that are not open. */
  openAll() {
    for (const { stream } of this.#channels.values()) if (stream.state.name !== 'open') stream.open();
  }

  closeAll() {
    for (const { stream } of this.#channels.values()) stream.close();
  }

  #sum(count) {
    return [...this.#channels.values()].reduce((sum, channel) => sum + count(channel), 0);
  }

  #soonest(name) {
    const states = [...this.#channels.values()].map(({ stream }) => stream.state);
    const soonest = states.filter((state) => state.name === name).sort((a, b) => a.at - b.at)[0];
    return stateText(soonest);
  }

  #row(name, slot) {
    const row = element('li', 'channel');
    row.dataset.slot = String(slot);
    row.dataset.channel = name;
    const label = element('span', 'channel-state');
    const reason = element('p', 'channel-reason');
    reason.hidden = true;
    const remove = element('button', 'quiet channel-remove', '×');
    remove.type = 'button';
    remove.setAttribute('aria-label', `Stop listening to ${name}`);
    remove.addEventListener('click', () => {
      const next = row.nextElementSibling ?? row.previousElementSibling;
      this.remove(name);
      (next?.querySelector('button') ?? document.querySelector('#channel-name')).focus();
    });
    row.append(element('span', 'channel-name', name), label, remove, reason);
    return { row, label, reason };
  }

  #stateChanged(channel) {
    const { state } = channel.stream;
    if (!this.#channels.has(channel.name)) return; // removed
    channel.row.dataset.state = state.name;
    if (state.name === 'connecting') channel.connectingSince = Date.now();
    this.#write(channel);
    this.#onChange();
    this.#countdown ||= setInterval(() => this.#tick(), COUNTDOWN_MS);
  }

  #write({ stream: { state }, label, reason, connectingSince }) {
    label.textContent = stateText(state).toLowerCase();
    const slow = state.name === 'connecting' && Date.now() - connectingSince > SLOW_CONNECT_MS;
    reason.textContent = slow
      ? 'No answer yet. Over HTTP/1.1 all tabs of a browser share six connections to a server: close other tabs.'
      : sentence(state.reason ?? '');
    reason.hidden = reason.textContent === '';
  }

  /** Rewrites what changes with time, and rests when nothing does. */
  #tick() {
    const moving = [...this.#channels.values()].filter(({ stream }) =>
      ['reconnecting', 'connecting'].includes(stream.state.name),
    );
    for (const channel of moving) this.#write(channel);
    if (moving.length > 0) this.#onChange();
    else {
      clearInterval(this.#countdown);
      this.#countdown = 0;
    }
  }

  #saveInAddress() {
    const url = new URL(this.#base);
    url.search = new URLSearchParams(this.names.map((name) => ['channel', name])).toString();
    history.replaceState(null, '', url);
  }
}

/** @param {import('./sse.js').StreamState} state */
function stateText(state) {
  if (state.name === 'reconnecting') {
    return `Reconnecting in ${Math.max(0, Math.ceil((state.at - Date.now()) / 1000))} s`;
  }
  if (state.name === 'finished') return 'Ended by its publisher';
  return state.name[0].toUpperCase() + state.name.slice(1);
}

/** @returns {string} what is wrong with a channel's name, or nothing */
function channelFault(name) {
  if (name === '') return 'Type a channel name.';
  if (/\p{Cc}/u.test(name)) return 'A channel name has no control characters.';
  const bytes = new TextEncoder().encode(name).length;
  return bytes > CHANNEL_MAX_BYTES ? `A channel name has at most ${CHANNEL_MAX_BYTES} bytes; this one has ${bytes}.` : '';
}

function limitText(name) {
  return (
    `Not listening to ${name}: this page listens to ${CHANNELS_MAX} channels at most, because it opens a stream ` +
    'for each to know where named events came from. Remove one first. A program can listen to 100 on one stream.'
  );
}

/** @param {string} text */
function sentence(text) {
  return text && `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? '' : '.'}`;
}

// The channels that this page subscribes to: one stream and one row each, stored in the page's URL.
// Look here when a channel is not subscribed to, or its state is shown wrongly.

import { element } from './element.js';
import { sentence } from './problem.js';
import { streamUrl } from './snippets.js';
import { EventStream } from './sse.js';

/**
 * One stream per channel is how the page knows the channel of named events. Over HTTP/1.1 a browser
 * has six connections to one server, for all its tabs: four leave room to load and to publish.
 */
export const CHANNELS_MAX = 4;
/** The server's bound on a channel's name. */
const CHANNEL_MAX_BYTES = 255;
/** After this long without a response, the page mentions the limit of six connections. */
const SLOW_CONNECT_MS = 4_000;
/** How often the seconds until the next attempt are updated. */
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

  /** The channels whose stream is open, or about to be. */
  get live() {
    const isLive = ({ stream }) => !['stopped', 'finished', 'closed'].includes(stream.state.name);
    return [...this.#channels.values()].filter(isLive).map(({ name }) => name);
  }

  get reconnects() {
    return this.#sum(({ stream }) => stream.reconnects);
  }

  /** The state that needs most attention, and how many channels are in it; `idle` without any. */
  get summary() {
    for (const name of STATES) {
      const count = this.#sum(({ stream }) => Number(stream.state.name === name));
      if (count > 0) return { name, count, of: this.#channels.size, text: this.#soonest(name) };
    }
    return { name: 'idle', count: 0, of: 0, text: 'Not subscribed' };
  }

  /**
   * @param {string} name
   * @param {string} [rewind] how far back to start, as in the server's `rewind=`; empty is from now
   * @returns {string} why the channel cannot be added, or nothing
   */
  add(name, rewind = '') {
    if (this.#channels.has(name)) return `Already subscribed to ${name}.`;
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
    for (const { stream } of this.#channels.values()) {
      if (stream.state.name !== 'open') stream.open();
    }
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
    remove.setAttribute('aria-label', `Unsubscribe from ${name}`);
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
      ? 'No response yet. Over HTTP/1.1, all tabs of a browser share six connections to a ' +
        'server: close other tabs.'
      : sentence(state.reason ?? '');
    reason.hidden = reason.textContent === '';
  }

  /** Updates what changes with time, and stops its timer when nothing does. */
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
  if (state.name === 'finished') return 'Channel ended';
  return state.name[0].toUpperCase() + state.name.slice(1);
}

/** @returns {string} what is wrong with a channel's name, or nothing */
function channelFault(name) {
  if (name === '') return 'Enter a channel name.';
  if (/\p{Cc}/u.test(name)) return 'A channel name cannot contain control characters.';
  const bytes = new TextEncoder().encode(name).length;
  if (bytes <= CHANNEL_MAX_BYTES) return '';
  return `A channel name has at most ${CHANNEL_MAX_BYTES} bytes; this one has ${bytes}.`;
}

function limitText(name) {
  return (
    `Not subscribed to ${name}: this page is limited to ${CHANNELS_MAX} channels. It opens one ` +
    'stream for each, to know which channel a named event is from. Remove a channel first. Other ' +
    'clients can subscribe to 100 channels on one stream.'
  );
}

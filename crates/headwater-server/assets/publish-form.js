// The publish form and the lines to copy, which do what the form would do.
// Look here when publishing fails on the page, or when a Copy button copies the wrong thing.

import { explain, sentence } from './problem.js';
import { curlSubscribe, curlPublish, eventSource, publishUrl, redisPublish } from './snippets.js';

/** A publish that takes longer is reported as failed; the event may still be published. */
const PUBLISH_TIMEOUT_MS = 10_000;
/** How long a button says "Copied". */
const COPIED_MS = 1_600;
/** Event names in the JavaScript lines: more would make them unreadable. */
const NAMES_MAX = 6;

const byId = (id) => document.getElementById(id);

export class PublishForm {
  #base;
  #form = byId('publish');
  #result = byId('publish-result');
  #channels = [];
  #names = new Set();

  /** @param {URL} base the page's address */
  constructor(base) {
    this.#base = base;
    this.#form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#publish();
    });
    this.#form.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        this.#form.requestSubmit();
      }
    });
    this.#form.addEventListener('input', () => this.#writeLines());
    for (const button of document.querySelectorAll('[data-copy]')) {
      button.addEventListener('click', () => copy(button, byId(button.dataset.copy)));
    }
    this.#writeLines();
  }

  /** @param {string[]} channels */
  setChannels(channels) {
    const field = byId('publish-channel');
    if (field.value === '' || field.value === this.#channels[0]) {
      field.value = channels[0] ?? field.value;
    }
    this.#channels = channels;
    byId('known-channels').replaceChildren(
      ...channels.map((name) => Object.assign(document.createElement('option'), { value: name })),
    );
    this.#writeLines();
  }

  /** Adds the name of a received event to the JavaScript lines. @param {string} name */
  seen(name) {
    if (name === 'message' || this.#names.has(name) || this.#names.size >= NAMES_MAX) return;
    this.#names.add(name);
    this.#writeLines();
  }

  /** @param {string} broker */
  setBroker(broker) {
    const memory = broker === 'memory';
    byId('line-redis').closest('.line').classList.toggle('is-off', memory);
    byId('copy-redis').disabled = memory;
    byId('redis-note').textContent = memory
      ? 'Not available: this server runs without --redis.'
      : 'PUBLISH sends data only, without an event name, ID or end, and the event is not retained.';
  }

  /** @returns {import('./snippets.js').Draft} */
  get #draft() {
    return {
      channel: byId('publish-channel').value,
      data: byId('publish-data').value,
      name: byId('publish-name').value,
      id: byId('publish-id').value,
      end: byId('publish-end').checked,
    };
  }

  async #publish() {
    const draft = this.#draft;
    this.#say('busy', 'Publishing…');
    try {
      const response = await fetch(publishUrl(this.#base, draft), {
        method: 'POST',
        body: draft.data,
        signal: AbortSignal.timeout(PUBLISH_TIMEOUT_MS),
      });
      if (!response.ok) {
        this.#say('error', sentence(await explain(response)));
        return;
      }
      const { id, channel } = await response.json();
      const done = id ? `Published to ${channel} with ID ${id}.` : `Published to ${channel}.`;
      this.#say('done', draft.end ? `${done} The channel has ended.` : done);
      byId('publish-end').checked = false; // the next event is for another channel
      this.#writeLines();
    } catch (error) {
      const slow = error.name === 'TimeoutError';
      const text = slow
        ? 'No response within 10 s. The event may or may not have been published.'
        : 'The server does not respond. Is it running?';
      this.#say('error', text);
    }
  }

  #say(state, text) {
    this.#result.dataset.state = state;
    this.#result.textContent = text;
  }

  #writeLines() {
    const draft = this.#draft;
    const names = new Set(this.#names);
    if (draft.name) names.add(draft.name);
    const channels = this.#channels.length > 0 ? this.#channels : ['default'];
    byId('line-subscribe').textContent = curlSubscribe(this.#base, channels);
    byId('line-publish').textContent = curlPublish(this.#base, draft);
    byId('line-redis').textContent = redisPublish(draft);
    byId('line-script').textContent = eventSource(this.#base, channels, [...names]);
  }
}

async function copy(button, source) {
  let copied = true;
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    // Without HTTPS (and not on localhost) there is no clipboard: select the line, try the old way.
    getSelection().selectAllChildren(source);
    copied = document.execCommand('copy');
  }
  button.textContent = copied ? 'Copied' : 'Selected';
  setTimeout(() => {
    button.textContent = 'Copy';
  }, COPIED_MS);
}

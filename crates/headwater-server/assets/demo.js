// The entry point of the demo page: connects the channels, the publish form and the list of events.
// Look here for which part reacts to what; the parts are the modules below.

import { CHANNELS_MAX, ChannelList } from './channel-list.js';
import { EVENTS_MAX, EventList } from './event-list.js';
import { PublishForm } from './publish-form.js';

/** Screen readers hear of new events at most this often: announcing each is too much. */
const ANNOUNCE_EVENTS_MS = 5_000;

const byId = (id) => document.getElementById(id);
const base = new URL(location.href.split(/[?#]/)[0]);

const publishForm = new PublishForm(base);
const events = new EventList(byId('events'), showCounts);
const channels = new ChannelList(byId('channels'), base, {
  onEvent: received,
  onChange: showStatus,
});

let announced = ''; // the state announced last
let unannounced = 0; // events since the last announcement
let subscribed = ''; // the channels that the form knows

function received(channel, slot, event) {
  console.log('[headwater]', channel, event.type, event.id, event.data);
  events.add({ time: new Date(), channel, slot, event });
  publishForm.seen(event.type);
  unannounced += 1;
}

function showStatus() {
  const { name, count, of, text } = channels.summary;
  document.documentElement.dataset.state = name;
  const part = of > 1 && count < of ? ` (${count} of ${of})` : '';
  byId('status-text').textContent = text + part;
  byId('reconnects').textContent = plural(channels.reconnects, 'reconnect');
  byId('reconnects').hidden = channels.reconnects === 0;
  byId('reconnect-now').hidden = name !== 'reconnecting' && name !== 'stopped';
  if (name !== announced) announce(`Connection: ${name}`);
  announced = name;
  if (subscribed !== JSON.stringify(channels.names)) {
    subscribed = JSON.stringify(channels.names);
    publishForm.setChannels(channels.names);
    byId('channel-count').textContent = `${channels.names.length} of ${CHANNELS_MAX}`;
  }
  showEmpty();
}

function showCounts() {
  const { total, shown, waiting, paused } = events;
  const older = total - shown - waiting > 0 ? `, newest ${EVENTS_MAX} shown` : '';
  byId('event-count').textContent = plural(total, 'event') + older;
  const held = waiting > 0 ? ` (${Math.min(waiting, EVENTS_MAX)} waiting)` : '';
  byId('pause').textContent = paused ? `Resume${held}` : 'Pause';
  byId('pause').setAttribute('aria-pressed', String(paused));
  showEmpty();
}

function showEmpty() {
  byId('empty').hidden = events.shown > 0;
  const { names, live } = channels;
  let text = `Subscribed to ${live.join(', ')}. Publish something, here or from a terminal.`;
  if (names.length === 0) text = 'Add a channel to subscribe to.';
  else if (live.length === 0) text = 'No stream is open.';
  if (byId('empty-text').textContent !== text) byId('empty-text').textContent = text;
}

function announce(text) {
  byId('announce').textContent = text;
}

function plural(number, noun) {
  return `${number.toLocaleString('en')} ${noun}${number === 1 ? '' : 's'}`;
}

function note(text) {
  byId('channel-note').textContent = text;
}

byId('add-channel').addEventListener('submit', (event) => {
  event.preventDefault();
  const field = byId('channel-name');
  const fault = channels.add(field.value, byId('channel-rewind').value);
  note(fault);
  if (!fault) field.value = '';
});
byId('channels').addEventListener('click', () => note(''));
byId('pause').addEventListener('click', () => events.setPaused(!events.paused));
byId('clear').addEventListener('click', () => events.clear());
byId('pretty').addEventListener('change', (event) => events.setPretty(event.target.checked));
byId('reconnect-now').addEventListener('click', () => channels.openAll());

// A page in the back/forward cache must not hold connections; it resumes where it was.
addEventListener('pagehide', () => channels.closeAll());
addEventListener('pageshow', (event) => event.persisted && channels.openAll());
// A frozen tab (a phone in a pocket) wakes up with connections that were dropped unnoticed.
document.addEventListener('resume', () => {
  channels.closeAll();
  channels.openAll();
});
addEventListener('online', () => channels.openAll());

setInterval(() => {
  if (unannounced > 0) announce(`${plural(unannounced, 'new event')}`);
  unannounced = 0;
}, ANNOUNCE_EVENTS_MS);

async function showServer() {
  try {
    const { version, broker } = await (await fetch(new URL('demo/info', base))).json();
    const kind = broker === 'memory' ? 'embedded broker' : broker;
    byId('server').textContent = `${version} · ${kind}`;
    publishForm.setBroker(broker);
  } catch {
    byId('server').textContent = ''; // the streams show that the server is unreachable
  }
}

const requested = new URLSearchParams(location.search).getAll('channel');
const faults = (requested.length > 0 ? requested : ['default']).map((name) => channels.add(name));
note(faults.find((reason) => reason !== '') ?? '');
showStatus();
showCounts();
showServer();

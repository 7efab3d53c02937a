// The SSE clients from npm behind one interface. Look here to add a client; `events.json` lists
// where a client deviates from the standard.

import { EventSource as ModernEventSource } from "eventsource";
import { createEventSource } from "eventsource-client";
import LaunchDarkly from "launchdarkly-eventsource";
import { EventSource as UndiciEventSource } from "undici";

/**
 * `open(url, names, report)` opens a stream and returns a function that closes it.
 * `report.opened()` is called each time the server accepts the stream, and
 * `report.event({ name, data, id })` for each event. As in browsers, named events are reported only
 * if their name is in `names`.
 */
export const clients = {
  eventsource: native(ModernEventSource),
  undici: native(UndiciEventSource),
  "launchdarkly-eventsource": native(LaunchDarkly.EventSource),
  "eventsource-client": (url, _names, report) => {
    const source = createEventSource({
      url,
      onConnect: report.opened,
      onMessage: ({ event, data, id }) =>
        report.event({ name: event ?? "message", data, id: id ?? "" }),
    });
    return () => source.close();
  },
};

/** A client with the interface of browsers. */
function native(EventSource) {
  return (url, names, report) => {
    const source = new EventSource(url);
    const listener = ({ type, data, lastEventId }) =>
      report.event({ name: type, data, id: lastEventId });
    source.addEventListener("open", report.opened);
    for (const name of new Set(["message", ...names])) source.addEventListener(name, listener);
    // Without an error listener, launchdarkly-eventsource throws on a lost connection.
    source.addEventListener("error", () => {});
    return () => source.close();
  };
}

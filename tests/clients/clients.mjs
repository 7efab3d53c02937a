// The SSE clients from npm, each made to look the same to a test.
//
// Look here to add a client. What a client may do differently is said in `events.json`.

import { EventSource as ModernEventSource } from "eventsource";
import { createEventSource } from "eventsource-client";
import LaunchDarkly from "launchdarkly-eventsource";
import { EventSource as UndiciEventSource } from "undici";

/**
 * `open(url, names, report)` opens a stream, and returns what closes it. `report.opened()` is called
 * each time the server has accepted it, `report.event({ name, data, id })` for each event; those with
 * a name only if it is one of `names`, as browsers do it.
 */
export const clients = {
  eventsource: native(ModernEventSource),
  undici: native(UndiciEventSource),
  "launchdarkly-eventsource": native(LaunchDarkly.EventSource),
  "eventsource-client": (url, _names, report) => {
    const source = createEventSource({
      url,
      onConnect: report.opened,
      onMessage: ({ event, data, id }) => report.event({ name: event ?? "message", data, id: id ?? "" }),
    });
    return () => source.close();
  },
};

/** Clients with the interface that browsers have. */
function native(EventSource) {
  return (url, names, report) => {
    const source = new EventSource(url);
    const listener = (event) => report.event({ name: event.type, data: event.data, id: event.lastEventId });
    source.addEventListener("open", report.opened);
    for (const name of new Set(["message", ...names])) source.addEventListener(name, listener);
    // Without a listener, launchdarkly-eventsource throws on a lost connection.
    source.addEventListener("error", () => {});
    return () => source.close();
  };
}

"""Every client from PyPI reports the events of the table in `events.json`.

These clients do not reconnect automatically, so there is no test of that here.
"""

import json
import pathlib
import unittest
from concurrent.futures import ThreadPoolExecutor

import httpx
import httpx_sse
import requests
import sseclient

from server import Server

TABLE = json.loads(pathlib.Path(__file__).with_name("events.json").read_text(encoding="utf-8"))
TIMEOUT_S = 20
END = "the end"


def httpx_sse_events(url, opened):
    """Yields the events; `events.json` says which blocks are skipped."""
    with httpx.Client(timeout=TIMEOUT_S) as client:
        with httpx_sse.connect_sse(client, "GET", url) as source:
            source.response.raise_for_status()
            opened()
            for event in source.iter_sse():
                if event.data == "" and (event.retry is not None or event.id.endswith("-0")):
                    continue
                yield event.event, event.data, event.id


def sseclient_py_events(url, opened):
    """Yields the events."""
    headers = {"Accept": "text/event-stream"}
    with requests.get(url, stream=True, timeout=TIMEOUT_S, headers=headers) as response:
        response.raise_for_status()
        opened()
        for event in sseclient.SSEClient(response).events():
            yield event.event, event.data, event.id or ""


class Events(unittest.TestCase):
    """One test per client."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.stop)

    def check(self, client, events):
        self.assertIn(client, TABLE["clients"])
        channel = f"events-of-{client}"
        reported = []
        with ThreadPoolExecutor(1) as publisher:
            # Publishing starts when the stream is open, and the stream is read meanwhile.
            published = []
            opened = lambda: published.append(publisher.submit(self.publish_all, channel, client))
            try:
                for event in events(self.server.stream_url(channel), opened):
                    if event[1] == END:
                        break
                    reported.append(event)
            finally:
                # The error of a failed publisher explains more than the reader's timeout.
                expected = published[0].result() if published else []
        for case, got, wanted in zip(TABLE["cases"], reported, expected):
            self.assertEqual(got, wanted, case["what"])
        self.assertEqual(len(reported), len(expected))

    def publish_all(self, channel, client):
        """Publishes the table, and returns what the client must report."""
        only_publisher_ids = "only_publisher_ids" in TABLE["clients"][client]
        expected = []
        last_id = ""
        for case in TABLE["cases"]:
            data = case["data"] * case.get("times", 1)
            fields = {name: case[name] for name in ("event", "id", "retry") if name in case}
            assigned = self.server.publish(channel, data, **fields)
            self.assertEqual(assigned, case.get("id", assigned), case["what"])
            last_id = assigned or ("" if only_publisher_ids else last_id)
            expected.append((case.get("event", "message"), case.get("arrives", data), last_id))
        self.server.publish(channel, END)
        return expected

    def test_httpx_sse(self):
        self.check("httpx-sse", httpx_sse_events)

    def test_sseclient_py(self):
        self.check("sseclient-py", sseclient_py_events)


if __name__ == "__main__":
    unittest.main()

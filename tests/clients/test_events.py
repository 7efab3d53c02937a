"""The clients from PyPI report the same events as all others, those of the table in `events.json`.

They do not reconnect by themselves, so there is no test of that here.
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
    """Reports until the last event; see `events.json` for what is passed over."""
    with httpx.Client(timeout=TIMEOUT_S) as client, httpx_sse.connect_sse(client, "GET", url) as source:
        source.response.raise_for_status()
        opened()
        for event in source.iter_sse():
            if event.data == "" and (event.retry is not None or event.id.endswith("-0")):
                continue
            yield event.event, event.data, event.id


def sseclient_py_events(url, opened):
    """Reports until the last event."""
    with requests.get(url, stream=True, timeout=TIMEOUT_S, headers={"Accept": "text/event-stream"}) as response:
        response.raise_for_status()
        opened()
        for event in sseclient.SSEClient(response).events():
            yield event.event, event.data, event.id or ""


class Events(unittest.TestCase):
    """One test for each client."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.stop)

    def check(self, client, events):
        self.assertIn(client, TABLE["clients"])
        channel = f"events-of-{client}"
        reported = []
        with ThreadPoolExecutor(1) as publisher:
            # The stream is open before anything is published, and is read meanwhile.
            published = []
            opened = lambda: published.append(publisher.submit(self.publish_all, channel, client))
            try:
                for event in events(self.server.stream_url(channel), opened):
                    if event[1] == END:
                        break
                    reported.append(event)
            finally:
                # A publisher that failed explains better than a reader that waited in vain.
                expected = published[0].result() if published else []
        for case, got, wanted in zip(TABLE["cases"], reported, expected):
            self.assertEqual(got, wanted, case["what"])
        self.assertEqual(len(reported), len(expected))

    def publish_all(self, channel, client):
        """Publishes the table, and returns what this client must report."""
        only_own_ids = "only_own_ids" in TABLE["clients"][client]
        expected = []
        last_id = ""
        for case in TABLE["cases"]:
            data = case["data"] * case.get("times", 1)
            fields = {name: case[name] for name in ("event", "id", "retry") if name in case}
            given = self.server.publish(channel, data, **fields)
            self.assertEqual(given, case.get("id", given), case["what"])
            last_id = given or ("" if only_own_ids else last_id)
            expected.append((case.get("event", "message"), case.get("arrives", data), last_id))
        self.server.publish(channel, END)
        return expected

    def test_httpx_sse(self):
        self.check("httpx-sse", httpx_sse_events)

    def test_sseclient_py(self):
        self.check("sseclient-py", sseclient_py_events)


if __name__ == "__main__":
    unittest.main()

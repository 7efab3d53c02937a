"""Events that FastAPI publishes to Redis arrive on Headwater's streams.

Run by `cargo xtask test --only fastapi`, with real programs: redis-server, headwater, uvicorn.
"""

import http.client
import os
import pathlib
import sys
import tempfile
import unittest
import urllib.parse

import redis

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "tests/clients"))

from server import Server, answers, call, start, until  # noqa: E402 (the path comes first)

READ_LIMIT_S = 20


def start_redis(folder):
    """Starts a Redis without persistence."""
    options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
    command = lambda port: ["redis-server", "--port", str(port), *options]
    return start("redis-server", command, pings)


def pings(port):
    try:
        with redis.Redis(port=port) as connection:
            return connection.ping()
    except redis.ConnectionError:
        return False


def start_app(redis_url):
    """Starts the example as its README does."""
    return start(
        "uvicorn",
        lambda port: [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port)],
        lambda port: answers(f"http://127.0.0.1:{port}/openapi.json"),
        cwd=HERE,
        env={**os.environ, "REDIS_URL": redis_url},
    )


class Example(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="headwater-fastapi-")
        self.addCleanup(folder.cleanup)
        program, port = start_redis(folder.name)
        self.addCleanup(program.stop)
        self.redis = redis.Redis(port=port)
        self.addCleanup(self.redis.close)
        url = f"redis://127.0.0.1:{port}"
        self.headwater = Server("--redis", url)
        self.addCleanup(self.headwater.stop)
        program, port = start_app(url)
        self.addCleanup(program.stop)
        self.app_url = f"http://127.0.0.1:{port}"

    def publish(self, channel, message):
        query = urllib.parse.urlencode({"channel": channel})
        return call(f"{self.app_url}/publish?{query}", message.encode())

    def subscribe(self, channel):
        """Opens a stream, and returns its lines once Headwater is subscribed in Redis."""
        url = urllib.parse.urlsplit(self.headwater.stream_url(channel))
        connection = http.client.HTTPConnection(url.netloc, timeout=READ_LIMIT_S)
        self.addCleanup(connection.close)
        headers = {"Accept": "text/event-stream"}
        connection.request("GET", f"{url.path}?{url.query}", headers=headers)
        answer = connection.getresponse()
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.getheader("Content-Type").split(";")[0], "text/event-stream")
        until("Headwater subscribes", lambda: self.redis.pubsub_numsub(channel)[0][1] == 1)
        return (line.decode().rstrip("\n") for line in answer)

    def test_an_event_reaches_every_stream(self):
        streams = [self.subscribe("news") for _ in range(3)]
        for message in ["hello", "zwei Zeilen:\nüber Redis", '{"json": true}']:
            status, body = self.publish("news", message)
            # One node is subscribed, however many streams it has.
            self.assertEqual((status, body), (200, b'{"channel":"news","headwater_nodes":1}'))
            for stream in streams:
                self.assertEqual(next_data(stream), message)

    def test_a_stream_receives_only_its_channel(self):
        stream = self.subscribe("first")
        self.publish("second", "on another channel")
        self.publish("first", "on this channel")
        self.assertEqual(next_data(stream), "on this channel")


def next_data(lines):
    """The data of the next event: the `data` lines up to an empty line."""
    data = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif line == "" and data:
            return "\n".join(data)
    raise AssertionError("the stream ended")


if __name__ == "__main__":
    unittest.main()

"""The real server, started on a free port for one test, and ended by its own process id.

Look here when a test cannot start the server. `server.mjs` is the same for the node tests.
"""

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

# Long enough for a busy machine; a healthy server answers within 50 ms.
START_LIMIT_S = 20
# The server drains for at most 10 s, and then a little.
STOP_LIMIT_S = 15


def until(what, condition, limit_s=20):
    """Waits until `condition()` gives something true, and returns that. `what` may be a function."""
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {limit_s} s in vain for {what() if callable(what) else what}")
        time.sleep(0.01)


def free_port():
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def call(url, data=None):
    """The status and body of an answer, whatever the status is."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def answers(url):
    """Whether there is a 200 to be had."""
    try:
        return call(url)[0] == 200
    except OSError:
        return False


class Program:
    """A child process with what it printed."""

    def __init__(self, command, **options):
        self.name = os.path.basename(command[0])
        # A file, because nobody reads a pipe while the test waits for something else.
        self.log = tempfile.TemporaryFile()
        self.child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, **options
        )

    def output(self):
        return os.pread(self.log.fileno(), 1 << 20, 0).decode(errors="replace")

    def ready(self, condition):
        """Waits until it is ready. False if it ended before; ends one that hangs."""
        what = lambda: f"{self.name} to be ready; it printed:\n{self.output()}"
        try:
            until(what, lambda: self.child.poll() is not None or condition(), START_LIMIT_S)
        except BaseException:
            self.stop()
            raise
        return self.child.poll() is None

    def stop(self):
        """SIGTERM, then the exit code."""
        self.child.send_signal(signal.SIGTERM)
        try:
            return self.child.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            return self.child.wait()
        finally:
            self.log.close()


def start(name, command, condition, **options):
    """Starts `command(port)` on a free port; on another one, if somebody was faster."""
    for _ in range(3):
        port = free_port()
        program = Program(command(port), **options)
        if program.ready(lambda: condition(port)):
            return program, port
        output = program.output()
        program.stop()
    raise RuntimeError(f"{name} ended at once, and printed:\n{output}")


def plain_environment():
    """The environment without the server's settings, nor ours: a test is the same for everybody."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}


class Server:
    """A running `headwater serve`; with the embedded broker if nothing else is said."""

    def __init__(self, *arguments):
        binary = os.environ.get("HEADWATER_BIN")
        if not binary:
            raise RuntimeError(
                "HEADWATER_BIN is not set: run `cargo xtask test --only clients` (or `fastapi`), "
                "or give it the path of the server's binary"
            )
        self.program, port = start(
            "the server",
            lambda port: [binary, "serve", "--listen", f"127.0.0.1:{port}", *arguments],
            lambda port: answers(f"http://127.0.0.1:{port}/health/ready"),
            env=plain_environment(),
        )
        self.url = f"http://127.0.0.1:{port}"

    def stream_url(self, channel):
        return f"{self.url}/sse/stream?{urllib.parse.urlencode({'channel': channel})}"

    def publish(self, channel, data, **fields):
        """Publishes one event and returns its id."""
        query = urllib.parse.urlencode({"channel": channel, **fields})
        status, body = call(f"{self.url}/sse/publish?{query}", data.encode())
        if status != 200:
            raise AssertionError(f"publishing was answered {status}: {body.decode()}")
        return json.loads(body)["id"]

    def stop(self):
        """Ends the server as an operator would, and says how it ended: 0 is right."""
        return self.program.stop()

"""The real server, started on a free port for one test, and stopped by its process id.

Look here when a test cannot start the server. `server.mjs` is the same for the Node tests.
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
# A little more than the server's drain timeout of 10 s.
STOP_LIMIT_S = 15


def until(what, condition, limit_s=20):
    """Waits until `condition()` returns a true value, and returns it. `what` may be a function."""
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"timed out after {limit_s} s: {what() if callable(what) else what}")
        time.sleep(0.01)


def free_port():
    """A port that was free when it was checked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def call(url, data=None):
    """The status and body of a response with any status."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def answers(url):
    """Whether the URL responds with 200."""
    try:
        return call(url)[0] == 200
    except OSError:
        return False


class Program:
    """A child process and its output."""

    def __init__(self, command, **options):
        self.name = os.path.basename(command[0])
        # A file, because a pipe would fill up while the test waits for something else.
        self.log = tempfile.TemporaryFile()
        self.child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, **options
        )

    def output(self):
        return os.pread(self.log.fileno(), 1 << 20, 0).decode(errors="replace")

    def ready(self, condition):
        """Waits until it is ready. False if the process exited; stops one that hangs."""
        what = lambda: f"{self.name} is not ready; its output:\n{self.output()}"
        try:
            until(what, lambda: self.child.poll() is not None or condition(), START_LIMIT_S)
        except BaseException:
            self.stop()
            raise
        return self.child.poll() is None

    def stop(self):
        """Sends SIGTERM, and returns the exit code."""
        self.child.send_signal(signal.SIGTERM)
        try:
            return self.child.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            return self.child.wait()
        finally:
            self.log.close()


def start(name, command, condition, **options):
    """Starts `command(port)` on a free port, or on another one if that is taken meanwhile."""
    for _ in range(3):
        port = free_port()
        program = Program(command(port), **options)
        if program.ready(lambda: condition(port)):
            return program, port
        output = program.output()
        program.stop()
    raise RuntimeError(f"{name} exited at once; its output:\n{output}")


def plain_environment():
    """The environment without HEADWATER_ variables, which would change the server's settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}


class Server:
    """A running `headwater serve`; with the embedded broker unless the arguments say otherwise."""

    def __init__(self, *arguments):
        binary = os.environ.get("HEADWATER_BIN")
        if not binary:
            raise RuntimeError(
                "HEADWATER_BIN is not set: run `cargo xtask test --only clients` (or `fastapi`), "
                "or set it to the path of the server's binary"
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
        """Publishes an event and returns its id."""
        query = urllib.parse.urlencode({"channel": channel, **fields})
        status, body = call(f"{self.url}/sse/publish?{query}", data.encode())
        if status != 200:
            raise AssertionError(f"publishing failed with {status}: {body.decode()}")
        return json.loads(body)["id"]

    def stop(self):
        """Stops the server with SIGTERM, and returns the exit code, which should be 0."""
        return self.program.stop()

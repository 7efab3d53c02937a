"""Three applications authorise streams: with a cookie, with a request per stream, with tickets.

Run by `cargo xtask test --only access`, with real programs: headwater, uvicorn, Django, Node.
"""

import json
import os
import pathlib
import sys
import unittest
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "tests/clients"))

from server import Server, start  # noqa: E402 (the path comes first)

SECRET = "an-example-secret-of-more-than-32-bytes"


def request(url, method="GET", headers=None):
    """The status, the headers and, unless it is a stream, the body of a response."""
    call = urllib.request.Request(url, method=method, headers=headers or {})
    if method == "POST":
        call.data = b"x"
    try:
        with urllib.request.urlopen(call, timeout=20) as answer:
            is_stream = answer.headers.get_content_type() == "text/event-stream"
            return answer.status, answer.headers, b"" if is_stream else answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def is_up(url):
    """Whether a server responds, with any status."""
    try:
        request(url)
        return True
    except OSError:
        return False


class Example(unittest.TestCase):
    def start(self, name, command, url="http://127.0.0.1:{port}/", **environment):
        program, port = start(
            name,
            command,
            lambda port: is_up(url.format(port=port)),
            cwd=HERE,
            env={**os.environ, **environment},
        )
        self.addCleanup(program.stop)
        return f"http://127.0.0.1:{port}"

    def serve(self, *arguments):
        server = Server(*arguments)
        self.addCleanup(server.stop)
        return server

    def check(self, hub, headers):
        """Checks what user 42 may do with a cookie."""
        stream = f"{hub}/sse/stream?channel="
        self.assertEqual(request(stream + "news", headers=headers)[0], 200)
        self.assertEqual(request(stream + "user:42:inbox", headers=headers)[0], 200)
        self.assertEqual(request(stream + "user:43:inbox", headers=headers)[0], 403)
        self.assertEqual(request(stream + "news")[0], 401)
        same_origin = {**headers, "Origin": hub}
        publish = f"{hub}/sse/publish?channel=from:"
        self.assertEqual(request(publish + "42", "POST", same_origin)[0], 200)
        self.assertEqual(request(publish + "43", "POST", same_origin)[0], 403)
        other_origin = {**headers, "Origin": "https://evil.example"}
        self.assertEqual(request(publish + "42", "POST", other_origin)[0], 403)

    def test_fastapi_sets_a_cookie(self):
        app = self.start(
            "uvicorn",
            lambda port: [sys.executable, "-m", "uvicorn", "fastapi_app:app", "--port", str(port)],
            HEADWATER_JWT_SECRET=SECRET,
        )
        hub = self.serve("--jwt-secret", SECRET)
        status, headers, _ = request(f"{app}/login?user=42", "POST")
        self.assertEqual(status, 200)
        cookie = headers["Set-Cookie"].split(";")[0]
        self.check(hub.url, {"Cookie": cookie})

    def test_django_authorises_each_stream(self):
        app = self.start(
            "django",
            lambda port: [sys.executable, "django_app.py", str(port)],
            DJANGO_SECRET_KEY=SECRET,
        )
        hub = self.serve("--authorize-url", f"{app}/sse-auth")
        _, headers, _ = request(f"{app}/login?user=42")
        cookie = headers["Set-Cookie"].split(";")[0]
        self.check(hub.url, {"Cookie": cookie})

    def test_node_requests_tickets(self):
        hub = self.serve("--jwt-secret", SECRET)
        app = self.start(
            "node",
            lambda port: ["node", "node_app.mjs", str(port), hub.url],
            HEADWATER_JWT_SECRET=SECRET,
        )
        status, _, body = request(f"{app}/ticket?user=42&channel=user:42:inbox")
        self.assertEqual(status, 200)
        stream = f"{hub.url}/sse/stream?channel=user:42:inbox&ticket={json.loads(body)['ticket']}"
        self.assertEqual(request(stream)[0], 200)
        self.assertEqual(request(stream)[0], 401)
        self.assertEqual(request(f"{app}/ticket?user=42&channel=user:43:inbox")[0], 403)


if __name__ == "__main__":
    unittest.main()

"""A token in a cookie: the login sets it, and the browser sends it to Headwater.

Run by `cargo xtask test --only access`. The standard library is enough to sign a token; with PyJWT
it is `jwt.encode(claims, secret, "HS256")`.
"""

import base64
import hashlib
import hmac
import json
import os
import time

from fastapi import FastAPI, Response

SECRET = os.environ["HEADWATER_JWT_SECRET"].encode()
LIFETIME_S = 3600

app = FastAPI()


def part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(claims: dict) -> str:
    head = {"alg": "HS256", "typ": "JWT"}
    signed = ".".join(part(json.dumps(it).encode()) for it in (head, claims))
    signature = hmac.new(SECRET, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{part(signature)}"


@app.post("/login")
def login(user: str, response: Response) -> dict:
    # A real application checks a password here.
    token = sign(
        {
            "sub": user,
            "exp": time.time() + LIFETIME_S,
            "headwater": {"subscribe": ["news", f"user:{user}:*"], "publish": [f"from:{user}"]},
        }
    )
    # With TLS, use the name "__Host-headwater" and secure=True.
    response.set_cookie("headwater", token, max_age=LIFETIME_S, httponly=True, samesite="lax")
    return {"user": user}

"""The token of the clients (RFC 7519, HS256), and what the proxies check it by."""

import base64
import hashlib
import hmac
import json

SECRET = "a-secret-of-these-benchmarks-of-more-than-32-bytes"
ISSUER, AUDIENCE = "https://issuer.example", "bench"


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(claims):
    parts = [json.dumps(part, separators=(",", ":")).encode() for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    text = ".".join(map(base64url, parts))
    return f"{text}.{base64url(hmac.digest(SECRET.encode(), text.encode(), hashlib.sha256))}"


# Until 2100.
TOKEN = signed({"iss": ISSUER, "aud": AUDIENCE, "sub": "client", "exp": 4102444800})
VALUES = {
    "secret": SECRET,
    "secret_base64url": base64url(SECRET.encode()),
    "issuer": ISSUER,
    "audience": AUDIENCE,
}

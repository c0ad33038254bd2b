"""A minimal OpenID Connect provider for tests, whose answers a test can spoil. It is none for anything else.

It checks what a provider must: the client and its secret, the redirect address, PKCE (S256), and that a code counts
once. Whoever asks is signed in at once as `subject`, with `claims`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey

CLIENT, SECRET = "dashboard", "the-secret-of-a-test-9b1"


class Provider:
    """What it says and signs; tests change its attributes."""

    def __init__(self, address: str) -> None:
        self.issuer = self.address = address
        self.key = ECKey.generate_key("P-256", {"kid": "first"}, auto_kid=False)
        self.signs_with: Any = self.key
        self.claims: dict[str, Any] = {"roles": ["viewer"]}
        self.subject = "ada"
        self.spoil: Callable[[dict[str, Any]], dict[str, Any]] = lambda claims: claims
        self.header: dict[str, Any] = {"alg": "ES256", "kid": "first"}
        self.codes: dict[str, dict[str, str]] = {}
        self.tokens: list[str] = []
        self.metadata: dict[str, Any] = {
            "issuer": address,
            "authorization_endpoint": f"{address}/authorize",
            "token_endpoint": f"{address}/token",
            "jwks_uri": f"{address}/keys",
            "id_token_signing_alg_values_supported": ["ES256", "HS256", "none"],
        }

    def authorize(self, asked: dict[str, str]) -> str:
        """Return where the browser is sent back to."""
        assert asked["client_id"] == CLIENT
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    def token(self, asked: dict[str, str], authorization: str) -> dict[str, Any]:
        """Trade a code for tokens, or say what is wrong."""
        if authorization != f"Basic {base64.b64encode(f'{CLIENT}:{SECRET}'.encode()).decode()}":
            return {"error": "invalid_client"}
        begun = self.codes.pop(asked.get("code", ""), None)
        digest = hashlib.sha256(asked.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if begun is None or begun["code_challenge"] != challenge or begun["redirect_uri"] != asked["redirect_uri"]:
            return {"error": "invalid_grant", "error_description": f"of {asked.get('code')}"}
        now = int(time.time())
        claims = {"iss": self.issuer, "sub": self.subject, "aud": CLIENT, "iat": now, "exp": now + 300}
        claims = self.spoil({**claims, "nonce": begun["nonce"], **self.claims})
        made = jwt.encode(self.header, claims, self.signs_with, algorithms=[self.header["alg"]])
        access = secrets.token_urlsafe(24)
        self.tokens += [made, access]
        return {"id_token": made, "access_token": access, "token_type": "Bearer", "expires_in": 300}


@contextlib.contextmanager
def running() -> Iterator[Provider]:
    """Run one on a free port of this machine."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == "/authorize":
                self.send_response(302)
                self.send_header("Location", provider.authorize(_first(parts.query)))
                self.end_headers()
            else:
                keys = {"keys": [provider.key.as_dict(private=False)]}
                self._json(provider.metadata if parts.path.startswith("/.well-known/") else keys)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            self._json(provider.token(_first(body), self.headers.get("authorization", "")))

        def _json(self, value: dict[str, Any]) -> None:
            self.send_response(400 if "error" in value else 200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    provider = Provider(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _first(query: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(query).items()}

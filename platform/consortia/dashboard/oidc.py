"""Sign-in by OpenID Connect: authorization code with PKCE, at the provider that whoever started the server named.

Guarantees: a sign-in counts once, within ten minutes, and in the browser that began it (state, and a cookie whose hash
is kept here); the provider's ID token must be signed by one of its keys with an asymmetric algorithm, and must name our
issuer, our client, this sign-in's nonce and a time that has not passed; whoever has no role of this view is not let in.
Neither code nor token stands in a page, a log, an error or a cookie: both are forgotten once they are checked.

Specification: OpenID Connect Core 1.0, sections 3.1.2 and 3.1.3.7; RFC 7636 (PKCE).
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import secrets
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from authlib.integrations.httpx_client import OAuth2Client
from authlib.oidc.core import CodeIDToken
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry
from starlette.concurrency import run_in_threadpool

from consortia.common.errors import InputError
from consortia.dashboard.door import Door
from consortia.dashboard.security import Session, Tickets, cookie

__all__ = ["CALLBACK", "NotSignedInError", "Settings", "SignIn", "check_address"]

CALLBACK: Final = "/sign-in/callback"
#: What a provider may sign with: a shared secret would let everybody sign who checks.
_ALGORITHMS: Final = frozenset(
    {f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)} | {"EdDSA", "Ed25519"}
)
_METHODS: Final = ("client_secret_basic", "client_secret_post")
_LEEWAY_SECONDS: Final = 60
_ANSWER_SECONDS: Final = 10.0
_KEYS_SECONDS: Final = 60.0
_MOST_BEGUN: Final = 10_000
#: After these a browser goes to the provider again, which asks for no password while its own session lasts: whom it
#: no longer knows, or knows without the role, is out.
_SESSION_SECONDS: Final = 8 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Whom to ask, and whom to let in.

    Attributes
    ----------
    issuer, client_id : str
        Of the provider, and as it knows this dashboard.
    secret : str
        The client's; empty for a public client, which PKCE alone protects.
    address : str
        Where browsers find the dashboard, without a path: https, or http on this machine.
    claim : str
        Of the ID token: a list of roles, or one. A point leads into it (`realm_access.roles`).
    look, change : str
        The role that lets look, and the one that lets look and change.
    """

    issuer: str
    client_id: str
    secret: str
    address: str
    claim: str
    look: str
    change: str


class NotSignedInError(Exception):
    """A sign-in that does not count; its text is one of ours and may be shown."""


class SignIn:
    """The sign-ins of one dashboard.

    Raises
    ------
    InputError
        The provider cannot be asked, or it is not the one that was named.
    """

    def __init__(self, settings: Settings) -> None:
        check_address("--oidc-issuer", settings.issuer)
        self.settings = settings
        self.cookie = f"consortia-sign-in-{secrets.token_hex(4)}"
        self.secure = settings.address.startswith("https:")
        self._begun = Tickets(most=_MOST_BEGUN)
        self._found = self._discover()
        offered = self._found.get("id_token_signing_alg_values_supported", ["RS256"])
        self._algorithms = sorted(_ALGORITHMS & set(offered))
        if not self._algorithms:
            raise InputError(
                "--oidc-issuer: wanted a provider that signs with a private key, got none of RS, PS, ES, Ed"
            )
        self._one = threading.Lock()
        self._asked, self._keys = time.monotonic(), self._ask_keys()

    def add_pages(self, app: FastAPI, door: Door) -> None:
        """Add the two addresses of a sign-in: where it begins, and where the browser comes back to."""

        @app.get("/sign-in/provider")
        async def begin() -> Response:
            url, browser = self.begin()
            answer = RedirectResponse(url, 303)
            # Lax: the browser must bring it along when the provider, another site, sends it back.
            answer.set_cookie(
                self.cookie, browser, max_age=600, path="/sign-in", httponly=True, samesite="lax", secure=self.secure
            )
            return answer

        @app.get(CALLBACK)
        async def come_back(request: Request) -> Response:
            browser = cookie(request.headers, self.cookie)
            try:
                found = await run_in_threadpool(self.finish, dict(request.query_params), browser)
            except NotSignedInError as error:
                return await door.refuse(str(error))
            # A page, not a redirect: a browser that another site sent here does not bring a strict cookie along.
            answer = await door.admit(found, door.page("signed_in.html"), secure=self.secure)
            answer.delete_cookie(self.cookie, path="/sign-in", httponly=True, samesite="lax", secure=self.secure)
            return answer

    def begin(self) -> tuple[str, str]:
        """Return the provider's address for a new sign-in, and what its browser must bring back in our cookie."""
        nonce, verifier, browser = (secrets.token_urlsafe(48) for _ in range(3))
        state = self._begun.give((nonce, verifier, _digest(browser)))
        with self._client() as client:
            endpoint = self._found["authorization_endpoint"]
            url, _ = client.create_authorization_url(endpoint, state=state, nonce=nonce, code_verifier=verifier)
        return url, browser

    def finish(self, query: Mapping[str, str], browser: str) -> Session:
        """Check what the provider sent the browser back with, and return who signed in, by the provider's own name.

        Raises
        ------
        NotSignedInError
        """
        begun = self._begun.take(query.get("state", ""))
        if begun is None or not hmac.compare_digest(begun[2], _digest(browser)):
            raise NotSignedInError("This sign-in was not begun in this browser, was used before, or is too old.")
        nonce, verifier, _ = begun
        if "code" not in query or query.get("iss", self.settings.issuer) != self.settings.issuer:
            raise NotSignedInError("The provider did not sign you in.")
        claims = self._claims(query["code"], verifier, nonce)
        roles = _roles(claims, self.settings.claim)
        if not roles & {self.settings.look, self.settings.change}:
            raise NotSignedInError("You have no role for this dashboard. Its operator can tell which one it wants.")
        return Session(self.settings.change in roles, str(claims["sub"]), time.monotonic() + _SESSION_SECONDS)

    def _claims(self, code: str, verifier: str, nonce: str) -> Mapping[str, Any]:
        """Trade the code for the ID token, and return its claims once all of them are checked."""
        try:
            with self._client() as client:
                endpoint = self._found["token_endpoint"]
                answer = client.fetch_token(
                    endpoint, grant_type="authorization_code", code=code, code_verifier=verifier
                )
            token = self._verified(str(answer["id_token"]))
            options: Any = {
                "iss": {"essential": True, "value": self.settings.issuer},
                "aud": {"essential": True, "value": self.settings.client_id},
            }
            told = {"nonce": nonce, "client_id": self.settings.client_id, "access_token": answer.get("access_token")}
            checked = CodeIDToken(token.claims, token.header, options, told)
            checked.validate(leeway=_LEEWAY_SECONDS)
        except JoseError:
            raise NotSignedInError("The provider's token is not for this dashboard, or no longer counts.") from None
        except Exception:  # noqa: BLE001 - of the network or the provider; its text may hold the code
            raise NotSignedInError("The provider gave no token that can be read.") from None
        return dict(checked)

    def _verified(self, token: str) -> jwt.Token:
        registry = JWSRegistry(algorithms=self._algorithms, strict_check_header=False)
        try:
            return jwt.decode(token, self._keys, registry=registry)
        except InvalidKeyIdError:  # the provider may have a new key
            with self._one:
                if time.monotonic() - self._asked < _KEYS_SECONDS:
                    raise
                self._asked, self._keys = time.monotonic(), self._ask_keys()
            return jwt.decode(token, self._keys, registry=registry)

    def _client(self) -> OAuth2Client:
        methods = self._found.get("token_endpoint_auth_methods_supported", _METHODS) if self.settings.secret else ()
        return OAuth2Client(
            self.settings.client_id,
            self.settings.secret or None,
            token_endpoint_auth_method=next((each for each in _METHODS if each in methods), None),
            scope="openid profile",
            redirect_uri=self.settings.address + CALLBACK,
            code_challenge_method="S256",
            timeout=_ANSWER_SECONDS,
            verify=_trusted(),
        )

    def _ask_keys(self) -> KeySet:
        keys: Any = _read(self._found["jwks_uri"])
        return KeySet.import_key_set(keys)

    def _discover(self) -> dict[str, Any]:
        issuer = self.settings.issuer
        try:
            found = _read(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            endpoints = [str(found[f"{name}"]) for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")]
        except Exception as error:  # noqa: BLE001 - of the network or of what is no provider
            raise InputError(
                f"--oidc-issuer {issuer}: wanted an OpenID Connect provider with /.well-known/openid-configuration, "
                f"got {type(error).__name__}; check the address, and that this machine reaches it"
            ) from None
        if found.get("issuer") != issuer:
            raise InputError(
                f"--oidc-issuer {issuer}: wanted a provider of exactly that issuer, got another; copy its own"
            )
        for endpoint in endpoints:
            check_address(f"--oidc-issuer {issuer}", endpoint)
        return found


def check_address(option: str, address: str) -> None:
    """Refuse an address that is neither https nor http on this machine.

    Raises
    ------
    InputError
    """
    parts = urlsplit(address)
    local = parts.hostname in {"localhost", "127.0.0.1", "::1"}
    if not parts.hostname or parts.scheme not in ({"http", "https"} if local else {"https"}):
        raise InputError(f"{option}: wanted an https address (http on this machine alone), got another")


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Return the authorities that this machine trusts; reading them takes longer than asking."""
    return ssl.create_default_context()


def _read(address: str) -> dict[str, Any]:
    with OAuth2Client(timeout=_ANSWER_SECONDS, verify=_trusted()) as client:
        answer = client.request("GET", address, withhold_token=True)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
    return found


def _roles(claims: Mapping[str, Any], claim: str) -> set[str]:
    """Return the roles of a token: those of the claim of that whole name, else of the one that its points lead to."""
    found: Any = claims.get(claim)
    if found is None:
        found = claims
        for part in claim.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    given = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    return {role for role in given if isinstance(role, str)}


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()

"""Sign-in at a provider: who comes in, with what, and each way in which it does not count."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from command_line import APP
from dashboard_pages import TOKEN, get, signed
from fastapi import FastAPI
from joserfc.jwk import ECKey, OctKey
from oidc_provider import CLIENT, SECRET, Provider, running
from typer.testing import CliRunner

from consortia.cli.dashboard import _provider
from consortia.common.acts import FILE, verify
from consortia.common.errors import InputError
from consortia.dashboard import oidc, security, serve
from consortia.dashboard.app import build
from consortia.dashboard.coordinator import CoordinatorView
from consortia.dashboard.oidc import Settings, SignIn, check_address

HERE = "http://127.0.0.1"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def one_provider() -> Iterator[Provider]:
    with running() as provider:
        yield provider


@pytest.fixture
def provider(one_provider: Provider) -> Provider:
    one_provider.__init__(one_provider.address)  # type: ignore[misc]
    return one_provider


def _settings(provider: Provider, **changes: str) -> Settings:
    given = {
        "issuer": provider.issuer,
        "client_id": CLIENT,
        "secret": SECRET,
        "address": HERE,
        "claim": "roles",
        "look": "viewer",
        "change": "coordinator",
    }
    return Settings(**{**given, **changes})


def _app(provider: Provider, *, changes: bool = True, token: str = "", **settings: str) -> FastAPI:
    sign_in = SignIn(_settings(provider, **settings))
    return build(CoordinatorView(Path(), None), token, provider=sign_in, changes=changes)


def _cookie(answer: httpx.Response) -> dict[str, str]:
    return {"Cookie": answer.headers["set-cookie"].split(";")[0]}


def _begin(app: FastAPI) -> tuple[str, dict[str, str]]:
    """Begin a sign-in; return where the provider sends the browser back to, and the browser's cookie."""
    answer = get(app, "/sign-in/provider")
    assert answer.status_code == 303
    back = httpx.get(answer.headers["location"], verify=False)
    assert back.status_code == 302
    return back.headers["location"].removeprefix(HERE), _cookie(answer)


def _come_in(app: FastAPI) -> httpx.Response:
    back, browser = _begin(app)
    return get(app, back, headers=browser)


def test_whoever_has_a_role_comes_in_and_may_do_what_it_says(provider: Provider) -> None:
    app = _app(provider)
    assert get(app, "/").headers["location"] == "/sign-in"
    page = get(app, "/sign-in").text
    assert 'href="/sign-in/provider"' in page
    assert "<form" not in page
    for roles, change in ((["viewer"], 403), (["else", "coordinator"], 422)):
        provider.claims["roles"] = roles
        answer = _come_in(app)
        assert answer.status_code == 200
        assert 'http-equiv="refresh" content="0;url=/"' in answer.text
        who = _cookie(answer)
        assert get(app, "/", headers=who).status_code == 200
        made = get(app, "/change/run", "POST", headers={**who, "Origin": HERE}, data={"scenario": "none"})
        assert made.status_code == change
    assert get(app, "/sign-out", "POST", headers=who).status_code == 303
    assert get(app, "/", headers=who).status_code == 303


def test_a_role_to_change_only_looks_where_nothing_may_be_changed(provider: Provider) -> None:
    provider.claims["roles"] = "coordinator"
    app = _app(provider, changes=False)
    who = _cookie(_come_in(app))
    assert get(app, "/", headers=who).status_code == 200
    assert get(app, "/change/run", "POST", headers={**who, "Origin": HERE}).status_code == 405


def test_a_claim_may_lie_deeper(provider: Provider) -> None:
    provider.claims = {"realm_access": {"roles": ["viewer"]}, "https://a.b/roles": ["viewer"]}
    for claim in ("realm_access.roles", "https://a.b/roles"):
        assert _come_in(_app(provider, claim=claim)).status_code == 200
    assert _come_in(_app(provider, claim="realm_access.groups")).status_code == 403


def _nonce_of_before(provider: Provider, app: FastAPI) -> None:
    kept: dict[str, Any] = {}
    provider.spoil = lambda claims: kept.update(nonce=claims["nonce"]) or claims  # type: ignore[func-returns-value]
    assert _come_in(app).status_code == 200
    provider.spoil = lambda claims: {**claims, "nonce": kept["nonce"]}


def _spoilt(**changes: Any) -> Callable[[Provider, FastAPI], None]:
    def spoil(provider: Provider, app: FastAPI) -> None:
        provider.spoil = lambda claims: {k: v for k, v in {**claims, **changes}.items() if v is not None}

    return spoil


def _other_key(provider: Provider, app: FastAPI) -> None:
    provider.signs_with = ECKey.generate_key("P-256", {"kid": "first"}, auto_kid=False)


def _unknown_key(provider: Provider, app: FastAPI) -> None:
    provider.signs_with = ECKey.generate_key("P-256", {"kid": "second"}, auto_kid=False)
    provider.header = {"alg": "ES256", "kid": "second"}


def _shared_secret(provider: Provider, app: FastAPI) -> None:
    provider.signs_with = OctKey.import_key(SECRET)
    provider.header = {"alg": "HS256"}


def _unsigned(provider: Provider, app: FastAPI) -> None:
    provider.header = {"alg": "none"}


BROKEN = {
    "wrong issuer": _spoilt(iss="https://elsewhere.example"),
    "wrong audience": _spoilt(aud="another-client"),
    "wrong audience, authorized for us": _spoilt(aud="another-client", azp=CLIENT),
    "audiences without us": _spoilt(aud=["another-client", "a-third"]),
    "for us and others, authorized for another": _spoilt(aud=[CLIENT, "other"], azp="other"),
    "expired": _spoilt(exp=int(time.time()) - 600),
    "without an end": _spoilt(exp=None),
    "from the future": _spoilt(nbf=int(time.time()) + 3600),
    "nonce of an earlier sign-in": _nonce_of_before,
    "without a nonce": _spoilt(nonce=None),
    "another access token": _spoilt(at_hash="AAAAAAAAAAAAAAAAAAAAAA"),
    "role missing": _spoilt(roles=["owner:hospital-a", "Viewer"]),
    "roles of another form": _spoilt(roles={"viewer": True}),
    "no roles": _spoilt(roles=None),
    "another's key": _other_key,
    "a key that the provider does not list": _unknown_key,
    "signed with the client's secret": _shared_secret,
    "unsigned": _unsigned,
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_token_that_is_not_for_this_sign_in_opens_nothing(
    provider: Provider, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "consortia")
    app = _app(provider)
    BROKEN[broken](provider, app)
    answer = _come_in(app)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert not any(token in answer.text + caplog.text for token in provider.tokens)


def test_a_sign_in_counts_once_and_in_its_own_browser(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    app = _app(provider)
    back, browser = _begin(app)
    _, other = _begin(app)
    stolen, _ = _begin(app)
    assert get(app, stolen, headers=other).status_code == 403  # an address that was sent to somebody
    assert get(app, stolen).status_code == 403
    assert get(app, back, headers=browser).status_code == 200
    assert "used before" in get(app, back, headers=browser).text
    assert get(app, "/sign-in/callback?code=1&state=x", headers=browser).status_code == 403
    monkeypatch.setattr(security, "_TICKET_SECONDS", 0.0)
    late, browser = _begin(app)
    assert "too old" in get(app, late, headers=browser).text


def test_what_the_provider_refuses_is_not_repeated(provider: Provider) -> None:
    app = _app(provider)
    back, browser = _begin(app)
    state = re.search(r"state=([^&]+)", back)
    assert state
    answer = get(app, f"/sign-in/callback?error=Lovelace&state={state[1]}", headers=browser)
    assert answer.status_code == 403
    assert "Lovelace" not in answer.text
    back, browser = _begin(app)
    assert get(app, f"{back}&iss=https://elsewhere.example", headers=browser).status_code == 403  # RFC 9207
    assert _come_in(_app(provider, secret="another")).status_code == 403


def test_code_and_tokens_stand_in_no_page_cookie_or_log(provider: Provider, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    app = _app(provider)
    begun = get(app, "/sign-in/provider")
    back, browser = _begin(app)
    answer = get(app, back, headers=browser)
    told = "".join(f"{key}: {value}" for one in (begun, answer) for key, value in one.headers.multi_items())
    told += answer.text + caplog.text
    code = re.search(r"code=([^&]+)", back)
    assert code
    assert len(provider.tokens) == 2
    assert not any(secret in told for secret in (*provider.tokens, code[1], SECRET))
    session, *rest = answer.headers.get_list("set-cookie")
    assert "HttpOnly" in session
    assert "samesite=strict" in session.lower()
    assert "max-age=0" in rest[0].lower()  # the sign-in's own is gone
    assert {"HttpOnly", "SameSite=lax", "Path=/sign-in"} <= set(begun.headers["set-cookie"].split("; "))
    assert "Secure" not in session
    safe = build(CoordinatorView(Path(), None), "", provider=SignIn(_settings(provider, address="https://a.example")))
    assert "Secure" in get(safe, "/sign-in/provider").headers["set-cookie"]


def test_the_token_opens_metrics_alone(provider: Provider) -> None:
    app = _app(provider, token=TOKEN)
    assert signed(app, "/metrics").status_code == 200
    assert signed(app, "/").status_code == 303
    assert signed(app, "/live").status_code == 401
    assert get(app, "/sign-in", "POST", data={"token": TOKEN}).status_code == 403
    assert get(_app(provider), "/metrics", headers={"Authorization": "Bearer "}).status_code == 401
    assert get(_app(provider), "/sign-in", "POST", data={"token": ""}).status_code == 403


def test_a_session_ends_by_itself(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "_SESSION_SECONDS", 0.0)
    app = _app(provider)
    assert get(app, "/", headers=_cookie(_come_in(app))).status_code == 303


def test_a_new_key_of_the_provider_is_asked_for_once_a_minute(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = _app(provider)
    provider.key = provider.signs_with = ECKey.generate_key("P-256", {"kid": "second"}, auto_kid=False)
    provider.header = {"alg": "ES256", "kid": "second"}
    assert _come_in(app).status_code == 403  # the keys were read a moment ago
    monkeypatch.setattr(oidc, "_KEYS_SECONDS", 0.0)
    assert _come_in(app).status_code == 200


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"issuer": "https://elsewhere.example"}, "exactly that issuer"),
        ({"token_endpoint": "http://elsewhere.example/token"}, "wanted an https address"),
        ({"id_token_signing_alg_values_supported": ["HS256", "none"]}, "signs with a private key"),
        ({"jwks_uri": None}, "wanted an https address"),
    ],
)
def test_a_provider_that_is_another_is_refused_at_the_start(
    provider: Provider, change: dict[str, Any], told: str
) -> None:
    provider.metadata |= change
    with pytest.raises(InputError, match=told):
        SignIn(_settings(provider))


@pytest.mark.parametrize("address", ["http://fed.example", "ftp://localhost", "fed.example", ""])
def test_an_address_without_tls_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="wanted an https address"):
        check_address("--oidc-issuer", address)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--oidc-client-id", "a"], "--oidc-issuer: wanted"),
        (["--oidc-issuer", "https://a.example"], "--oidc-client-id: wanted"),
        (["--oidc-issuer", "http://a.example", "--oidc-client-id", "a"], "--oidc-issuer: wanted an https address"),
        (["--oidc-issuer", "http://127.0.0.1:1", "--oidc-client-id", "a"], "got ConnectError"),
        (["--oidc-issuer", "https://a", "--oidc-client-id", "a", "--oidc-address", "http://a.b"], "--oidc-address"),
        (["--oidc-issuer", "https://a", "--oidc-client-id", "a", "--oidc-secret-file", "none"], "--oidc-secret-file"),
    ],
)
def test_what_is_wrong_is_said_before_it_serves(tmp_path: Path, words: list[str], told: str) -> None:
    arguments = ["dashboard", "--runs", str(tmp_path), "--port", "0", *words]
    done = CliRunner().invoke(APP, arguments, env={"COLUMNS": "300"})
    assert done.exit_code == 2
    assert told in " ".join(done.output.split())


def test_the_command_says_which_roles_it_wants_and_no_secret(
    provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: dict[str, Any] = {}
    monkeypatch.setattr(serve, "serve", lambda *_, **options: got.update(options))
    monkeypatch.setenv("CONSORTIA_OIDC_SECRET", SECRET)
    monkeypatch.delenv("CONSORTIA_DASHBOARD_TOKEN", raising=False)
    words = ["--runs", str(tmp_path), "--port", "0", "--allow-changes", "--oidc-client-id", CLIENT]
    done = CliRunner().invoke(APP, ["dashboard", *words, "--oidc-issuer", provider.issuer], env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.output
    assert "with the role viewer or coordinator" in done.output
    assert SECRET not in done.output
    assert (got["changes"], got["acts"]) == (True, tmp_path)
    assert got["provider"].settings.secret == SECRET
    settings = {"issuer": provider.issuer, "client_id": CLIENT, "secret": "", "address": HERE, "claim": "roles"}
    own = _provider("hospital-a", **settings).settings
    assert (own.look, own.change) == ("viewer:hospital-a", "owner:hospital-a")


def test_a_sign_in_at_a_provider_is_noted_by_its_name_there(provider: Provider, tmp_path: Path) -> None:
    app = build(CoordinatorView(tmp_path, None), "", provider=SignIn(_settings(provider)), acts=tmp_path)
    who = _cookie(_come_in(app))
    provider.claims = {}
    assert _come_in(app).status_code == 403
    get(app, "/sign-out", "POST", headers=who)
    told = [(line.who, line.act, line.outcome) for line in verify(tmp_path / FILE)]
    assert told == [("ada", "sign-in", "done"), ("nobody", "sign-in", "refused"), ("ada", "sign-out", "done")]
    assert not any(token in (tmp_path / FILE).read_text() for token in provider.tokens)


def test_nothing_of_it_is_imported_where_it_is_off() -> None:
    """One module imports it, and that module is imported inside of a function or for types alone."""
    texts = {file.name: file.read_text() for file in (ROOT / "platform").rglob("*.py")}
    library = re.compile(r"^\s*(from|import) (authlib|joserfc|httpx2)\b", re.MULTILINE)
    assert [name for name, text in texts.items() if library.search(text)] == ["oidc.py"]
    assert not [name for name, text in texts.items() if re.search(r"^(from|import) consortia.*\boidc\b", text, re.M)]
    assert [name for name, text in texts.items() if "consortia.dashboard.oidc import" in text]


@pytest.mark.end_to_end
@pytest.mark.filterwarnings("ignore")  # of its own libraries
def test_a_provider_that_is_not_ours_signs_in() -> None:
    """`oidc-provider-mock`, a provider on Authlib's server side: discovery, form, code, token, keys."""
    from oidc_provider_mock import User, run_server_in_thread

    users = (User(sub="ada", claims={"roles": ["viewer"]}), User(sub="bob", claims={"roles": []}))
    with run_server_in_thread(require_client_registration=True, require_nonce=True, user_claims=users) as server:
        issuer = f"http://localhost:{server.server_port}"
        asked = {"redirect_uris": [f"{HERE}/sign-in/callback"]}
        client = httpx.post(f"{issuer}/oauth2/clients", json=asked).json()
        settings = {"issuer": issuer, "client_id": client["client_id"], "secret": client["client_secret"]}
        sign_in = SignIn(Settings(**settings, address=HERE, claim="roles", look="viewer", change="coordinator"))
        app = build(CoordinatorView(Path(), None), "", provider=sign_in)
        for subject, status in (("ada", 200), ("bob", 403)):
            begun = get(app, "/sign-in/provider")
            back = httpx.post(begun.headers["location"], data={"sub": subject}).headers["location"]
            assert get(app, back.removeprefix(HERE), headers=_cookie(begun)).status_code == status

"""Checks the way to the coordinator: address, TLS chain, name, expiry, clock, key. It sees no rows.

TLS is checked by a handshake of Python's own `ssl`, as the SuperNode's client does it. The key is checked by the call
with which a SuperNode says hello (and goodbye at once): only the SuperLink knows whose keys it knows.
"""

from __future__ import annotations

import datetime
import http.client
import socket
import ssl
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from consortia.common.errors import InputError
from consortia.deploy.kit import check_address
from consortia.deploy.pki_folder import DUE_DAYS, alternative_names, covers
from consortia.preflight.findings import Chain, Finding

CHECKS = ("address", "TLS chain", "name (SAN)", "expiry", "clock", "key")
_SECONDS = 5.0


def check_link(address: str, authority: Path, key: Path) -> list[Finding]:
    """Return what was found on the way to the coordinator, in order.

    Parameters
    ----------
    address : str
        host:port of the coordinator.
    authority : Path
        The certificate that came with the kit.
    key : Path
        The private node key; only its signature of a time leaves.
    """
    chain = Chain(*CHECKS)
    try:
        host, port = check_address(address)
    except InputError as error:
        return chain.stop(str(error), "write it as in the kit's compose.yml")
    if problem := _reach(host, port):
        return chain.stop(*problem)
    chain.ok(f"{host}:{port} answers")
    try:
        trusted = ssl.create_default_context(cafile=str(authority))
    except (OSError, ssl.SSLError):
        return chain.stop(f"{authority}: wanted certificates in PEM, got none", "take ca.crt from the kit again")
    try:
        shown = _certificate(host, port)
    except (OSError, ssl.SSLError) as error:
        return chain.stop(f"no TLS at {host}:{port} ({type(error).__name__})", "ask the coordinator for its TLS port")
    if problem := _verify(host, port, trusted, shown):
        return chain.stop(*problem)
    chain.ok(f"signed by {shown.issuer.rfc4514_string()}, which {authority.name} trusts")
    if covers(shown, host):
        chain.ok(f"the certificate is for {host}")
    else:
        chain.failed(
            f"the certificate is for {', '.join(alternative_names(shown)) or 'nobody'}, not for {host}",
            f"call it by one of these names, or the coordinator runs `make renew CONSORTIA_ADDRESS={address}`",
        )
    _expiry(chain, shown)
    if any(finding.status == "failed" for finding in chain.findings):
        return chain.rest("the certificate first")
    _clock(chain, host, port, trusted)
    _key(chain, address, authority, key)
    return chain.findings


def _reach(host: str, port: int) -> tuple[str, str] | None:
    try:
        socket.create_connection((host, port), _SECONDS).close()
    except socket.gaierror:
        return f"no host is called {host} here", "check the spelling, your DNS, or write its address into /etc/hosts"
    except ConnectionRefusedError:
        return f"{host} refuses port {port}", "check the port; is the coordinator up, with COMPOSE_PROFILES=open?"
    except TimeoutError:
        return f"{host}:{port} did not answer within {_SECONDS:.0f} s", "check the firewalls between you and it"
    except OSError as error:
        return f"no way to {host}:{port} ({error.strerror})", "check this machine's network and routes"
    return None


def _certificate(host: str, port: int) -> x509.Certificate:
    """Return the certificate that the server shows, whatever it is worth."""
    curious = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    curious.check_hostname = False
    curious.verify_mode = ssl.CERT_NONE  # to say what is wrong with it; nothing is sent over this connection
    with (
        socket.create_connection((host, port), _SECONDS) as raw,
        curious.wrap_socket(raw, server_hostname=host) as link,
    ):
        return x509.load_der_x509_certificate(link.getpeercert(binary_form=True) or b"")


#: OpenSSL's X509_V_ERR codes (x509_vfy.h) that have a check of their own: not yet valid, expired, host, address.
_OTHER_LINKS = {9, 10, 62, 64}


def _verify(host: str, port: int, trusted: ssl.SSLContext, shown: x509.Certificate) -> tuple[str, str] | None:
    try:
        with (
            socket.create_connection((host, port), _SECONDS) as raw,
            trusted.wrap_socket(raw, server_hostname=host),
        ):
            return None
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _OTHER_LINKS:
            return None
        return (
            f"the certificate is signed by {shown.issuer.rfc4514_string()}: {error.verify_message}",
            "ask the coordinator, by another way than this one, for its ca.crt; never go on without",
        )
    except (OSError, ssl.SSLError) as error:
        return (
            f"the handshake failed ({type(error).__name__})",
            "ask the coordinator; a proxy may be in between",
        )


def _expiry(chain: Chain, shown: x509.Certificate) -> None:
    now = datetime.datetime.now(datetime.UTC)
    start, end = shown.not_valid_before_utc, shown.not_valid_after_utc
    if now < start:
        chain.failed(f"the certificate starts at {start:%Y-%m-%d %H:%M} UTC, here it is {now:%Y-%m-%d %H:%M}",
                     "set this machine's clock (NTP)")  # fmt: skip
    elif now > end:
        chain.failed(f"the certificate ended on {end:%Y-%m-%d}, here it is {now:%Y-%m-%d}",
                     "the coordinator runs `make renew`; or set this machine's clock")  # fmt: skip
    else:
        soon = "; tell the coordinator to run `make renew`" if end - now < datetime.timedelta(days=DUE_DAYS) else ""
        chain.ok(f"{(end - now).days} days left{soon}")


def _clock(chain: Chain, host: str, port: int, trusted: ssl.SSLContext) -> None:
    """Compare with the server's own clock: a signature is valid for some minutes only."""
    link = http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=trusted)
    asked = datetime.datetime.now(datetime.UTC)
    try:
        link.request("GET", "/health")
        answer = link.getresponse()
        told = answer.getheader("date")
        there = parsedate_to_datetime(told) if told else None
    except (OSError, http.client.HTTPException, ValueError) as error:
        chain.failed(f"/health gave no answer ({type(error).__name__})", "is this the coordinator's port?")
        return
    finally:
        link.close()
    if there is None:
        chain.skip("the coordinator told no time")
        return
    # The answer was written some time between the question and now: what speaks for this clock counts.
    least, most = ((moment - there).total_seconds() for moment in (asked, datetime.datetime.now(datetime.UTC)))
    ahead = least if least > 0 else min(most, 0.0)
    # Flower refuses what was signed in its future or too long ago; a second is lost in the header's rounding.
    if ahead > SYSTEM_TIME_TOLERANCE + 1 or ahead < -(TIMESTAMP_TOLERANCE - _SECONDS):
        word = "ahead of" if ahead > 0 else "behind"
        chain.failed(f"this clock is {abs(ahead):.0f} s {word} the coordinator's", "set this machine's clock (NTP)")
    else:
        chain.ok(f"{abs(ahead):.0f} s from the coordinator's")


def _key(chain: Chain, address: str, authority: Path, file: Path) -> None:
    try:
        private = serialization.load_ssh_private_key(file.read_bytes(), None)
    except OSError as error:
        chain.failed(f"{file}: {type(error).__name__}", "make it: `docker compose run --rm keys`")
        return
    except (ValueError, TypeError):
        chain.failed(f"{file}: not a key in OpenSSH format without a passphrase", "ssh-keygen -t ecdsa -b 384 -N ''")
        return
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        chain.failed(
            f"{file}: a {type(private).__name__}", "Flower takes elliptic curves: ssh-keygen -t ecdsa -b 384 -N ''"
        )
        return
    interceptors: list[ProtobufClientInterceptor] = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(private, private.public_key()),
    ]
    hello = ActivateNodeRequest(
        public_key=public_key_to_bytes(private.public_key()), heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
    )
    try:
        with FleetHttpClient.from_server_address(address, False, authority.read_bytes(), interceptors) as fleet:
            node = fleet.ActivateNode(hello).node_id
            fleet.DeactivateNode(DeactivateNodeRequest(node_id=node))
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            chain.failed("the coordinator refuses the signature", "check the clock; is the key the one you sent?")
        elif error.response.status_code == httpx.codes.NOT_FOUND:
            chain.failed("no fleet API at this address", "ask the coordinator for the address of its proxy")
        else:
            chain.failed(
                "the coordinator does not know this key (or its SuperNode is online already)",
                "send NAME.pub to the coordinator, who runs `consortia participant key` and `register`",
            )
        return
    except httpx.HTTPError as error:
        chain.failed(f"no answer ({type(error).__name__})", "try again; ask the coordinator whether it is up")
        return
    chain.ok("the coordinator knows this key")

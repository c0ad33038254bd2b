"""Makes a join kit: the folder that a remote participant needs, with nothing of anybody else in it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import tomli_w
from cryptography import x509

import consortia
from clients import registry
from consortia.common.errors import InputError
from consortia.deploy.compose import mounted, starts_of, template
from consortia.deploy.kit_signature import sign_kit
from consortia.deploy.pki_folder import alternative_names, covers
from consortia.terms.scenario import Scenario

FILES = ("README.txt", "ca.crt", "compose.yml", "kit.json", "policy.toml", "scenario.toml")


def check_address(address: str) -> tuple[str, int]:
    """Return host and port of an address.

    Raises
    ------
    InputError
        When it is not HOST:PORT.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if (
        not host
        or not port.isdecimal()
        or not 0 < int(port) < 65536
        or not all(c.isalnum() or c in ".-:" for c in host)
    ):
        raise InputError(f"address: wanted HOST:PORT as participants call the coordinator, got {address!r}")
    return host, int(port)


def check_certificate(pki: Path, address: str) -> bytes:
    """Return the authority's certificate; the proxy's must be for the address.

    Raises
    ------
    InputError
        When there is none yet, or a participant that calls the address would refuse it.
    """
    host, _ = check_address(address)
    for name in ("ca.crt", "proxy.pem"):
        if not (pki / name).is_file():
            raise InputError(f"{pki / name}: wanted a certificate, got nothing there; `make up` makes it, or bring it")
    certificate = x509.load_pem_x509_certificates((pki / "proxy.pem").read_bytes())[0]
    if not covers(certificate, host):
        raise InputError(
            f"{pki / 'proxy.pem'}: wanted a certificate for {host}, got one for "
            f"{', '.join(alternative_names(certificate))}; run `make renew CONSORTIA_ADDRESS={address}`"
        )
    return (pki / "ca.crt").read_bytes()


def check_image(image: str) -> str:
    """Return the image's name when it fixes the content: NAME@sha256:… as it was pushed, or the ID sha256:….

    Raises
    ------
    InputError
        When it is a tag, which may be another image tomorrow.
    """
    if not re.fullmatch(r"(?:[a-z0-9][a-z0-9._/:-]*@)?sha256:[0-9a-f]{64}", image):
        raise InputError(
            f"--image: wanted NAME@sha256:DIGEST of a pushed image or its ID sha256:…, got {image!r}; "
            "`docker image inspect --format '{{.Id}}' IMAGE` prints the ID"
        )
    return image


def write_kit(
    folder: Path,
    scenario: Scenario,
    name: str,
    address: str,
    authority: bytes,
    *,
    has_key: bool,
    image: str = "",
    build: str = "",
    pki: Path | None = None,
) -> None:
    """Write the kit of one participant of the roster, with its industry's file where the client is one.

    Parameters
    ----------
    folder : Path
        Made; must not exist, since a kit may hold a ledger by now.
    address : str
        host:port of the coordinator, as the participant calls it.
    authority : bytes
        The certificate to trust.
    has_key : bool
        Whether the coordinator knows the participant's key already.
    image : str
        The image by digest or ID (`check_image`); without one the tag of `build`, or of this version.
    build : str
        The coordinator's build, with which the participant compares its own; not compared where it is unknown.
    pki : Path, optional
        The coordinator's folder of certificates, whose proxy's key signs the kit. A kit without a signature is refused
        by the participant.

    Raises
    ------
    InputError
        When the folder exists.
    """
    check_address(address)
    if folder.exists():
        raise InputError(f"{folder}: wanted no kit there yet, got one; a kit may hold a ledger, move it away first")
    participant = scenario.participant(name)
    alone = scenario.model_dump(mode="python", by_alias=True, exclude_none=True)
    # The roster is the coordinator's: a participant sees the contract and what is proposed to itself.
    alone["roster"] = [item for item in alone["roster"] if item["name"] == name]
    alone["expect"] = {}
    alone.pop("chosen", None)  # the rule read the whole roster; what it chose is in the contract
    terms = {
        "name": name,
        "scenario": scenario.name,
        "industry": participant.industry,
        "dataset": participant.dataset,
        "site": participant.site,
        "units": participant.units,
        "unit": participant.unit or "FILL IN",
        "epsilon": f"{participant.epsilon:g}",
        "delta": f"{participant.delta:g}",
        "contract": scenario.contract.sha256(),
        "releases": json.dumps(scenario.contract.of(participant.industry).releases),
        "address": address,
        "image": image or f"consortia-participant:${{CONSORTIA_TAG:-{build or consortia.__version__}}}",
        "image_name": image or f"consortia-participant:{build or consortia.__version__}",
        "build": build,
        # The owner gets the file from whoever made it, and puts it beside compose.yml.
        "start": mounted({name: name for name in starts_of(scenario, [participant.industry])}, "/home"),
        "key": "with your private key at keys/node.key"
        if has_key
        else f"makes your key; send {name}.pub to the coordinator",
    }
    folder.mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "clients").mkdir()
    if (client := registry.file_of(participant.industry)) is not None:
        (folder / "clients" / client.name).write_bytes(client.read_bytes())
    (folder / "ca.crt").write_bytes(authority)
    (folder / "scenario.toml").write_text(tomli_w.dumps(alone), encoding="utf-8")
    for file, source in (
        ("compose.yml", "kit_compose.yml.txt"),
        ("policy.toml", "kit_policy.toml.txt"),
        ("README.txt", "kit_readme.txt"),
    ):
        (folder / file).write_text(template(source).substitute(terms), encoding="utf-8")
    if pki is not None:
        sign_kit(folder, name, address, pki)

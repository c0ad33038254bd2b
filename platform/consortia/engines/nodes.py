"""Registers the keys of the roster at a SuperLink, and removes others.

Talks to the Control API directly: the `flwr` command lists no names. The version of Flower is pinned.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import httpx
from cryptography.hazmat.primitives import serialization
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest
from flwr.supercore.constant import NodeStatus
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from consortia.common.errors import RunFailedError


def reconcile(address: str, authority: Path, wanted: Mapping[str, Path]) -> list[str]:
    """Register the keys that are missing and revoke those that are nobody's any more; return what was done.

    Parameters
    ----------
    address : str
        host:port of the SuperLink.
    authority : Path
        The certificate that signs the SuperLink's.
    wanted : mapping of str to Path
        The public half of each participant's key, in OpenSSH form.

    Raises
    ------
    RunFailedError
        When the SuperLink refuses or cannot be reached.
    """
    keys = {name: _pem(path.read_bytes()) for name, path in wanted.items()}
    interceptors = [RuntimeVersionHttpInterceptor(component_name="flwr CLI")]
    done = []
    try:
        with ControlHttpClient.from_server_address(address, False, authority.read_bytes(), interceptors) as control:
            known = {}
            for node in control.ListNodes(ListNodesRequest()).nodes_info:
                if node.status == NodeStatus.UNREGISTERED:  # it stays on the list, and its key is never taken again
                    continue
                if keys.get(node.name) == node.public_key and node.name not in known:
                    known[node.name] = node.node_id
                else:
                    control.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
                    done.append(f"revoked {node.name or node.node_id}")
            for name, key in keys.items():
                if name not in known:
                    control.RegisterNode(RegisterNodeRequest(public_key=key, name=name))
                    done.append(f"registered {name}")
    except httpx.HTTPStatusError as error:
        told = FlowerError.from_json(error.response.text)
        raise RunFailedError(
            f"the SuperLink refused: {told.message if told else error.response.status_code}; a key that was revoked is "
            "never taken again: its participant makes a new one"
        ) from None
    except httpx.HTTPError as error:
        raise RunFailedError(f"the SuperLink at {address} did not answer: {type(error).__name__}") from None
    return done


def _pem(openssh: bytes) -> bytes:
    """Return a public key as Flower stores it."""
    return serialization.load_ssh_public_key(openssh).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

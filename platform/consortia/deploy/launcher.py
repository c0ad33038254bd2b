"""`python -m consortia.deploy.launcher`: what a participant runs beside its SuperNode, instead of `flower-superexec`.

Stock Flower unpacks the coordinator's bundle, puts its folder first on the path and starts a Python process for each
message in it: a bundle is code that runs where the rows are. This launcher takes the tasks instead.

Guarantees
----------
* A bundle is checked in memory (`consortia.messages.bundle`) and never written, imported or put on a path. A refused
  one gets the code BUNDLE_REFUSED, and the owner's log says why.
* The contract that a run is announced with is checked against the policy before any row is read. That of each message
  is checked again where it is used (`consortia.participant.handle`).
* The process that reads rows has no connection: it gets an envelope and gives one back through a pipe. What talks to
  the SuperNode reads no rows.
* Each message has a fresh process, forked after all imports (`consortia.deploy.forks`), with randomness of its own.
  PyTorch is loaded with the first message, and let go after ten minutes without one. Until then no process has it.
* Rows are read once a run, as long as policy and files stay as they are (`consortia.participant.kept_rows`). Between
  two messages they lie in memory (`consortia.deploy.shelf`), 512 MiB at most, and go with PyTorch.
* A process that dies or hangs is answered for at once, with an incident id.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import logging
import os
import sys
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from consortia.common.errors import ConsortiaError, InputError
from consortia.common.logs import JsonLines
from consortia.deploy.shelf import Shelf

#: Imported by the zygote before its first message, or inside functions on the way of one.
_LAZY = (
    "consortia.vertical.answer",
    "privacy._optimizer",
    "privacy.accounting",
    "sklearn.exceptions",
    "sklearn.linear_model",
    "torch.func",
)


def answer_in_child(shelf: Shelf, question: bytes) -> bytes:
    """Answer one question of the courier: runs in the fresh process."""
    from consortia.participant import kept_rows
    from consortia.participant.home import Home
    from consortia.vertical.answer import answer

    kept_rows.use(shelf)

    line, _, data = question.partition(b"\n")
    where: dict[str, Any] = json.loads(line)
    home = Home(
        Path(where["folder"]),
        where["participant"],
        simulation=where["simulation"] is True,
        ledger_folder=Path(where["ledger"]) if where["ledger"] else None,
    )
    return answer(data, home, where["source"])


_warmed: set[str] = set()


def warm(industries: Collection[str] | None = None) -> None:
    """Import what the first message would import, and run what sets itself up at first use. Draws nothing random.

    Parameters
    ----------
    industries : whose clients are loaded, by default all. A process that was forked from a warm one repeats nothing.
    """
    import torch

    from clients import registry
    from clients.dataset import prepare
    from clients.errors import ClientError
    from clients.sources import parse_source, read

    if industries is None and _warmed:
        return
    for name in registry.names() if industries is None else industries:
        # A client without synthetic rows is only slower the first time; a broken one is named when a message wants it.
        with contextlib.suppress(ClientError):
            client = registry.get(name)
            prepare(client, read(parse_source("synthetic:40"), client, client.sites[0], 0), quarantine_threshold=1.0)
    for module in _LAZY:
        importlib.import_module(module)
    torch.set_num_threads(1)
    # The first optimizer imports about 190 modules. No backward pass: autograd may start threads.
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    torch.optim.SGD([weight], 0.1).step()
    _warmed.update(registry.names() if industries is None else industries)


def command() -> int:
    """Serve as the command line says; bad input exits with status 2."""
    try:
        return main(sys.argv[1:])
    except ConsortiaError as problem:
        sys.stderr.write(f"{problem}\n")
        return 2


def main(arguments: list[str]) -> int:
    """Serve one SuperNode until a signal."""
    options = _parser().parse_args(arguments)
    if not options.root_certificates and not options.insecure:
        raise InputError("launcher: wanted --root-certificates FILE (or --insecure on a loopback address), got neither")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(None))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("consortia").setLevel(logging.INFO)
    # Read when they are loaded: no threads of theirs before a fork.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", JE_ARROW_MALLOC_CONF="background_thread:false")

    from consortia.deploy.forks import Asker, Zygote

    authority = _read(options.root_certificates) if options.root_certificates else None
    secret = _read(options.superexec_auth_secret_file)

    def courier(asker: Asker) -> int:
        # Flower is loaded in this process alone: neither the one that waits nor a message's has a use for it.
        from consortia.deploy.courier import Courier, SuperNode
        from consortia.messages import flower_pace

        flower_pace.speed_up()
        supernode = SuperNode(options.runtime_api_address, authority, secret)
        logging.getLogger("consortia.courier").info("ready for %s", supernode.address)
        return Courier(supernode, asker).serve()

    shelf = Shelf()
    return Zygote(partial(answer_in_child, shelf), warm, shelf=shelf).serve(courier)


def _read(file: Path) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: wanted a readable file, got {type(error).__name__}; check the path") from None
    if not data:
        raise InputError(f"{file}: wanted a secret or a certificate, got an empty file")
    return data


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m consortia.deploy.launcher", description=__doc__.split("\n")[0])
    parser.add_argument("--runtime-api-address", required=True, help="host:port of the participant's own SuperNode")
    parser.add_argument("--root-certificates", type=Path, help="the authority of the SuperNode's certificate")
    parser.add_argument("--insecure", action="store_true", help="no TLS to the SuperNode: loopback only")
    parser.add_argument("--superexec-auth-secret-file", required=True, type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(command())

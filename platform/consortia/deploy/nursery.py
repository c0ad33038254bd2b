"""`python -m consortia.deploy.nursery INDUSTRY…`: starts the programs of `--engine flower` as forks of one process.

A simulation on one machine starts a SuperLink, a ServerApp, and a SuperNode and a launcher for each participant. Each
would import Flower, and many of them PyTorch, Opacus, pandas and scikit-learn: up to ten seconds of CPU apiece. Here
they are imported once. Deployed participants do not use this: their processes share nothing.

Guarantees
----------
* Nothing of a participant is in this process: no row, key, policy or message. It reads names of programs, arguments and
  files from the command that started it.
* Nothing random is drawn before a fork; a child fills its global generators from the operating system (`forks`).
* It has one thread when it forks, else it ends. A child ends with it, and it ends with the command.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

# Read when libraries are loaded: no threads of theirs before a fork.
_QUIET: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
#: What can be started: the module and its function, which takes its arguments from `sys.argv`.
PROGRAMS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "consortia.deploy.launcher": ("consortia.deploy.launcher", "command"),
        "consortia.deploy.supernode": ("consortia.deploy.supernode", "main"),
        "consortia.deploy.coordinator_app": ("consortia.deploy.coordinator_app", "main"),
        "flower-superlink": ("consortia.deploy.superlink", "local"),
    }
)
#: Imported by what is started.
_ALSO: Final = ("consortia.deploy.courier", "consortia.server_app", "flwr.superlink.main")


def main(industries: list[str]) -> int:
    """Start what standard input asks for, a JSON object a line, until it ends; tell of each start and end."""
    os.environ.update(_QUIET)
    told = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    from consortia.common.forked import end_with_parent
    from consortia.deploy import launcher

    end_with_parent()
    for module in (*_ALSO, *(module for module, _ in PROGRAMS.values())):
        importlib.import_module(module)
    launcher.warm(industries)
    # What was imported lives in pages that all forks share. A collector that looked at it would copy them in each.
    gc.collect()
    gc.freeze()
    ended, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    asked = b""
    while True:
        ready, _, _ = select.select([0, ended], [], [])
        if ended in ready:
            os.read(ended, 4096)
            _tell_ended(told)
        if 0 in ready:
            data = os.read(0, 65536)
            if not data:
                return 0
            *lines, asked = (asked + data).split(b"\n")
            for line in lines:
                _tell(told, {"pid": _start(json.loads(line)), "started": True})


def _start(asked: Mapping[str, Any]) -> int:
    """Fork a program."""
    from consortia.common.forked import end_with_parent, fresh_globals
    from consortia.deploy.forks import leave, one_thread

    module, function = PROGRAMS[asked["program"]]
    one_thread()
    if child := os.fork():
        return child

    def program() -> int:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.setsid()
        end_with_parent()
        _redirect(asked)
        os.environ.clear()
        os.environ.update({**asked["environment"], **_QUIET})
        os.chdir(asked["folder"])
        fresh_globals()
        sys.argv = [asked["program"], *asked["arguments"]]
        found = getattr(importlib.import_module(module), function)()
        return found if isinstance(found, int) else 0

    leave(program)
    raise AssertionError  # the child has ended


def _redirect(asked: Mapping[str, Any]) -> None:
    """Close what belongs to this process, and open the child's own files."""
    os.closerange(3, 1024)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    for number, file in ((0, os.devnull), (1, asked["log"]), (2, asked["log"])):
        opened = os.open(file, os.O_RDONLY if number == 0 else flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)


def _tell_ended(told: int) -> None:
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if child == 0:
            return
        _tell(told, {"pid": child, "status": os.waitstatus_to_exitcode(status)})


def _tell(told: int, what: Mapping[str, Any]) -> None:
    os.write(told, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

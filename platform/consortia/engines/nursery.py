"""The engine's end of `consortia.deploy.nursery`: programs that are forked instead of started one by one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from consortia.common.errors import RunFailedError

__all__ = ["FORKED", "Forked", "Nursery"]

#: What is forked besides our own modules.
FORKED = frozenset({"flower-superlink"})
_LOST = -int(signal.SIGKILL)
_END_SECONDS = 5.0
#: The first start waits for all imports: ten seconds of a quiet core, many times that where others work.
_START_SECONDS = 300.0


class Forked:
    """A forked program, with what the engine needs of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended = threading.Event()
        self._status = 0

    def poll(self) -> int | None:
        """Return the exit status; None while it runs."""
        return self._status if self._ended.is_set() else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit status; subprocess.TimeoutExpired when it takes longer."""
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired([str(self.pid)], timeout or 0.0)
        return self._status

    def kill(self) -> None:
        """Kill it, if it runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def end(self, status: int) -> None:
        """Note that it has ended."""
        self._status = status
        self._ended.set()


class Nursery:
    """A process that has imported what programs need, and forks them.

    Parameters
    ----------
    industries : whose clients are loaded before the first fork.
    environment : of the process.
    log : takes what the process says when it fails.
    """

    def __init__(self, industries: Collection[str], environment: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own arguments
                [sys.executable, "-P", "-m", "consortia.deploy.nursery", *sorted(industries)],
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )  # it asks the kernel itself to end with this process
        self.pid = self._process.pid
        self._log = log
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._asks, self._tells = self._process.stdin, self._process.stdout
        self._forked: dict[int, Forked] = {}
        self._last = 0
        self._lost = False
        self._asking = threading.Lock()  # one question at a time, so that the next process that starts is its own
        self._known = threading.Condition()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def start(
        self, program: str, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
    ) -> Forked | None:
        """Start a program with its output in `log`; None if this process has ended, so that it has to start itself.

        Raises
        ------
        RunFailedError
            The process neither starts the program nor ends. It is killed.
        """
        asked = {"program": program, "arguments": list(arguments), "environment": dict(environment)}
        asked |= {"folder": str(folder), "log": str(log)}
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()  # whoever writes to it or waits for it goes on

        limit = threading.Timer(_START_SECONDS, give_up)
        limit.daemon = True
        limit.start()
        try:
            forked = self._ask(asked)
        finally:
            limit.cancel()
        if forked is None and late.is_set():
            raise RunFailedError(
                f"{program} was not started within {_START_SECONDS:.0f} s; see {self._log}, and try again when the "
                "machine is less busy"
            )
        return forked

    def _ask(self, asked: Mapping[str, Any]) -> Forked | None:
        with self._asking:
            self._last = 0
            try:
                self._asks.write(json.dumps(asked).encode() + b"\n")
                self._asks.flush()
            except (OSError, ValueError):  # it has ended, or was closed
                return None
            with self._known:
                self._known.wait_for(lambda: self._last or self._lost)
            return self._forked[self._last] if self._last else None

    def close(self) -> None:
        """End the process, and with it all that it started. Whatever is stuck in the kernel is left to it."""
        with contextlib.suppress(OSError):
            self._asks.close()
        for _ in range(2):
            try:
                self._process.wait(_END_SECONDS)
                break
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._listener.join(_END_SECONDS)

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError), self._tells as told:
            for line in told:
                self._note(json.loads(line))
        with self._known:
            self._lost = True
            for forked in self._forked.values():
                if forked.poll() is None:
                    forked.end(_LOST)
            self._known.notify_all()

    def _note(self, said: Mapping[str, int]) -> None:
        with self._known:
            if "started" in said:
                self._forked[said["pid"]] = Forked(said["pid"])
                self._last = said["pid"]
                self._known.notify_all()
            else:
                self._forked[said["pid"]].end(said["status"])

"""Forks one fresh process for each message from one that has imported everything (a zygote).

Importing torch, Opacus, pandas and scikit-learn takes seconds and some 300 MB; a fork takes milliseconds. So the zygote
is itself forked, from a small process, with the first message, and let go when none came for a while. What must not be
shared is drawn anew:

Guarantees
----------
* Every message has a process of its own, which answers once and ends. Nothing of one message is left for the next but
  what it puts on the shelf (`consortia.deploy.shelf`): rows of the owner's own, as data.
* Randomness (invariant 8): nothing random is drawn before the fork. A child fills its global generators from the
  operating system, and DP noise has a generator of its own (`privacy.randomness.FreshNoise`), which refuses to be
  used in another process than the one that made it.
* The zygote has one thread when it forks: a lock that another thread held would stay locked in the child for ever.
* A child that passes its time is ended by the kernel (SIGALRM); a child ends with the zygote; none writes a core file.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import select
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from consortia.common.forked import end_with_parent, fresh_globals
from consortia.deploy.shelf import Shelf

_LONGEST: Final = 86_400
_IDLE_SECONDS: Final = 600.0


class ChildEndedError(Exception):
    """The process of a message ended without an answer."""


@dataclass(frozen=True)
class Question:
    """What a child is asked.

    Attributes
    ----------
    data : bytes
        Passed to the zygote's `answer`.
    seconds : float
        After which the child is ended.
    """

    data: bytes
    seconds: float


class Zygote:
    """Forks one child for each question. The process that calls `serve` stays small; the zygote is a child of it.

    Parameters
    ----------
    answer : callable
        Runs in the child.
    warm : callable, optional
        Runs in the zygote before its first fork: imports what a child needs.
    idle_seconds : float
        How long the zygote is kept while there is no question and no child.
    shelf : Shelf, optional
        What children keep for later ones; it goes with the zygote.
    """

    def __init__(
        self,
        answer: Callable[[bytes], bytes],
        warm: Callable[[], None] = lambda: None,
        idle_seconds: float = _IDLE_SECONDS,
        shelf: Shelf | None = None,
    ) -> None:
        self._answer = answer
        self._warm = warm
        self._idle = idle_seconds
        self._shelf = shelf or Shelf(0)

    def serve(self, courier: Callable[[Asker], int]) -> int:
        """Run `courier` in a first child, pass its questions to a zygote, and return its exit status.

        The courier may start threads and open connections; this process and the zygote never do.
        """
        one_thread()
        gc.collect()
        gc.freeze()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        first = os.fork()
        if first == 0:
            ours.close()
            end_with_parent()
            # An exit status is what os._exit gets; the parent's clean-up is not the child's.
            leave(lambda: courier(Asker(theirs)))
        theirs.close()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os.kill(first, signal.SIGTERM))
        zygote: socket.socket | None = None
        working: list[int] = []  # one end of a pipe for each child, closed at the other end when the child ends
        with ours:
            while True:
                watched: list[socket.socket | int] = [ours, *working]
                ready, _, _ = select.select(watched, [], [], None if zygote is None or working else self._idle)
                for end in working[:]:
                    if end in ready:
                        os.close(end)
                        working.remove(end)
                if not ready and zygote is not None:
                    zygote.close()  # it ends
                    zygote = None
                if ours in ready:
                    _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
                    if not descriptors:  # the courier has ended
                        break
                    zygote, end = self._pass_on(zygote, descriptors[0], ours)
                    working.append(end)
                _collect_ended(first)
        _, status = os.waitpid(first, 0)
        return os.waitstatus_to_exitcode(status)

    def _pass_on(
        self, zygote: socket.socket | None, descriptor: int, control: socket.socket
    ) -> tuple[socket.socket, int]:
        """Give a question to the zygote, a new one where there is none; return it, and what tells the child's end."""
        end, childs = os.pipe()
        try:
            if zygote is not None:
                try:
                    socket.send_fds(zygote, [b"q"], [descriptor, childs])
                except OSError:  # it was killed
                    zygote.close()
                else:
                    return zygote, end
            zygote = self._new_zygote(control, descriptor, childs, end)
            socket.send_fds(zygote, [b"q"], [descriptor, childs])
            return zygote, end
        finally:
            os.close(descriptor)
            os.close(childs)

    def _new_zygote(self, control: socket.socket, *not_its_own: int) -> socket.socket:
        one_thread()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            ours.close()
            control.close()
            for descriptor in not_its_own:
                os.close(descriptor)
            end_with_parent()
            # Whoever ends a container asks every process; this one ends when its parent does.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            leave(lambda: self._zygote(theirs))
        theirs.close()
        return ours

    def _zygote(self, questions: socket.socket) -> int:
        self._warm()
        # Everything imported so far lives in pages that the children share; the collector must not touch them.
        gc.collect()
        gc.freeze()
        kept = self._shelf.open()
        while True:
            ready, _, _ = select.select([questions, kept], [], [])
            self._shelf.take()  # first: what a process kept is there for the question that follows its answer
            if questions not in ready:
                continue
            _, descriptors, _, _ = socket.recv_fds(questions, 1, 2)
            if not descriptors:
                return 0
            self._fork(descriptors[0], questions)
            os.close(descriptors[1])
            _collect_ended(0)

    def _fork(self, descriptor: int, control: socket.socket) -> None:
        one_thread()
        if os.fork() == 0:
            control.close()
            end_with_parent()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            gc.unfreeze()
            leave(lambda: self._child(socket.socket(fileno=descriptor)))
        os.close(descriptor)

    def _child(self, link: socket.socket) -> int:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        fresh_globals()
        with link:
            seconds, size = struct.unpack("<dQ", _receive(link, 16))
            signal.setitimer(signal.ITIMER_REAL, min(max(seconds, 1.0), _LONGEST))
            reply = self._answer(_receive(link, size))
            link.sendall(struct.pack("<Q", len(reply)) + reply)
        return 0


class Asker:
    """The courier's end: asks the zygote for one process a question."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def ask(self, question: Question, waiting: Callable[[], bool], every: float) -> bytes:
        """Return the answer of a fresh process.

        Parameters
        ----------
        question : Question
        waiting : callable
            Called again and again while the child works; False gives up, and the child is ended.
        every : float
            Seconds between two calls.

        Raises
        ------
        ChildEndedError
            When the child ended without an answer, for whatever reason.
        """
        mine, its = socket.socketpair()
        with mine:
            with its:
                socket.send_fds(self._control, [b"q"], [its.fileno()])
            try:
                mine.settimeout(every)
                _send(mine, struct.pack("<dQ", question.seconds, len(question.data)), waiting)
                _send(mine, question.data, waiting)  # a large one is read when the zygote has its imports
                (size,) = struct.unpack("<Q", _patiently(mine, 8, waiting))
                return _patiently(mine, size, waiting)
            except (OSError, EOFError) as error:
                raise ChildEndedError(type(error).__name__) from None


def one_thread() -> None:
    if (threads := len(os.listdir("/proc/self/task"))) != 1:
        raise RuntimeError(f"the zygote: wanted one thread before a fork, got {threads}: {threading.enumerate()}")


def leave(work: Callable[[], int]) -> None:
    """Do the work of a forked process and end it there: nothing of the parent's stack runs a second time."""
    status = 1
    try:
        status = work()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - a child must end here, whatever happened
        # Its text may hold a value of a row; the place and the kind may be said.
        kind, _, trace = sys.exc_info()
        where = traceback.extract_tb(trace)[-1] if trace else None
        sys.stderr.write(f"{kind.__name__ if kind else 'error'} at {where.name if where else '?'}\n")
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _collect_ended(first: int) -> None:
    """Collect children that have ended; the courier's status is kept for later."""
    while True:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None or found.si_pid == first:
            return
        os.waitpid(found.si_pid, 0)


def _send(link: socket.socket, data: bytes, waiting: Callable[[], bool]) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[link.send(left[: 2**20]) :]
        except TimeoutError:
            if not waiting():
                raise EOFError from None


def _receive(link: socket.socket, size: int) -> bytes:
    return _patiently(link, size, lambda: True)


def _patiently(link: socket.socket, size: int, waiting: Callable[[], bool]) -> bytes:
    received = bytearray()
    while len(received) < size:
        try:
            part = link.recv(min(size - len(received), 2**20))
        except TimeoutError:
            if not waiting():
                raise EOFError from None
            continue
        if not part:
            raise EOFError
        received += part
    return bytes(received)

"""Memory that outlives a message's process: the zygote holds it, never looks into it, and hands it to the next one.

The process of a message reads rows by libraries that start threads (pyarrow, DuckDB), so nothing may fork after it, and
nothing does. It puts what it read into an anonymous file in memory (`memfd_create`), seals it, and hands the descriptor
to the zygote, which every later process is forked from.

Guarantees
----------
* Nothing is written to a disk: the file has no name, and is gone with its last descriptor. (A machine that swaps may
  swap it, as it may any process that holds rows.)
* The zygote maps nothing and starts no thread. What reaches it is one descriptor and 64 bytes; a file that is not
  sealed against every change, or too large, is closed.
* The courier, which has the connection, never has a descriptor: the zygote makes its own pair of sockets.
* At most `most` bytes are held. What was put last stays; it is let go with the zygote, after its idle minutes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections import OrderedDict
from typing import Final

_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_NAME_BYTES: Final = 32
MOST_BYTES: Final = 512 * 2**20


class Shelf:
    """Sealed files in memory, one a slot.

    Parameters
    ----------
    most : int
        Bytes of all files together.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._held: OrderedDict[bytes, tuple[bytes, int, int]] = OrderedDict()
        self._from: socket.socket | None = None
        self._to: socket.socket | None = None

    def open(self) -> socket.socket:
        """Make the sockets, in the zygote; return the one to be watched there."""
        self._from, self._to = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._from.setblocking(False)
        return self._from

    def take(self) -> None:
        """Take what processes of messages have put there: called in the zygote."""
        while self._from is not None:
            try:
                names, descriptors, _, _ = socket.recv_fds(self._from, 2 * _NAME_BYTES, 1)
            except BlockingIOError:
                return
            if not descriptors:
                continue
            self._hold(names, descriptors[0])

    def close(self) -> None:
        """Let everything go."""
        for slot in [*self._held]:
            self._drop(slot)
        for end in (self._from, self._to):
            if end is not None:
                end.close()

    def find(self, slot: bytes, key: bytes) -> str | None:
        """Return the path of the file that the slot holds under that key, or None: called in a message's process."""
        held = self._held.get(slot)
        return f"/proc/self/fd/{held[1]}" if held is not None and held[0] == key else None

    def put(self, slot: bytes, key: bytes, data: bytes) -> None:
        """Hand bytes to the zygote: called in a message's process."""
        if self._to is None or len(data) > self._most:
            return
        descriptor = os.memfd_create("rows", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(descriptor, left) :]
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            socket.send_fds(self._to, [slot + key], [descriptor])
        finally:
            os.close(descriptor)

    def _hold(self, names: bytes, descriptor: int) -> None:
        slot, key = names[:_NAME_BYTES], names[_NAME_BYTES:]
        sealed = False
        with contextlib.suppress(OSError):  # not a file in memory
            sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
        size = os.fstat(descriptor).st_size
        if not sealed or len(key) != _NAME_BYTES or size > self._most:
            os.close(descriptor)
            return
        self._drop(slot)
        while self._held and size + sum(each for _, _, each in self._held.values()) > self._most:
            self._drop(next(iter(self._held)))
        self._held[slot] = (key, descriptor, size)

    def _drop(self, slot: bytes) -> None:
        if (held := self._held.pop(slot, None)) is not None:
            os.close(held[1])

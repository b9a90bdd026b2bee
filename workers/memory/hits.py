"""How the writer learns what other processes have read: datagrams, which may be lost.

An eviction policy needs most of the hits, not all of them. Readers collect theirs and send a batch
to a socket beside the store; when nobody listens, or the buffer is full, the batch is forgotten.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

import msgpack

from workers.memory.running import Counts, Tally

# Of 256 slots of at most 484 octets: within the smallest default buffer for datagrams.
MOST = 256
_ADDRESS = 100
_LIMIT = 256 * 1024


def address(directory: Path) -> str:
    """Where the writer of the store in `directory` listens.

    The address of such a socket is short by nature; a long directory is replaced by its digest.
    """
    inside = str(directory / "hits")
    if len(os.fsencode(inside)) <= _ADDRESS:
        return inside
    digest = hashlib.blake2b(os.fsencode(directory), digest_size=12).hexdigest()
    return str(Path(tempfile.gettempdir()) / f"sage-hits-{os.getuid()}-{digest}")


class Sender:
    """A reader's end. `lost` counts batches that nobody took."""

    def __init__(self, directory: Path) -> None:
        self._address = address(directory)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self.lost = 0

    def send(self, tally: Tally) -> None:
        """Send what was collected, or forget it."""
        counts = {ns: (found.hits, found.misses) for ns, found in tally.counts.items()}
        try:
            self._socket.sendto(msgpack.packb((tally.slots, counts)), self._address)
        except OSError:
            self.lost += 1

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class Receiver:
    """The writer's end. Takes over the address from a writer that is gone."""

    def __init__(self, directory: Path) -> None:
        self._address = address(directory)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        with suppress(FileNotFoundError):
            os.unlink(self._address)
        self._socket.bind(self._address)
        os.chmod(self._address, 0o600)

    def take(self, most: int = 64) -> list[Tally]:
        """What has arrived, up to `most` batches. What makes no sense is left out."""
        found: list[Tally] = []
        while len(found) < most:
            try:
                data = self._socket.recv(_LIMIT)
            except OSError:
                break
            tally = _unpack(data)
            if tally is not None:
                found.append(tally)
        return found

    def close(self) -> None:
        """Close the socket; the next writer removes what is left of it."""
        self._socket.close()


def _unpack(data: bytes) -> Tally | None:
    tally = Tally()
    try:
        slots, counts = msgpack.unpackb(data)
        tally.slots = [slot for slot in slots if type(slot) is bytes]
        tally.counts = {str(ns): Counts(int(h), int(m)) for ns, (h, m) in counts.items()}
    except Exception:  # whoever may write into the directory may send anything
        return None
    return tally

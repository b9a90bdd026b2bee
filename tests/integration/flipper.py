"""Flips one bit of a store's file at a time and reports what a reader and a verification find.

Run with the directory, how many bits, and a seed. Each look happens in a process of its own, since
damage may crash it. Prints one JSON line a bit.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mesh.errors import CallError, ConfigError, DataCorrupted
from tests.conformance.storage.driver import Clock, Driver
from workers.storage import maintenance
from workers.storage.engine import LmdbEngine

LOOK_TIMEOUT = 20


def apart(look: Callable[[], Any]) -> dict[str, Any]:
    """What `look` returns in a forked process, or the signal that ended it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            signal.alarm(LOOK_TIMEOUT)
            os.write(writing, json.dumps({"found": look()}).encode())
            os._exit(0)
        except BaseException as error:
            os.write(writing, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return {"signal": os.WTERMSIG(status)}
    found: dict[str, Any] = json.loads(text)
    return found


def read_all(path: Path, expected: dict[str, str]) -> dict[str, str]:
    """How each key reads: right, altered, missing or damaged."""
    try:
        engine = LmdbEngine(path, clock=Clock())
    except (DataCorrupted, ConfigError):
        return dict.fromkeys(expected, "refused")
    store = Driver(engine, Clock())
    found = {}
    for key, value in expected.items():
        try:
            if key.startswith("o"):
                data = store.content(key)
                read = None if data is None else data.hex()
            else:
                read = store.get(key)
            found[key] = "missing" if read is None else "right" if read == value else "altered"
        except CallError:
            found[key] = "damaged"
    return found


def verified(path: Path) -> list[str]:
    """What a verification finds."""
    try:
        return maintenance.verify(path).damage
    except (DataCorrupted, ConfigError) as error:
        return [str(error)]


def main() -> None:
    folder, count, seed = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    expected = json.loads((folder / "expected.json").read_text())
    source = (folder / "s" / "data.mdb").read_bytes()
    rng = random.Random(seed)
    for number in range(count):
        at, bit = rng.randrange(len(source)), rng.randrange(8)
        path = folder / f"flip{number}"
        path.mkdir(mode=0o700)
        damaged = bytearray(source)
        damaged[at] ^= 1 << bit
        (path / "data.mdb").write_bytes(damaged)
        (path / "data.mdb").chmod(0o600)
        shutil.copytree(folder / "s" / "objects", path / "objects")
        result = {
            "at": at,
            "bit": bit,
            "verified": apart(lambda path=path: verified(path)),  # type: ignore[misc]
            "read": apart(lambda path=path: read_all(path, expected)),  # type: ignore[misc]
        }
        print(json.dumps(result), flush=True)
        shutil.rmtree(path)


if __name__ == "__main__":
    main()

"""What is found after the power failed at any moment: every acknowledged write, nothing half-done.

The system calls by which a writer changes its file are recorded. From the record images of the file
are made as a crash could have left them: what was flushed is there, and of what was not each sector
of 512 octets is there or is not. Each image is opened and compared with what had been acknowledged.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests import support
from tests.conformance.storage.driver import Clock, Driver, opened_lmdb
from tests.integration.memory_mesh import SEED, SOAK
from tests.integration.torn_writer import SESSION, content, group
from workers.storage import maintenance

IMAGES = 600 if SOAK else 30
GROUPS = 300 if SOAK else 60
SECTOR = 512
HEAD = struct.Struct("<cqq")

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs LD_PRELOAD"),
    pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc"),
    pytest.mark.timeout(1200 if SOAK else 60),
]


@dataclass
class Record:
    """One entry of the record."""

    op: bytes
    offset: int
    data: bytes


@dataclass
class State:
    """What a store must hold: key -> kind, version, seed of its content."""

    keys: dict[str, tuple[str, int, int]] = field(default_factory=dict)

    def after(self, number: int, results: list[Any], seed: int) -> State:
        """The state after one more group."""
        keys = dict(self.keys)
        for (verb, key, chosen), result in zip(group(number, seed), results, strict=True):
            if verb == "delete":
                keys.pop(key, None)
            else:
                keys[key] = (verb, result, chosen)
        return State(keys)


def recorded(tmp_path: Path, flush: str) -> list[Record]:
    """What a writer has done."""
    library = tmp_path / "recorder.so"
    source = Path(__file__).with_name("recorder.c")
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True
    )
    record = tmp_path / "record"
    done = support.run(
        sys.executable, "-m", "tests.integration.torn_writer", str(tmp_path / "s"), str(GROUPS),
        str(SEED), flush, env={"LD_PRELOAD": str(library), "RECORD": str(record)}, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0, done.report()
    return list(_read(record.read_bytes()))


def _read(content: bytes) -> Iterator[Record]:
    at = 0
    while at < len(content):
        op, offset, length = HEAD.unpack_from(content, at)
        at += HEAD.size
        length = 0 if op == b"F" else length
        yield Record(op, offset, content[at : at + length])
        at += length


def image(records: list[Record], crash: int, rng: random.Random) -> bytes:
    """The file as a crash after the first `crash` records can have left it."""
    size = max((r.offset + len(r.data) for r in records[:crash]), default=0)
    durable = bytearray(size)
    waiting: list[Record] = []

    def keep(record: Record) -> None:
        durable[record.offset : record.offset + len(record.data)] = record.data

    for record in records[:crash]:
        if record.op == b"D":
            keep(record)
        elif record.op == b"W":
            waiting.append(record)
        elif record.op == b"F":
            for written in waiting:
                keep(written)
            waiting.clear()
    share = rng.random()  # from almost nothing to almost everything
    for written in waiting:
        end = written.offset + len(written.data)
        for begin in range(written.offset - written.offset % SECTOR, end, SECTOR):
            if rng.random() < share:
                low, high = max(begin, written.offset), min(begin + SECTOR, end)
                durable[low:high] = written.data[low - written.offset : high - written.offset]
    return bytes(durable)


class Expected:
    """What must be found after a crash at each moment of a record."""

    def __init__(self, records: list[Record]) -> None:
        self.states = [State()]
        self.results: list[list[Any]] = []
        for record in records:
            if record.op == b"A":
                number, results = json.loads(record.data)
                self.states.append(self.states[-1].after(number, results, SEED))
                self.results.append(results)
        self._records = records
        self.first = next(at for at, record in enumerate(records) if record.op == b"B")

    def acknowledged(self, crash: int) -> int:
        """How many groups were, before the crash."""
        return sum(record.op == b"A" for record in self._records[:crash])


def wrong(path: Path, expected: Expected, crash: int) -> str:
    """What is not as it must be in the store that a crash has left; empty if nothing is."""
    done = expected.acknowledged(crash)
    report = maintenance.verify(path)
    if report.damage:
        return f"damaged: {report.damage[:3]}"
    clock = Clock()
    engine = opened_lmdb(path, clock)
    try:
        store = Driver(engine, clock)
        found = {item["key"]: item["version"] for item in store.list_page(limit=1000)["items"]}
        for number in (done, done + 1):  # the group in hand is there as a whole, or is not
            if number >= len(expected.states):
                continue
            state = expected.states[number]
            if found == {key: version for key, (_, version, _) in state.keys.items()}:
                break
        else:
            return f"after {done} groups the store holds {found}"
        for key, (verb, _, chosen) in state.keys.items():
            value = store.get(key) if verb == "put" else store.object(key)["data"]
            if value != content(chosen):
                return f"{key} is not what was written"
        if done:  # a repetition of what was acknowledged is recognised
            verb, key, chosen = group(done - 1, SEED)[0]
            result = expected.results[done - 1][0]
            op = store.op("delete", [key]) if verb == "delete" else store.op("put", key, b"other")
            op.call = (SESSION, 100 * (done - 1), b"c" * 16)
            if store.execute(op) != [result]:
                return "an acknowledged request would be done twice"
    finally:
        engine.close()
    return ""


def outcomes(tmp_path: Path, records: list[Record], count: int) -> list[str]:
    """What is wrong with each of some images."""
    expected = Expected(records)
    rng = random.Random(SEED)
    found = []
    for number in range(count):
        crash = rng.randrange(expected.first, len(records) + 1)
        path = tmp_path / f"image{number}"
        path.mkdir(mode=0o700)
        (path / "data.mdb").write_bytes(image(records, crash, rng))
        os.chmod(path / "data.mdb", 0o600)
        found.append(apart(path, expected, crash))
        shutil.rmtree(path)
    return found


def apart(path: Path, expected: Expected, crash: int) -> str:
    """What is `wrong`, found by a child: LMDB ends the process where a tree is broken enough."""
    told = path.with_suffix(".told")
    child = os.fork()
    if not child:
        faulthandler.disable()
        try:
            told.write_text(wrong(path, expected, crash))
        except Exception as error:
            told.write_text(f"{type(error).__name__}: {error}")
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    return told.read_text() if not status else f"it ended with status {status}"


def test_every_acknowledged_write_survives_a_crash(tmp_path: Path) -> None:
    print(f"SAGE_SEED={SEED}")
    records = recorded(tmp_path, "flush")
    assert sum(record.op == b"A" for record in records) == GROUPS
    for op in (b"W", b"D", b"F"):  # pages, the page that makes them count, and a flush between
        assert sum(record.op == op for record in records) >= GROUPS
    assert [what for what in outcomes(tmp_path, records, IMAGES) if what] == []


def test_without_flushing_writes_are_lost(tmp_path: Path) -> None:
    """The test above finds what it looks for."""
    records = recorded(tmp_path, "unflushed")
    assert not any(record.op == b"F" for record in records[len(records) // 2 :])
    found = [what for what in outcomes(tmp_path, records, 20) if what]
    assert len(found) > 10

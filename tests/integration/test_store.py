"""The store between real processes: killed, stopped, raced, and out of disk."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.errors import ConfigError, DataCorrupted, StoreFull
from tests.conftest import SOAK
from tests.integration.store_worker import add, open_store, value
from tests.support import Child, Start
from workers.store import Job, ProgressWatch, Store, lock_holder, place

KILLS = 100 if SOAK else 10


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def start(process: Start, path: Path) -> Child:
    return process(sys.executable, "-m", "tests.integration.store_worker", str(path))


def acknowledged(child: Child) -> int:
    """The highest number that `child` has said to be on disk."""
    return max(map(int, re.findall(r"^ack (\d+)$", child.output(), re.MULTILINE)), default=0)


def check(store: Store, above: int = 0) -> int:
    """Read everything `above` a number: numbers without a gap, each with its value. The highest."""
    last = above
    with store.view() as view:
        for key, found in view.items(store.tables["numbers"], start=(above + 1).to_bytes(8, "big")):
            last += 1
            assert int.from_bytes(key, "big") == last
            assert found == value(last)
    return last


def gain(store: Store) -> None:
    gained = threading.Event()
    store.elect(lambda _: gained.set())
    assert gained.wait(10)


@pytest.mark.timeout(60 if not SOAK else 600)
def test_nothing_acknowledged_is_lost_when_writers_are_killed(process: Start, path: Path) -> None:
    """Each is killed at some moment of its work; this process reads all the time.

    What was read before is read again at the end only: meanwhile the writer writes, and reading all
    would take longer each time.
    """
    children = [start(process, path) for _ in range(3)]
    for child in children:
        child.expect("^stands ")
    times = []
    highest = seen = epoch = 0
    with open_store(str(path)) as reader:
        holder = wait_for_holder(path, None)
        for _ in range(KILLS):
            child = next(child for child in children if child.pid == holder)
            epoch = check_term(child, epoch)
            threading.Event().wait(random.uniform(0.0, 0.1))
            seen = check(reader, seen)
            assert seen >= highest
            killed_at = time.monotonic()
            child.kill()
            children.remove(child)
            children.append(start(process, path))
            holder = wait_for_holder(path, holder)
            next_one = next(child for child in children if child.pid == holder)
            gained_at = float(next_one.expect(r"^gained \d+ at (\S+)$")[1])
            times.append(gained_at - killed_at)
            child.wait()  # the rest of its output
            highest = max(highest, acknowledged(child))
            assert check(reader, seen) >= highest
            children[-1].expect("^stands ")
        assert reader.epoch == epoch + 1
        assert check(reader) >= highest
        assert highest
    times.sort()
    print(
        f"take-over of {KILLS}: p50 {times[len(times) // 2] * 1e3:.1f} ms,"
        f" max {times[-1] * 1e3:.1f} ms; {highest} acknowledged, none lost"
    )
    assert times[len(times) // 2] < 1.0


def wait_for_holder(path: Path, but: int | None) -> int:
    """Who holds the lock, once it is another one than `but`."""
    ends_at = time.monotonic() + 10
    while time.monotonic() < ends_at:
        holder = lock_holder(path)
        if holder not in (None, but):
            return holder or 0
        threading.Event().wait(0.001)  # the kernel tells, but does not call
    pytest.fail("nobody became the writer")


def check_term(child: Child, before: int) -> int:
    epoch = int(child.expect(r"^gained (\d+) at")[1])
    assert epoch == before + 1
    return epoch


def test_a_stopped_writer_is_seen_and_replaced(process: Start, path: Path) -> None:
    first, second = start(process, path), start(process, path)
    for child in (first, second):
        child.expect("^stands ")
    holder = wait_for_holder(path, None)
    stopped = first if first.pid == holder else second
    other = second if stopped is first else first
    stopped.expect("^ack ")
    watch = ProgressWatch(path, silence=1.0)
    ends_at = time.monotonic() + 2.0
    while time.monotonic() < ends_at:
        assert watch.look(time.monotonic()) is None
        threading.Event().wait(0.1)
    stopped.send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    while (stuck := watch.look(time.monotonic())) is None:
        assert time.monotonic() < stopped_at + 10
        threading.Event().wait(0.05)
    assert stuck.pid == stopped.pid
    assert "gained" not in other.output()
    os.kill(stuck.pid, signal.SIGKILL)
    other.expect("^gained 2 at")
    other.expect("^ack ")
    stopped.wait()
    other.kill()
    with open_store(str(path)) as store:
        assert check(store) >= max(acknowledged(stopped), acknowledged(other))


def test_whoever_comes_first_makes_the_store_and_all_agree_on_it(
    process: Start, path: Path
) -> None:
    children = [start(process, path) for _ in range(5)]
    names = {child.expect(r"^stands (\S+)$")[1] for child in children}
    assert len(names) == 1
    wait_for_holder(path, None)
    with open_store(str(path)) as store:
        assert {str(store.uuid)} == names
    assert sum("gained" in child.output() for child in children) == 1


def test_the_slot_of_a_killed_reader_is_cleared(process: Start, path: Path) -> None:
    read = "import sys, signal\n"
    read += "from tests.integration.store_worker import open_store\n"
    read += "store = open_store(sys.argv[1])\n"
    read += "with store.view():\n    print('reads', flush=True)\n    signal.pause()\n"
    with open_store(str(path)) as store:
        gain(store)
        child = process(sys.executable, "-c", read, str(path))
        child.expect("^reads")
        child.kill()
        while not store.counters["grown"]:
            assert store.execute([add(store)] * 100)[-1]
        assert store.counters["readers_cleared"] == 1


def test_a_changed_byte_on_disk_is_never_returned(path: Path) -> None:
    with open_store(str(path)) as store:
        gain(store)
        store.execute([add(store)] * 20)
    data = bytearray((path / place.DATA).read_bytes())
    spot = data.rindex(value(13))
    data[spot + len(value(13)) // 2] ^= 1
    (path / place.DATA).write_bytes(data)
    with open_store(str(path)) as store, store.view() as view:
        numbers = store.tables["numbers"]
        assert view.get(numbers, (12).to_bytes(8, "big")) == value(12)
        with pytest.raises(DataCorrupted, match="000000000000000d"):
            view.get(numbers, (13).to_bytes(8, "big"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_cannot_be_written_is_refused(small_disk: Path) -> None:
    """Whether or not there is a store on it."""
    path = small_disk / "store"
    for turn in range(2):
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        try:
            with pytest.raises(ConfigError, match="cannot be"):
                open_store(str(path))
        finally:
            subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        with open_store(str(path)) as store:
            gain(store)
            assert store.execute([add(store)]) == [turn + 1]


def test_a_full_disk_loses_nothing_and_is_left_behind(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    with open_store(str(small_disk / "store")) as store:
        gain(store)
        assert len(set(store.execute([add(store)] * 20))) == 20
        ballast.write_bytes(bytes(1024 * 1024))
        written = 20
        outcomes: list[object] = []
        while not any(isinstance(outcome, Exception) for outcome in outcomes):
            outcomes = store.execute([add(store)] * 50)
            written += sum(isinstance(outcome, int) for outcome in outcomes)
        full = next(outcome for outcome in outcomes if isinstance(outcome, StoreFull))
        assert "the disk under" in str(full) and not full.maybe_executed
        assert store.writing
        assert check(store) == written
        ballast.unlink()
        assert store.execute([add(store)] * 20)[-1] == written + 20
        # And with no disk to give back, by what is deleted.
        while not isinstance(outcome := store.execute([add(store)])[0], Exception):
            pass
        assert isinstance(outcome, StoreFull)
        numbers = store.tables["numbers"]
        gone = [key.to_bytes(8, "big") for key in range(1, 200)]
        for at in range(0, len(gone), 20):
            part = gone[at : at + 20]
            job = Job(lambda c, part=part: [c.delete(numbers, key) for key in part])  # type: ignore[misc]
            store.execute([job])
        assert isinstance(store.execute([add(store)])[0], int)
    with open_store(str(small_disk / "store")) as store, store.view() as view:
        found = list(view.items(store.tables["numbers"]))
        assert all(value(int.from_bytes(key, "big")) == kept for key, kept in found)

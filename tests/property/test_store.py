"""The store against a plain dictionary: groups of jobs of which some fail, repeats, reopenings."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.errors import InvalidArgument, OutcomeUnknown, StoreBusy
from workers.store import INDEX, PLAIN, Change, Job, Store, backup
from workers.store.dedup import KEEP, TABLES, WINDOW, Dedup, digest

KEYS = st.sampled_from([b"a", b"ab", b"b", b"\x00", b"\xff" * 511])
VALUES = st.one_of(st.binary(max_size=20), st.integers(1, 60_000).map(bytes))
# What a job does: puts and deletes, and whether it refuses before, or fails after them.
EDITS = st.lists(st.tuples(KEYS, st.none() | VALUES), max_size=4)
FATES = st.sampled_from(["done", "done", "done", "refused", "failed"])
SESSIONS = st.integers(1, 3)
SEQUENCES = st.sampled_from([0, 1, 2, WINDOW, WINDOW + 1, 2 * WINDOW])


class Failed(Exception):
    """A job that has written fails."""


class StoreMachine(RuleBasedStateMachine):
    """A group of jobs leaves in the store what its jobs that succeeded leave in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.model: dict[bytes, bytes] = {}
        self.known: dict[tuple[int, int], bytes] = {}
        self.highest: dict[tuple[int, int], int] = {}
        self.lowest: dict[int, int] = {}
        self.now = 0.0
        self.count = 0
        self.committed: list[int] = []
        self.copies = 0
        self.open()

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.directory)

    def open(self) -> None:
        self.store = Store.open(
            self.directory / "store",
            service="model",
            tables={"items": PLAIN, "keys": INDEX, **TABLES},
            map_size=128 * 1024,
        )
        self.stand()

    def stand(self) -> None:
        gained = threading.Event()
        self.store.elect(lambda _: gained.set())
        assert gained.wait(10)
        self.dedup = Dedup(self.store.tables, clock=lambda: self.now)

    def edit(self, number: int, edits: list[tuple[bytes, bytes | None]], fate: str) -> Job:
        items, keys = self.store.tables["items"], self.store.tables["keys"]

        def run(change: Change) -> list[bool]:
            if fate == "refused":
                raise InvalidArgument("refused")
            found = []
            for key, value in edits:
                found.append(change.has(items, key))
                if value is None:
                    change.delete(items, key)
                    change.delete(keys, b"all", key)
                else:
                    change.put(items, key, value)
                    change.put(keys, b"all", key)
            change.after_commit(lambda: self.committed.append(number))
            if fate == "failed":
                raise Failed
            return found

        return Job(run)

    @rule(group=st.lists(st.tuples(EDITS, FATES), max_size=6))
    def execute(self, group: list[tuple[list[tuple[bytes, bytes | None]], str]]) -> None:
        self.committed.clear()
        jobs = [self.edit(number, *spec) for number, spec in enumerate(group)]
        outcomes = self.store.execute(jobs)
        expected_commits = []
        for number, ((edits, fate), outcome) in enumerate(zip(group, outcomes, strict=True)):
            if fate == "refused":
                assert isinstance(outcome, InvalidArgument)
                continue
            if fate == "failed":
                assert isinstance(outcome, Failed)
                continue
            found = []
            for key, value in edits:
                found.append(key in self.model)
                if value is None:
                    self.model.pop(key, None)
                else:
                    self.model[key] = value
            assert outcome == found
            expected_commits.append(number)
        assert self.committed == expected_commits

    @rule(requests=st.lists(st.tuples(SESSIONS, SEQUENCES, st.booleans()), max_size=6))
    def ask(self, requests: list[tuple[int, int, bool]]) -> None:
        """Requests with ids: each is done at most once, whatever comes in between."""

        def job(session: int, sequence: int, fails: bool) -> Job:
            def run(change: Change) -> bytes:
                if fails:
                    raise Failed
                number = int(change.get(self.store.tables["items"], b"n") or b"0") + 1
                change.put(self.store.tables["items"], b"n", b"%d" % number)
                return b"%d" % number

            def once(change: Change) -> bytes:
                return self.dedup.once(
                    change, run, session=session, sequence=sequence, content=digest(b"same")
                )

            return Job(once)

        outcomes = self.store.execute([job(*request) for request in requests])
        for (session, sequence, fails), outcome in zip(requests, outcomes, strict=True):
            slot = (session, sequence % WINDOW)
            too_old = sequence < max(self.highest.get(slot, -1), self.lowest.get(session, 0))
            if too_old:
                assert isinstance(outcome, OutcomeUnknown)
            elif (session, sequence) in self.known:
                assert outcome == self.known[session, sequence]
            elif fails:
                assert isinstance(outcome, Failed)
            else:
                self.count += 1
                self.model[b"n"] = outcome
                assert outcome == b"%d" % self.count
                self.known[session, sequence] = outcome
                self.highest[slot] = sequence

    @rule()
    def forget(self) -> None:
        """All sessions have been idle for long."""
        self.now += KEEP
        self.store.execute([Job(self.dedup.sweep)])
        for session, sequence in self.known:
            self.lowest[session] = max(self.lowest.get(session, 0), sequence + 1)
        self.known.clear()
        self.highest.clear()

    @rule(restart=st.booleans())
    def reopen(self, restart: bool) -> None:
        if restart:
            self.store.close()
            self.open()
        else:
            self.store.resign()
            assert isinstance(self.store.execute([self.edit(0, [], "done")])[0], StoreBusy)
            self.stand()

    @precondition(lambda self: self.copies < 3)
    @rule(replace=st.booleans())
    def back_up(self, replace: bool) -> None:
        self.copies += 1
        copy = self.directory / f"copy-{self.copies}"
        self.store.backup(copy)
        assert backup.verify(copy).entries["items"] == len(self.model)
        if replace:
            self.store.close()
            backup.restore(copy, self.directory / "store", replace=True)
            self.open()

    @invariant()
    def the_store_holds_what_the_dictionary_holds(self) -> None:
        items, keys = self.store.tables["items"], self.store.tables["keys"]
        with self.store.view() as view:
            assert dict(view.items(items)) == self.model
            listed: Any = [key for _, key in view.items(keys)]
            assert listed == sorted(self.model.keys() - {b"n"})


StoreMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=30)
TestStore = StoreMachine.TestCase

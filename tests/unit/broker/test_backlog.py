"""What full queues have refused: kept in order, bounded, and sent when there is room."""

from __future__ import annotations

from collections.abc import Sequence
from errno import EAGAIN, EHOSTUNREACH

import pytest

from broker import backlog
from broker.backlog import AT_ONCE, Backlog, Frames


class Queue:
    """A peer's queue with `room` for some messages."""

    def __init__(self, room: int, error: int = EAGAIN) -> None:
        self.room = room
        self.error = error
        self.got: list[bytes] = []

    def send(self, messages: Sequence[Frames]) -> list[tuple[int, int]]:
        taken = messages[: self.room]
        self.room -= len(taken)
        self.got += [bytes(frames[-1]) for frames in taken]
        return [(index, self.error) for index in range(len(taken), len(messages))]


def filled(count: int, size: int = 1) -> Backlog:
    found = Backlog()
    for number in range(count):
        found.add(b"p", [b"p", b"%d" % number * size])
    return found


def test_what_is_kept_is_sent_in_order_as_far_as_there_is_room() -> None:
    kept = filled(5)
    queue = Queue(2)
    assert kept.retry(b"p", queue.send) == 0
    assert queue.got == [b"0", b"1"] and b"p" in kept
    kept.add(b"p", [b"p", b"5"])
    queue.room = 10
    assert kept.retry(b"p", queue.send) == 0
    assert queue.got == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert not kept and b"p" not in kept


def test_much_is_sent_in_portions() -> None:
    kept = filled(3 * AT_ONCE)
    queue = Queue(2 * AT_ONCE + 7)
    kept.retry(b"p", queue.send)
    queue.room = 3 * AT_ONCE
    kept.retry(b"p", queue.send)
    assert queue.got == [b"%d" % number for number in range(3 * AT_ONCE)]


def test_what_is_for_a_peer_that_has_gone_is_dropped_and_counted() -> None:
    kept = filled(5)
    assert kept.retry(b"p", Queue(2, EHOSTUNREACH).send) == 3
    assert not kept


def test_too_many_messages_are_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "MAX_MESSAGES", 3)
    assert not filled(3).overfull
    kept = filled(4)
    assert kept.overfull == {b"p"}
    kept.discard(b"p")
    assert not kept.overfull and not kept


def test_too_many_octets_are_too_much_but_one_message_never_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backlog, "MAX_OCTETS", 10 + 2 * backlog.OVERHEAD)
    assert not filled(1, 1000).overfull
    assert not filled(2, 4).overfull
    kept = filled(3, 4)
    assert kept.overfull == {b"p"}


def test_octets_that_were_sent_no_longer_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "MAX_OCTETS", 10 + 2 * backlog.OVERHEAD)
    monkeypatch.setattr(backlog, "MAX_TOTAL", 10 + 2 * backlog.OVERHEAD)
    kept = filled(2, 4)
    for number in range(20):
        kept.retry(b"p", Queue(1).send)
        kept.add(b"p", [b"p", b"%04d" % number])
    assert not kept.overfull


def test_where_all_have_too_much_the_one_with_most_is_parted_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backlog, "MAX_TOTAL", 10_000)
    kept = filled(3, 2000)
    for peer in (b"q", b"r"):
        for _ in range(3):
            kept.add(peer, [peer, bytes(300)])
    assert kept.overfull == {b"p"}
    kept.discard(b"p")
    for _ in range(3):
        kept.add(b"r", [b"r", bytes(300)])
    assert not kept.overfull
    for _ in range(12):
        kept.add(b"q", [b"q", bytes(300)])
    assert kept.overfull == {b"q"}


def test_peers_are_apart() -> None:
    kept = filled(1)
    kept.add(b"q", [b"q", b"x"])
    assert list(kept) == [b"p", b"q"]
    kept.retry(b"p", Queue(1).send)
    assert list(kept) == [b"q"]

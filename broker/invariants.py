"""Every invariant of the routing state, as assertions: what `Router.check` runs in tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.state import ACTIVE, EJECTED, Lane

if TYPE_CHECKING:
    from broker.router import Router


def check(router: Router) -> None:
    """Raise AssertionError where the state contradicts itself."""
    open_calls = 0
    held = 0
    waiting = set()
    for name, service in router.services.items():
        assert name == service.name
        stores = {worker.store.uuid for worker in service.workers.values()}
        assert len(stores) <= 1, "two stores serve one service"
        for worker in service.workers.values():
            assert router.workers[worker.peer] is worker, "a service lists a worker that is gone"
            for method in worker.declared:
                assert worker in service.declarations[method], "a declaration is lost"
        assert service.methods.keys() == service.declarations.keys()
        for method, holders in service.declarations.items():
            assert holders.keys() <= set(service.workers.values()), "a method of nobody"
            assert service.methods[method] == next(reversed(holders.values()))
        for lane in service.lanes.values():
            _check_lane(lane)
            for call in lane.queue:
                assert call.seat is None and not call.ended, "a call waits that is not waiting"
                assert call.lane is lane
                assert call.client.calls.get(call.sequence) is call, "nobody waits for this call"
                waiting.add(call)
    for peer, client in router.clients.items():
        assert client.peer == peer
        for sequence, call in client.calls.items():
            open_calls += 1
            held += call.size
            assert call.message is not None, "the message of an open call is gone"
            assert call.credit >= 0 and call.chunk_credit >= 0, "credit was overdrawn"
            assert call.sequence == sequence and call.client is client and not call.ended
            assert call.wheel_slot >= 0, "an open call has no timer"
            assert (call in waiting) != (call.seat is not None), "a call is in no place, or in two"
            if call.seat is not None:
                assert call.seat.worker.calls.get(call.tag) is call
    for peer, worker in router.workers.items():
        assert worker.peer == peer and worker.service.workers[peer] is worker
        assert peer not in router.expelled, "an expelled peer is still a worker"
        seated: dict[bytes, int] = {}
        for tag, call in worker.calls.items():
            assert call.tag == tag and call.seat is not None and call.seat.worker is worker
            seated[call.seat.lane.name] = seated.get(call.seat.lane.name, 0) + 1
        for lane_name, seat in worker.seats.items():
            assert seat.in_flight == seated.get(lane_name, 0), "a seat miscounts what it has"
            eligible = worker.state == ACTIVE and not worker.paused_until
            assert eligible or seat.bucket < 0, f"a {worker.state} worker may still get work"
            assert seat.lane.seats.get(worker) is seat
            if eligible and not worker.probing:
                free = seat.window - seat.in_flight
                assert seat.bucket == (free if free > 0 else -1), "free credit is not on offer"
        assert (worker in router.paused) == bool(worker.paused_until), "a pause without an end"
        assert worker.state != EJECTED or worker.paused_until, "ejected for ever"
    assert len(router.wheel) == open_calls, "a call that has ended still has a timer"
    assert all(router.workers.get(worker.peer) is worker for worker in router.paused)
    assert open_calls == router.accepted - router.finished, "a call ended twice or never"
    assert held == router.held_bytes, "held bytes are miscounted"


def _check_lane(lane: Lane) -> None:
    assert lane.queue.length == sum(1 for _ in lane.queue)
    assert lane.serving == sum(seat.window > 0 for seat in lane.seats.values())
    seats = list(lane.pool)
    assert lane.pool.size == len(seats)
    assert not (lane.queue.length and seats), "a call waits while fit credit is free"
    for seat in seats:
        free = seat.window - seat.in_flight
        assert seat.window > 0 and not (seat.worker.probing and seat.worker.calls)
        assert seat.worker.probing or seat.bucket == free > 0, "a seat stands in the wrong bucket"
        assert lane.seats.get(seat.worker) is seat, "the pool holds a seat of a worker that is gone"

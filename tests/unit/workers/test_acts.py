"""What the built-in services answer to a call that they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mesh import Service
from mesh.errors import INVALID_ARGUMENT
from mesh.protocol.messages import REQUEST, Message
from mesh.protocol.payload import encode
from mesh.service.invoke import FAIL
from mesh.service.lanes import Job
from mesh.service.requests import Entry, Lane, accept
from workers.acts import Act, Planned, finish, plan_all, portions
from workers.memory.operations import Op
from workers.memory.verbs import Verbs as Memory
from workers.search.verbs import Verbs as Search
from workers.storage.verbs import Verbs as Storage


@pytest.mark.parametrize(
    ("verbs", "arguments"), [(Memory(lambda: 0), [5]), (Search(), ["c", 5]), (Storage(), [5])]
)
def test_what_is_refused_before_it_is_run_has_not_run(verbs: Any, arguments: list[Any]) -> None:
    service = Service("refusing")
    service.rpc(name="get")(verbs.get)
    entry = Entry(service.methods["get"], Lane("", 1))
    message = Message(REQUEST, frames=[encode([arguments])])
    request = accept(message, None, entry, math.inf)  # type: ignore[arg-type]
    job = Job(request)
    planned: Planned[Any] = plan_all([job])
    ((_, acts),) = planned
    assert not any(isinstance(act, Act) for act in acts)
    finish(job, acts, iter(()))
    assert job.outcome is not None
    kind, _, (code, _), started = job.outcome
    assert (kind, code, started) == (FAIL, INVALID_ARGUMENT, False)


def test_portions_keep_the_order_and_end_before_they_are_too_large() -> None:
    sizes = [10, 20, 5000, 30, 1, 2, 3]
    ops = [Op("set", "", {"key": b"k", "body": bytes(size)}) for size in sizes]
    found = portions(ops, 2 * 1024 + 100)  # 1,024 are added for each
    assert [[len(op.arguments["body"]) for op in part] for part in found] == [
        [10, 20], [5000], [30, 1], [2, 3]
    ]  # fmt: skip
    assert portions([], 100) == []

"""Two ways to do many things at once: `python -m examples.batching`.

The caller sends many calls as one message (`mesh.batch`); or the service gathers the calls of many
callers and runs its handler once for all of them (`@service.batch`). They know nothing of each
other and combine.
"""

from __future__ import annotations

import asyncio
from time import perf_counter

from mesh import Service, connect_async
from mesh.cli.processes import local_mesh
from mesh.errors import CallError

maths = Service("maths")


@maths.rpc(idempotent=True)
async def root(value: float) -> float:
    """The square root."""
    if value < 0:
        raise ValueError("a negative number has no real root")
    return float(value**0.5)


@maths.batch(max_size=64, max_wait=0.005)
def embed(texts: list[str]) -> list[dict[str, int]]:
    """One run for up to 64 calls that come within 5 ms, as a model on a GPU would want it."""
    return [{"letters": len(text), "calls in this run": len(texts)} for text in texts]


async def main() -> None:
    with local_mesh("examples.batching:maths") as endpoint:
        async with connect_async(endpoint) as mesh:
            # Each item has its own outcome: one that fails takes no other with it.
            for outcome in await mesh.batch("maths.root", [4.0, -1.0, 2.25]):
                failed = isinstance(outcome, CallError)
                print("root:", f"failed, {outcome.message}" if failed else outcome)

            numbers = [float(n) for n in range(5000)]
            begun = perf_counter()
            one_by_one = await asyncio.gather(*(mesh.call("maths.root", n) for n in numbers))
            between = perf_counter()
            together = await mesh.batch("maths.root", numbers)
            ended = perf_counter()
            print(
                f"{len(numbers)} calls: {between - begun:.3f} s as messages of their own, "
                f"{ended - between:.3f} s as a batch, same results: {one_by_one == together}"
            )

            callers = [mesh.call("maths.embed", "tea" * n) for n in range(20)]
            answers = await asyncio.gather(*callers)
            most = max(answer["calls in this run"] for answer in answers)
            print(f"embed: {len(answers)} callers, up to {most} served by one run")


if __name__ == "__main__":
    asyncio.run(main())

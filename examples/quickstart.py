"""A service, and a program that calls it: `python -m examples.quickstart`.

`local_mesh` starts what would otherwise run in terminals of their own:

    sage-mesh broker
    sage-mesh serve examples.quickstart:cart
"""

from __future__ import annotations

from mesh import Service, connect
from mesh.cli.processes import local_mesh
from mesh.errors import RemoteError, ServiceNotFound

PRICES = {"tea": 350, "cup": 990}

cart = Service("cart", version="1.2.0")


@cart.rpc(timeout=2, idempotent=True)
def total(items: dict[str, int]) -> int:
    """What the items cost together, in cents."""
    return sum(PRICES[name] * number for name, number in items.items())


@cart.rpc(idempotent=True)
async def offers(start: str = "") -> list[str]:
    """The names of everything on offer that begin with `start`."""
    return sorted(name for name in PRICES if name.startswith(start))


def main() -> None:
    with local_mesh("examples.quickstart:cart") as endpoint, connect(endpoint) as mesh:
        # By function: checked and completed by the editor. By name: needs no import.
        print("total:", mesh.call(total, {"tea": 2, "cup": 1}))
        print("offers:", mesh.call("cart.offers", start="t"))
        print("in half a second:", mesh.options(timeout=0.5).call(total, {"cup": 3}))

        try:
            mesh.call(total, {"sugar": 1})
        except RemoteError as error:
            print(f"the handler raised {error.kind}: {error.message}")
        try:
            mesh.options(timeout=5, retries=0).call("kart.total", {})
        except ServiceNotFound as error:
            print(f"not found, a retry is safe: {error.retryable}")

    # Without any mesh, a decorated function is the function that was written.
    print("called directly:", total({"tea": 1}))


if __name__ == "__main__":
    main()

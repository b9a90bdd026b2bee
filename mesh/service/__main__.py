"""`python -m mesh.service package.module:service --broker ENDPOINT ... --workers N`."""

from __future__ import annotations

import argparse
import sys

from mesh.service.declare import DEFAULT_BROKER
from mesh.service.process import serve


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and serve; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mesh.service", description=__doc__)
    parser.add_argument("target", help="the service, as package.module:service")
    parser.add_argument(
        "--broker",
        action="append",
        metavar="ENDPOINT",
        help=f"a broker to register at; may be repeated (default {DEFAULT_BROKER})",
    )
    parser.add_argument("--workers", type=int, default=1, help="how many processes (default 1)")
    options = parser.parse_args(arguments)
    return serve(options.target, options.broker or (), options.workers)


if __name__ == "__main__":
    sys.exit(main())

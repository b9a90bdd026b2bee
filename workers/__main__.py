"""`python -m workers SERVICE --broker ENDPOINT --data DIR --processes N`: a built-in service."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from mesh.errors import ConfigError
from mesh.service.declare import DEFAULT_BROKER
from mesh.service.process import EXIT_CONFIG
from workers.memory import process as memory

SERVICES = {"memory": memory}


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and serve until a signal; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m workers", description=__doc__)
    services = parser.add_subparsers(dest="service", required=True)
    for name, module in SERVICES.items():
        words = services.add_parser(name, help=module.__doc__)
        words.add_argument(
            "--broker",
            action="append",
            metavar="ENDPOINT",
            help=f"a broker to register at; may be repeated (default {DEFAULT_BROKER})",
        )
        words.add_argument("--processes", type=int, default=1, help="how many (default 1)")
        module.add_options(words)
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=os.environ.get("SAGE_LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    brokers = options.broker or [DEFAULT_BROKER]
    try:
        status: int = SERVICES[options.service].run(options, brokers, options.processes)
        return status
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_CONFIG


if __name__ == "__main__":
    sys.exit(main())

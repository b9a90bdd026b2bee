"""`python -m mesh.service package.module:service --broker ENDPOINT ... --workers N`."""

from __future__ import annotations

import argparse
import sys

from mesh.errors import ConfigError
from mesh.service.process import EXIT_CONFIG, serve
from mesh.settings.flags import add_flags, chosen

FLAGS = {
    "--broker": ("brokers", "ENDPOINT"),
    "--monitor": ("monitoring.address", "ADDRESS"),
}


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and serve; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mesh.service", description=__doc__)
    parser.add_argument("target", help="the service, as package.module:service")
    parser.add_argument("--workers", type=int, default=1, help="how many processes (default 1)")
    add_flags(parser, FLAGS)
    options = parser.parse_args(arguments)
    choice = chosen(options, FLAGS)
    try:
        return serve(
            options.target,
            options.brokers or (),
            options.workers,
            config=choice.path,
            assignments=choice.assignments,
            monitor=options.__dict__["monitoring.address"],
        )
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_CONFIG


if __name__ == "__main__":
    sys.exit(main())

"""`python -m workers SERVICE --broker ENDPOINT --data DIR --processes N`: a built-in service."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from mesh.errors import ConfigError
from mesh.service.process import EXIT_CONFIG, begin_logging
from mesh.settings import BUILT_IN, WORKERS, brokers
from mesh.settings.flags import add_flags, chosen

SERVICES = {name: import_module(f"workers.{name}.process") for name in BUILT_IN}
COMMON = {
    "--broker": ("brokers", "ENDPOINT"),
    "--monitor": ("monitoring.address", "ADDRESS"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and the configuration, and serve until a signal; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m workers", description=__doc__)
    services = parser.add_subparsers(dest="service", required=True)
    for name, module in SERVICES.items():
        add_flags(services.add_parser(name, help=module.__doc__), {**COMMON, **module.FLAGS})
    options = parser.parse_args(arguments)
    service = SERVICES[options.service]
    try:
        loaded = chosen(options, {**COMMON, **service.FLAGS}).load()
        begin_logging(loaded)
        status: int = service.run(loaded.settings, brokers(loaded.settings, WORKERS))
        return status
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_CONFIG


if __name__ == "__main__":
    sys.exit(main())

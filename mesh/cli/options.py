"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Brokers = Annotated[
    list[str] | None,
    typer.Option(
        "--broker",
        "-b",
        envvar="SAGE_BROKERS",
        metavar="ENDPOINT",
        help="A broker; may be given several times.  [default: tcp://127.0.0.1:8080]",
        show_default=False,
    ),
]
Config = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        envvar="SAGE_CONFIG",
        metavar="FILE",
        help="A YAML file with settings; see `sage-mesh config`.",
        show_default=False,
    ),
]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds to wait for an answer.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

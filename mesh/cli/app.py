"""The commands and their options. What they do lives beside this file, imported when needed."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mesh.cli.config import app as config_app
from mesh.cli.options import Brokers, Config, Json
from mesh.cli.output import reporting
from mesh.cli.search import app as search_app
from mesh.cli.storage import app as storage_app

app = typer.Typer(
    name="sage-mesh",
    help="Run, call and look after a SAGE Mesh.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 all went well, 1 something failed, 2 wrong usage.",
)

app.add_typer(config_app)
app.add_typer(search_app)
app.add_typer(storage_app)

Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds to wait.")]


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    epilog="Further options are handed to the broker; `python -m broker --help` lists them.",
)
def broker(
    context: typer.Context,
    bind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ENDPOINT",
            help="Where to listen; may be given several times.  [default: tcp://127.0.0.1:8080]",
            show_default=False,
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine without encryption.")
    ] = False,
    drain_timeout: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds that open calls get at the end.")
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Run a broker in the foreground."""
    from mesh.cli import run

    extra = [*(["--insecure"] if insecure else []), *context.args]
    if config is not None:
        extra += ["--config", config]
    if drain_timeout is not None:
        extra += ["--drain-timeout", f"{drain_timeout:g}"]
    with reporting(as_json) as output:
        raise typer.Exit(run.broker(bind or [], extra, output))


@app.command()
def serve(
    target: Annotated[str, typer.Argument(metavar="PACKAGE.MODULE:SERVICE")],
    brokers: Brokers = None,
    workers: Annotated[int, typer.Option("--workers", "-n", min=1, help="Processes.")] = 1,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Run the workers of a service.

    They run in the foreground. Of several, the ones that die are started again; a single one is
    left to what started it: a container, systemd.
    """
    from mesh.cli import run

    with reporting(as_json) as output:
        raise typer.Exit(run.serve(target, brokers or [], workers, config, output))


Run = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="DIR",
        help="Where it is noted that the mesh runs.  [default: in XDG_RUNTIME_DIR, or DATA.run]",
        show_default=False,
    ),
]


@app.command()
def up(
    config: Config = None,
    run_folder: Run = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once all is ready; it runs on.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="With --detach: seconds until all must be ready.")
    ] = 60.0,
    as_json: Json = False,
) -> None:
    """Run brokers and the built-in workers, from one file.

    What ends is started again. Ctrl-C or SIGTERM: workers drain, then brokers; a second: at once.
    """
    from mesh.cli import run

    with reporting(as_json) as output:
        if detach:
            run.detach(config, run_folder, timeout, output)
        else:
            raise typer.Exit(run.up(config, run_folder, output))


@app.command()
def down(
    config: Config = None, run_folder: Run = None, timeout: Timeout = 60.0, as_json: Json = False
) -> None:
    """Drain and end the mesh that `up` has started."""
    from mesh.cli import run

    with reporting(as_json):
        run.down(config, run_folder, timeout)


@app.command()
def rollout(
    config: Config = None, run_folder: Run = None, timeout: Timeout = 600.0, as_json: Json = False
) -> None:
    """Replace all processes of the mesh that `up` has started, one by one, while it serves.

    Workers first, each once its successor serves, then brokers. The configuration is read again.
    The first that does not come to serve ends it; what was not replaced stays.
    """
    from mesh.cli import run

    with reporting(as_json) as output:
        run.rollout(config, run_folder, timeout, output)


@app.command()
def ps(config: Config = None, run_folder: Run = None, as_json: Json = False) -> None:
    """Show the processes of the mesh that `up` has started."""
    from mesh.cli import run

    with reporting(as_json) as output:
        run.members(config, run_folder, output)


@app.command(
    context_settings={"ignore_unknown_options": True},
    epilog='Example: sage-mesh call cart.add c1 \'{"sku": "tea"}\' --kwarg qty=2',
)
def call(
    target: Annotated[str, typer.Argument(metavar="SERVICE.METHOD")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ARGUMENT]...", help="Each is JSON, or else text."),
    ] = None,
    kwarg: Annotated[
        list[str] | None,
        typer.Option("--kwarg", "-k", metavar="NAME=VALUE", help="A keyword argument."),
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", "-s", help="Print the items of a stream, one a line.")
    ] = False,
    timeout: Timeout = 30.0,
    retries: Annotated[
        int | None, typer.Option(min=0, help="Further tries where they are safe.")
    ] = None,
    idempotent: Annotated[
        bool, typer.Option("--idempotent", help="Running it twice does no harm: retry freely.")
    ] = False,
    priority: Annotated[
        str | None, typer.Option(help="system, high, normal or bulk.", metavar="CLASS")
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", "-m", metavar="NAME=VALUE", help="Metadata of the call."),
    ] = None,
    brokers: Brokers = None,
    as_json: Json = False,
) -> None:
    """Call a method of a service and print its result."""
    from mesh.cli import calls
    from mesh.cli.endpoints import parse_all, require_one

    shown = brokers or []
    with reporting(as_json, shown) as output:
        calls.refuse_options(arguments or [], sys.argv)
        request = calls.Request(
            target,
            [calls.parse_value(text) for text in arguments or []],
            calls.parse_pairs(kwarg or [], "--kwarg"),
            calls.options(
                timeout=timeout,
                retries=retries,
                idempotent=idempotent,
                priority=priority,
                metadata=calls.parse_pairs(metadata or [], "--metadata"),
            ),
        )
        endpoints = parse_all(shown)
        require_one(endpoints)
        calls.run(request, endpoints, output, stream=stream)


@app.command()
def status(
    brokers: Brokers = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep showing it.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    timeout: Timeout = 2.0,
    as_json: Json = False,
) -> None:
    """Show the services, workers and queues of each broker."""
    from mesh.cli import status as view
    from mesh.cli.endpoints import parse_all

    with reporting(as_json, brokers or []) as output:
        endpoints = parse_all(brokers or [])
        if watch:
            view.watch(endpoints, output, every=every, timeout=timeout)
        elif not view.once(endpoints, output, timeout=timeout):
            raise typer.Exit(1)


@app.command()
def top(
    brokers: Brokers = None,
    sort: Annotated[
        str,
        typer.Option(metavar="COLUMN", help="calls, errors, retries, flight, queued, p50 or p99."),
    ] = "calls",
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="One look, over one interval.")] = False,
    timeout: Timeout = 2.0,
    as_json: Json = False,
) -> None:
    """Show what is busy: services by lane, workers and clients, with rates and latencies.

    Keys: c, e, r, f, q, 5 and 9 sort by calls, errors, retries, in flight, queued, p50 and p99;
    x ends it.
    """
    from mesh.cli import top as view
    from mesh.cli.endpoints import parse_all

    with reporting(as_json, brokers or []) as output:
        plan = view.Plan(parse_all(brokers or []), every, timeout, view.column(sort))
        if not view.run(plan, output, once=once):
            raise typer.Exit(1)


@app.command()
def history(
    brokers: Brokers = None,
    since: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Only the last 30s, 10m, 2h.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what happens from now on.")
    ] = False,
    timeout: Timeout = 2.0,
    as_json: Json = False,
) -> None:
    """Show what the mesh did: who joined, was lost, ejected, took over; what was shed, and why."""
    from mesh.cli import history as view
    from mesh.cli.endpoints import parse_all

    with reporting(as_json, brokers or []) as output:
        endpoints = parse_all(brokers or [])
        if not view.run(endpoints, output, since=since, follow=follow, timeout=timeout):
            raise typer.Exit(1)


@app.command(epilog="Exit codes: 0 all is well, 1 something fails, 3 there are warnings.")
def check(brokers: Brokers = None, timeout: Timeout = 2.0, as_json: Json = False) -> None:
    """Check that a running mesh does its work: brokers, services, workers, a real call.

    Each line is ok, warn or fail, and says what to do about it.
    """
    from mesh.cli import check as examination
    from mesh.cli.endpoints import parse_all

    with reporting(as_json, brokers or []) as output:
        raise typer.Exit(examination.run(parse_all(brokers or []), output, timeout=timeout))


@app.command()
def bench(
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds for each measurement.")] = 2.0,
    in_flight: Annotated[int, typer.Option(min=1, help="Calls open at the same time.")] = 500,
    size: Annotated[int, typer.Option(min=0, help="Octets of each argument.")] = 32,
    workers: Annotated[int, typer.Option("--workers", "-n", min=1, help="Worker processes.")] = 1,
    brokers: Annotated[
        list[str] | None,
        typer.Option(
            "--broker",
            "-b",
            metavar="ENDPOINT",
            help="A running broker; without one, a broker of its own is started.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure calls, batches and streams.

    How many a second, and how long one takes: a check of this mesh, not a comparison.
    """
    from mesh.cli import bench as measure
    from mesh.cli.endpoints import parse_all, require_one

    with reporting(as_json, brokers or []) as output:
        endpoints = parse_all(brokers) if brokers else []
        if endpoints:
            require_one(endpoints)
        plan = measure.Plan(seconds, in_flight, size, workers)
        if not measure.run(plan, endpoints, output):
            raise typer.Exit(1)


@app.command()
def doctor(
    brokers: Brokers = None,
    as_json: Json = False,
) -> None:
    """Check this installation and the brokers.

    Each line is ok, warn or fail, and says what to do about it.
    """
    from mesh.cli import doctor as examine

    with reporting(as_json, brokers or []) as output:
        if not examine.run(brokers, output):
            raise typer.Exit(1)


@app.command()
def version(as_json: Json = False) -> None:
    """Print the version."""
    import platform

    from mesh.cli.doctor import mesh_version

    with reporting(as_json) as output:
        if as_json:
            output.json({"sage-mesh": mesh_version(), "python": platform.python_version()})
        else:
            output.value(f"sage-mesh {mesh_version()} (Python {platform.python_version()})")

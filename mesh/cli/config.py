"""`config`: write a configuration file, check one, and show what is in force."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.options import Json
from mesh.cli.output import Failure, Output, reporting
from mesh.errors import ConfigError

if TYPE_CHECKING:
    from mesh.settings import Loaded

app = typer.Typer(
    name="config",
    help="Write, check and show the configuration.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

File = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        envvar="SAGE_CONFIG",
        metavar="FILE",
        help="The file; without one, defaults and environment.",
        show_default=False,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A key as it would be given on a command."),
]


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="[FILE]")] = Path("sage.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Write over what is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write a file with every key, its default and what it does.

    Its JSON schema is written beside it, for editors to complete and check the file by.
    """
    from mesh import settings

    with reporting(as_json) as output:
        beside = path.with_name(f"{path.stem}.schema.json")
        write(path, settings.default_yaml(beside.name), force)
        write(beside, settings.schema_text(), force)
        if as_json:
            output.json({"config": str(path), "schema": str(beside)})
        else:
            output.value(f"wrote {path} and {beside}")


def write(path: Path, text: str, force: bool) -> None:
    """Write a new file, or with `force` over an old one.

    Raises:
        Failure: it is there already, or cannot be written.
    """
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Failure(
            f"{path} exists", "name another file, or write over it with --force"
        ) from None
    except OSError as error:
        advice = "name a file in a folder that is there"
        raise Failure(f"{path}: {error.strerror}", advice) from None


@app.command()
def check(
    files: Annotated[list[str] | None, typer.Argument(metavar="[FILE]...")] = None,
    config: File = None,
    as_json: Json = False,
) -> None:
    """Check configuration files, as they would be read now: with the environment.

    Names every error, and what was set without effect. Exit code 2 if there are errors.
    """
    from mesh.settings import load

    with reporting(as_json) as output:
        reports = []
        chosen: Sequence[str | None] = files or [config]
        for name in chosen:
            try:
                reports.append(_good(name, load(name)))
            except ConfigError as error:
                reports.append(_bad(name, error))
        _report(reports, output)
        if not all(report["ok"] for report in reports):
            raise typer.Exit(2)


def _good(name: str | None, loaded: Loaded) -> dict[str, object]:
    return {"file": name, "ok": True, "keys": len(loaded.origins), "notes": list(loaded.notes)}


def _bad(name: str | None, error: ConfigError) -> dict[str, object]:
    problems = [
        {"origin": problem.origin, "key": problem.key, "text": problem.text}
        for problem in error.problems
    ] or [{"origin": name, "key": "", "text": str(error)}]
    return {"file": name, "ok": False, "problems": problems, "text": str(error)}


def _report(reports: list[dict[str, object]], output: Output) -> None:
    if output.as_json:
        output.json({"files": [{k: v for k, v in r.items() if k != "text"} for r in reports]})
        return
    for report in reports:
        if not report["ok"]:
            print(report["text"], flush=True)
            continue
        name = report["file"] or "no file"
        print(f"ok: {name}, {report['keys']} keys set", flush=True)
        for note in report["notes"] if isinstance(report["notes"], list) else []:
            print(f"note: {note}", flush=True)


@app.command()
def show(
    only: Annotated[str, typer.Argument(metavar="[KEY]", help="A key or section.")] = "",
    config: File = None,
    assignments: Set = None,
    secrets: Annotated[bool, typer.Option("--secrets", help="Show passwords too.")] = False,
    as_json: Json = False,
) -> None:
    """Show the settings in force, as YAML, and where each that is no default came from."""
    from mesh.settings import canonical, keys, load, show_rows, show_yaml
    from mesh.settings.kinds import nearest

    with reporting(as_json) as output:
        only = canonical(only)
        loaded = load(config, assignments=assignments or [])
        known = {name[:end] for name in keys() for end in _ends(name)}
        if only and only not in known:
            near = nearest(only, known)
            raise Failure(
                f"there is no key or section {only}",
                f"did you mean {near}?" if near else "`sage-mesh config show` lists all",
                code=2,
            )
        if as_json:
            output.json(show_rows(loaded, only=only, secrets=secrets))
        else:
            print(show_yaml(loaded, only=only, secrets=secrets), end="", flush=True)


def _ends(name: str) -> list[int]:
    return [index for index, letter in enumerate(name) if letter == "."] + [len(name)]

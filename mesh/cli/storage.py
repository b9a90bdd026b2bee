"""`storage`: files in and out of the storage service, and the care of its directory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli.options import Brokers, Config, Json, Timeout
from mesh.cli.output import FAILED, USAGE, Failure, Output, clean, reporting
from mesh.cli.processes import broker_environment

if TYPE_CHECKING:
    from mesh.client.storage import Item, Storage

app = typer.Typer(
    name="storage",
    help="Copy files in and out of the storage service, and look after its directory.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

BucketOption = Annotated[str, typer.Option("--bucket", "-B", help="The bucket.")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="The directory of the storage service.  [default: services.storage.data]",
        show_default=False,
    ),
]


@contextmanager
def bucket_of(brokers: Sequence[str], name: str, timeout: float) -> Iterator[Storage]:
    """A bucket, for the time of a block.

    Raises:
        Failure: there is no broker, or the block asks for something that cannot be.
    """
    from mesh import connect
    from mesh.cli.endpoints import parse_all, require_one
    from mesh.errors import InvalidArgument

    endpoints = parse_all(brokers)
    require_one(endpoints)
    try:
        with connect(*endpoints, timeout=timeout) as m:
            yield m.storage.bucket(name)
    except InvalidArgument as error:
        raise Failure(error.message) from None


@contextmanager
def progress(
    output: Output, what: str, total: int | None
) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on the terminal for as long as the block runs; nothing where nobody looks at it."""
    if output.as_json or not sys.stderr.isatty():
        yield lambda done, of: None
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=output.console(stderr=True),
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, of: bar.update(task, completed=done, total=of)


@app.command()
def put(
    path: Annotated[str, typer.Argument(metavar="FILE", help="- for standard input.")],
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="By default the name of the file.")
    ] = None,
    bucket: BucketOption = "default",
    content_type: Annotated[str, typer.Option(help="As in text/plain.")] = "",
    brokers: Brokers = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Store a file as an object. It is on disk when this returns.

    If it was cut off, the same command within a day goes on where it ended.
    """
    with reporting(as_json, brokers or []) as output:
        if path == "-" and not key:
            raise Failure("there is no name for standard input", "give a KEY", code=USAGE)
        name = key or Path(path).name
        with bucket_of(brokers or [], bucket, timeout) as s:
            if path == "-":
                with progress(output, name, None) as tell:
                    version = s.put_object(
                        name, sys.stdin.buffer, content_type=content_type, progress=tell
                    )
            else:
                file = _readable(path)
                with progress(output, name, file.stat().st_size) as tell:
                    version = s.put_file(name, file, content_type=content_type, progress=tell)
            info = s.object_info(name)
        if output.as_json:
            output.json({"key": name, "version": version, "size": info and info.size,
                         "sha256": info and info.sha256})  # fmt: skip
        elif info is not None:
            print(f"{clean(name)}: {info.size:,} octets, sha256 {info.sha256}")


def _readable(path: str) -> Path:
    try:
        with Path(path).open("rb"):
            return Path(path)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}", "name a file that can be read") from None


@app.command()
def get(
    key: Annotated[str, typer.Argument(metavar="KEY")],
    path: Annotated[
        str | None,
        typer.Argument(metavar="[FILE]", help="By default named as the key; - for output."),
    ] = None,
    bucket: BucketOption = "default",
    force: Annotated[bool, typer.Option("--force", help="Write over a file.")] = False,
    brokers: Brokers = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Fetch an object, or the value of a record as JSON. What is written was verified."""
    with (
        reporting(as_json, brokers or []) as output,
        bucket_of(brokers or [], bucket, timeout) as s,
    ):
        target = path or key.rpartition("/")[2] or key
        try:
            info = s.object_info(key)
            if info is None:
                _get_record(s, key, path, output)
                return
            with progress(output, key, info.size) as tell:
                if target == "-":
                    _pour(s, key, tell)
                    return
                if Path(target).exists() and not force:
                    raise Failure(f"{target} exists", "name another file, or use --force")
                info = s.get_file(key, target, progress=tell)
        except OSError as error:
            raise Failure(f"{target}: {error.strerror}", "name another file") from None
        if info is None:
            raise Failure(f"there is no key {key!r} in bucket {bucket!r}", "see `storage ls`")
        if output.as_json:
            output.json({"key": key, "file": target, "size": info.size, "sha256": info.sha256})
        else:
            print(f"{clean(target)}: {info.size:,} octets, sha256 {info.sha256}")


def _get_record(s: Storage, key: str, path: str | None, output: Output) -> None:
    record = s.entry(key)
    if record is None:
        raise Failure(f"there is no key {key!r} in bucket {s.name!r}", "see `storage ls`")
    if path not in (None, "-"):
        raise Failure(f"key {key!r} holds a record, which is printed", "leave out FILE", code=USAGE)
    output.value(record.value)


def _pour(s: Storage, key: str, tell: Callable[[int, int | None], None]) -> None:
    found = s.get_object(key, progress=tell)
    if found is None:
        raise Failure(f"key {key!r} was deleted just now")
    with found:
        for piece in found:
            sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


@app.command()
def ls(
    prefix: Annotated[str, typer.Argument(metavar="[PREFIX]")] = "",
    bucket: BucketOption = "default",
    buckets: Annotated[bool, typer.Option("--buckets", help="List the buckets instead.")] = False,
    brokers: Brokers = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """List keys in their order, with size and time of change; objects are marked with a dot."""
    with (
        reporting(as_json, brokers or []) as output,
        bucket_of(brokers or [], bucket, timeout) as s,
    ):
        if buckets:
            for found in s.buckets():
                facts = {name: getattr(found, name) for name in found.__slots__}
                output.line(facts, f"{found.octets:>16,}  {found.entries:>10,}  {found.name}")
            return
        for item in s.listing(prefix):
            output.line(_facts(item), _row(item))


def _facts(item: Item) -> dict[str, Any]:
    facts = {"key": item.key, "size": item.size, "version": item.version,
             "modified_at": item.modified_at, "expire_at": item.expire_at}  # fmt: skip
    if item.object is not None:
        facts |= {"sha256": item.object.sha256, "content_type": item.object.content_type,
                  "metadata": item.object.metadata}  # fmt: skip
    return facts


def _row(item: Item) -> str:
    at = datetime.fromtimestamp(item.modified_at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    mark = "." if item.object is not None else " "
    return f"{item.size:>16,}  {at}  {mark} {clean(item.key)}"


@app.command()
def rm(
    keys: Annotated[list[str], typer.Argument(metavar="KEY...")],
    bucket: BucketOption = "default",
    brokers: Brokers = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Delete records and objects; fails if one of them is not there."""
    with (
        reporting(as_json, brokers or []) as output,
        bucket_of(brokers or [], bucket, timeout) as s,
    ):
        deleted = s.delete(*keys)
        if output.as_json:
            output.json({"deleted": deleted})
        else:
            print(f"{deleted} deleted")
        if deleted < len(keys):
            raise typer.Exit(FAILED)


# -------------------------------------------------------------------- the directory


def _maintain(words: Sequence[str], as_json: bool) -> None:
    """Run the tool that the workers bring with them; it has the code of the store."""
    command = [sys.executable, "-P", "-m", "workers.storage", *(["--json"] if as_json else [])]
    environment = {**os.environ, **broker_environment()}
    raise typer.Exit(subprocess.run([*command, *words], env=environment).returncode)


def _data(data: str | None, config: str | None) -> str:
    """The directory by choice, or as configured. Raises Failure."""
    from mesh import settings

    found = data or settings.load(config).settings.services.storage.data
    if not found:
        raise Failure(
            "nothing says where the storage service keeps its data",
            "name the directory: --data DIR, or services.storage.data in the configuration",
        )
    return found


@app.command()
def backup(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A new directory.")],
    data: Data = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Copy the directory, as of one moment, while the service works; the copy is verified."""
    with reporting(as_json):
        _maintain(["backup", _data(data, config), target], as_json)


@app.command()
def restore(
    source: Annotated[str, typer.Argument(metavar="BACKUP")],
    data: Data = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of what is there; it moves aside.")
    ] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Make the directory of a backup. The service must not run on it."""
    with reporting(as_json):
        words = ["restore", source, _data(data, config)]
        _maintain([*words, *(["--replace"] if replace else [])], as_json)


@app.command()
def verify(
    data: Data = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Read everything, of a directory or a backup, also while the service works."""
    with reporting(as_json):
        _maintain(["verify", _data(data, config)], as_json)


@app.command()
def compact(data: Data = None, config: Config = None, as_json: Json = False) -> None:
    """Give free pages back to the disk. The service must not run on it."""
    with reporting(as_json):
        _maintain(["compact", _data(data, config)], as_json)

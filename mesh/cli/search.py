"""`search`: documents into the search service, questions to it, and the care of its collections."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli.hits import AFTER, BEFORE, asked, show
from mesh.cli.options import Brokers, Json, Timeout
from mesh.cli.output import FAILED, USAGE, Failure, Output, reporting

if TYPE_CHECKING:
    from mesh.client.search import CollectionInfo, Search

app = typer.Typer(
    name="search",
    help="Load documents into the search service, and ask it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Collection = Annotated[str, typer.Argument(metavar="COLLECTION")]
Filter = Annotated[
    str, typer.Option(metavar="QUERY", help="A query that must hold, as in 'year:[2020 TO *]'.")
]
Asked = Annotated[
    str, typer.Argument(metavar="[QUERY]", help="Words and operators, or a JSON object.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")]
Embed = Annotated[
    str,
    typer.Option(
        "--embed",
        metavar="SERVICE.METHOD",
        help="A mesh method that makes vectors of a list of texts.",
    ),
]
SHOWN = 5
"""Documents that could not be written, of which the reason is told."""


@contextmanager
def service(brokers: Sequence[str], timeout: float) -> Iterator[Search]:
    """The search service, for the time of a block.

    Raises:
        Failure: there is no broker, or it refused what was asked.
    """
    from mesh import connect
    from mesh.cli.endpoints import parse_all, require_one
    from mesh.errors import InvalidArgument

    endpoints = parse_all(brokers)
    require_one(endpoints)
    with connect(*endpoints, timeout=timeout) as m:
        try:
            yield m.search
        except InvalidArgument as error:
            raise Failure(error.message) from None


@contextmanager
def progress(output: Output, what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A count on the terminal while the block runs; nothing where nobody looks at it."""
    if output.as_json or not sys.stderr.isatty():
        yield lambda done, of: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=output.console(stderr=True),
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


# -------------------------------------------------------------------- documents


@app.command()
def index(
    collection: Collection,
    paths: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Files, folders, - for standard input.")
    ],
    schema: Annotated[
        list[str] | None,
        typer.Option(
            "--schema",
            metavar="FILE|NAME=KIND",
            help="Fields, as in title=text,boost=2; or a JSON or YAML file with them.",
        ),
    ] = None,
    format: Annotated[str, typer.Option(help="json, csv, tsv or text; else by file name.")] = "",
    id_field: Annotated[str, typer.Option("--id", help="The field that names documents.")] = "",
    text_field: Annotated[str, typer.Option("--text", help="The field for text files.")] = "text",
    embed: Embed = "",
    wait: Annotated[bool, typer.Option("--wait", help="Until searches see them all.")] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", "-k", help="Leave out documents that do not fit.")
    ] = False,
    brokers: Brokers = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Write the documents of files: JSON (lines, or an array), CSV, or plain text.

    What has the id of a document is replaced. Documents of JSON and CSV that have no id get one of
    their content; text files are named by their path.
    """
    from mesh.cli.documents import Reading, schema_of

    with reporting(as_json, brokers or []) as output, service(brokers or [], timeout) as s:
        if format not in ("", "json", "csv", "tsv", "text"):
            raise Failure(f"--format {format} is none of json, csv, tsv, text", code=USAGE)
        if schema:
            s.create(collection, schema_of(schema))
        info = s.info(collection)
        kinds = {} if info is None else {name: f["kind"] for name, f in info.schema.items()}
        reading = Reading(format, id_field, text_field, kinds)
        failed: list[tuple[Any, str]] = []
        begun = time.perf_counter()
        with progress(output, collection) as tell:
            loaded = s.load(
                collection,
                reading.documents(paths),
                refresh="wait" if wait else "interval",
                embed=embed or None,
                progress=tell,
                on_error=(lambda _, e: failed.append((_, e.message))) if keep_going else None,
            )
        took = time.perf_counter() - begun
        if output.as_json:
            output.json({"collection": collection, "written": loaded.written,
                         "failed": loaded.failed, "passed_over": len(reading.passed_over),
                         "version": loaded.version, "took": took})  # fmt: skip
        else:
            _tell(collection, loaded.written, took, failed, reading.passed_over)
        if loaded.failed:
            raise typer.Exit(FAILED)


def _tell(
    collection: str, written: int, took: float, failed: list[tuple[Any, str]], passed: list[str]
) -> None:
    print(f"{collection}: {written:,} documents in {took:.1f} s ({written / took:,.0f}/s)")
    for _, why in failed[:SHOWN]:
        print(f"left out: {why}", file=sys.stderr)
    if len(failed) > SHOWN:
        print(f"left out: {len(failed) - SHOWN:,} more", file=sys.stderr)
    if passed:
        print(f"passed over: {len(passed):,} files that are no text", file=sys.stderr)


@app.command()
def get(
    collection: Collection,
    id: Annotated[str, typer.Argument(metavar="ID")],
    brokers: Brokers = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Print a document as JSON."""
    with reporting(as_json, brokers or []) as output, service(brokers or [], timeout) as s:
        found = s.get(collection, id)
        if found is None:
            raise Failure(f"collection {collection!r} has no document {id!r}")
        output.value(found)


@app.command()
def delete(
    collection: Collection,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...")] = None,
    query: Annotated[str, typer.Option(metavar="QUERY", help="Delete all that match.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Until searches see it.")] = False,
    brokers: Brokers = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Delete documents by their ids, or by a query; fails if an id is not there."""
    with reporting(as_json, brokers or []) as output, service(brokers or [], timeout) as s:
        if bool(ids) == bool(query):
            raise Failure("nothing says what to delete", "give IDs, or --query", code=USAGE)
        refresh: Any = "wait" if wait else "interval"
        if query:
            deleted = s.delete_by_query(collection, asked(query), refresh=refresh)
        else:
            deleted = s.delete(collection, *(ids or ()), refresh=refresh)
        output.line({"deleted": deleted}, f"{deleted:,} deleted")
        if ids and deleted < len(ids):
            raise typer.Exit(FAILED)


# -------------------------------------------------------------------- questions


@app.command()
def query(
    collection: Collection,
    query: Asked = "",
    filter: Filter = "",
    field: Annotated[
        list[str] | None, typer.Option("--field", "-f", help="Search this one; several times.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All words must be there.")] = False,
    sort: Annotated[
        list[str] | None, typer.Option(help="A field to order by, -FIELD for downwards.")
    ] = None,
    facet: Annotated[
        list[str] | None, typer.Option(help="A field whose values are counted.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Hits, up to 1,000.")] = 10,
    offset: Annotated[int, typer.Option(help="Hits to pass over.")] = 0,
    vector_from: Annotated[
        str,
        typer.Option(
            metavar="SERVICE.METHOD", help="Search by the vector that this method makes of QUERY."
        ),
    ] = "",
    vector_field: Annotated[str, typer.Option(help="The field of vectors.")] = "",
    explain: Annotated[bool, typer.Option("--explain", help="How scores come about.")] = False,
    brokers: Brokers = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Ask for documents; the best come first, with what was found in them.

    Write what begins with a dash after --, as in: query docs -- '-old cache'.
    """
    with reporting(as_json, brokers or []) as output, service(brokers or [], timeout) as s:
        marks = ("<em>", "</em>") if as_json else (BEFORE, AFTER)
        info = s.info(collection)
        texts = [] if info is None else [n for n, f in info.schema.items() if f["kind"] == "text"]
        highlight = {"fields": texts, "before": marks[0], "after": marks[1], "count": 2}
        found = s.query(
            collection,
            asked(query) if query else None,
            filter=asked(filter) if filter else None,
            fields=field or (),
            operator="and" if every else "or",
            sort=sort or (),
            facets={name: name for name in facet or ()},
            limit=limit,
            offset=offset,
            highlight=highlight if query else (),
            explain=explain,
            embed=vector_from or None,
            vector_field=vector_field,
        )
        if as_json:
            output.json(asdict(found))
        else:
            show(output, found, offset)


@app.command()
def count(
    collection: Collection,
    query: Asked = "",
    filter: Filter = "",
    brokers: Brokers = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Count documents, or those that match."""
    with reporting(as_json, brokers or []) as output, service(brokers or [], timeout) as s:
        given = asked(query) if query else None
        found = s.count(collection, given, filter=asked(filter) if filter else None)
        output.line({"count": found}, str(found))


@app.command()
def suggest(
    collection: Collection,
    field: Annotated[str, typer.Argument(metavar="FIELD")],
    prefix: Annotated[str, typer.Argument(metavar="PREFIX")],
    limit: Annotated[int, typer.Option("--limit", "-n")] = 10,
    brokers: Brokers = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Complete a word or a value of a field, the most frequent first."""
    from mesh.cli.output import clean

    with reporting(as_json, brokers or []) as output, service(brokers or [], timeout) as s:
        for text, documents in s.suggest(collection, field, prefix, limit=limit):
            facts = {"text": text, "documents": documents}
            output.line(facts, f"{documents:>10,}  {clean(text)}")


# -------------------------------------------------------------------- collections


@app.command()
def collections(brokers: Brokers = None, timeout: Timeout = 30.0, as_json: Json = False) -> None:
    """List the collections with what they hold."""
    from mesh.cli.output import clean

    with reporting(as_json, brokers or []) as output, service(brokers or [], timeout) as s:
        for one in s.collections():
            output.line(
                _info(one),
                f"{one.documents:>12,}  {one.octets:>16,}  {clean(one.name)}{_behind(one)}",
            )


@app.command()
def info(
    collection: Collection, brokers: Brokers = None, timeout: Timeout = 30.0, as_json: Json = False
) -> None:
    """Show a collection: what it holds, and its fields."""
    from mesh.cli.output import clean

    with reporting(as_json, brokers or []) as output, service(brokers or [], timeout) as s:
        found = _existing(s, collection)
        if output.as_json:
            output.json(_info(found))
            return
        print(f"{clean(found.name)}: {found.documents:,} documents, {found.octets:,} octets")
        print(f"version {found.version}{_behind(found) or ', searches see it'}")
        print("takes up further fields" if found.dynamic else "takes these fields only")
        for name, field in found.schema.items():
            options = ", ".join(f"{k}={v}" for k, v in field.items() if k != "kind")
            print(f"  {clean(name):<24} {field['kind']:<8} {options}".rstrip())


@app.command()
def drop(
    collection: Collection,
    yes: Yes = False,
    brokers: Brokers = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Remove a collection with all its documents."""
    with reporting(as_json, brokers or []) as output, service(brokers or [], timeout) as s:
        found = _existing(s, collection)
        if not yes:
            if as_json or not sys.stdin.isatty():
                raise Failure(
                    f"this removes {found.documents:,} documents", "add --yes", code=USAGE
                )
            typer.confirm(f"remove {collection} with {found.documents:,} documents?", abort=True)
        output.line({"dropped": s.drop(collection)}, f"{collection} is gone")


@app.command()
def rebuild(
    collection: Collection,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is done.")] = False,
    brokers: Brokers = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Build the index anew from the documents; searches go on with the old one meanwhile."""
    with reporting(as_json, brokers or []) as output, service(brokers or [], timeout) as s:
        s.rebuild(collection)
        found = _existing(s, collection)
        with progress(output, collection) as tell:
            while wait and found.rebuilding is not None:
                tell(found.rebuilding["applied"], found.rebuilding["of"])
                time.sleep(0.1)
                found = _existing(s, collection)
        output.line(_info(found), f"{collection}: {'rebuilt' if wait else 'begun'}")


def _existing(s: Search, collection: str) -> CollectionInfo:
    found = s.info(collection)
    if found is None:
        raise Failure(
            f"there is no collection {collection!r}", "see `sage-mesh search collections`"
        )
    return found


def _info(found: CollectionInfo) -> dict[str, Any]:
    return {name: getattr(found, name) for name in found.__slots__}


def _behind(found: CollectionInfo) -> str:
    if found.rebuilding is not None:
        done, of = found.rebuilding["applied"], found.rebuilding["of"]
        return f", built anew: {done / of if of else 1:.0%}"
    behind = found.version - found.refreshed
    return f", {behind:,} changes behind" if behind > 0 else ""

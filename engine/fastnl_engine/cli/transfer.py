"""export and import: all connections of an engine as one document, and back, here or on another host.

The document holds what was submitted and nothing of how it stands: indexes and states belong to one kernel.  Its
count comes last, so that a document that was cut short is known for one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import click

from fastnl_engine.cli import output
from fastnl_engine.cli.files import Broken, Connection, read_export
from fastnl_engine.cli.options import Settings, asks_engine, pass_settings
from fastnl_engine.cli.talk import Batch, engine

FORMAT = "fastnl-export"
VERSION = 1
TOLD = 20  # problems of a file that are told one by one


@click.command()
@click.argument("file", default="-")
@click.option(
    "--state-dir",
    type=click.Path(exists=True, file_okay=False),
    metavar="FOLDER",
    help="Read the state file in FOLDER, which no engine uses; it is not changed.",
)
@asks_engine
@pass_settings
def export(settings: Settings, file: str, state_dir: str | None) -> None:
    """Write all connections to FILE, or to standard output, for `fastnl import`.

    A file is there whole or not at all.  What changes while an engine is asked may be in it or not.
    """
    with contextlib.ExitStack() as stack:
        if state_dir is None:
            client = stack.enter_context(engine(settings))
            instance: str | None = client.info()["instance"]
            connections: Iterable[Connection] = (submitted(row) for row in client.list())
        else:
            instance, connections = None, _of_state(Path(state_dir))
        out = stack.enter_context(_written_whole(file))
        count = _write(out, instance, connections)
    if file != "-":
        if settings.json:
            output.as_json({"file": file, "count": count, "instance": instance})
        else:
            click.echo(f"export: {count} connections in {file}")


@click.command(name="import")
@click.argument("file")
@click.option(
    "--replace", is_flag=True, help="Remove every connection that is not in FILE, before the others are made."
)
@asks_engine
@pass_settings
def import_(settings: Settings, file: str, replace: bool) -> None:
    """Make all connections of FILE, which `fastnl export` wrote; - is standard input.

    One whose namespace is not there yet waits for it.  What is as it should be stays untouched.
    """
    document = read_export(file)
    name = "standard input" if file == "-" else file
    connections = check(document, name)
    wanted = {c["id"] for c in connections}
    gone: Batch | None = None
    made = Batch("connect", "connections", connections, wait=True)
    try:
        with engine(settings) as client:
            if replace:
                # first, for they may have names and VNIs that are in the file
                gone = Batch("disconnect", "ids", [r["id"] for r in client.list() if r["id"] not in wanted])
                gone.run(client)
            made.run(client)
    except BaseException:
        if made.sent or (gone and gone.sent):
            _report(settings, made, gone)
            click.echo(f"{len(connections) - len(made.answered)} have no answer; the same import goes on", err=True)
        raise
    _report(settings, made, gone)
    if not all(result["ok"] for batch in (made, gone) if batch for result in batch.answered):
        click.get_current_context().exit(1)


def submitted(row: dict[str, Any]) -> Connection:
    """The connection of a record as `list` shows it."""
    from fastnl_engine.model import Connection as Fields
    from fastnl_engine.model import EndSpec

    connection = {name: row[name] for name in Fields.__struct_fields__ if name in row}
    for end in ("a", "b"):
        if end in connection:
            connection[end] = {k: v for k, v in connection[end].items() if k in EndSpec.__struct_fields__}
    return connection


def check(document: Any, name: str) -> list[Connection]:
    """The connections of a document.  Raises Broken, which says everything that is wrong with it."""
    import msgspec

    import fastnl
    from fastnl_engine.model import Connection as Fields
    from fastnl_engine.model import values_of
    from fastnl_engine.wire import explain

    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise Broken(f"{name}: this is no export (format {FORMAT!r}); `fastnl connect` takes plain connections")
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise Broken(f"{name}: version {version!r} is none; the file is broken")
    if version > VERSION:
        raise Broken(
            f"{name}: written by a newer fastnl (version {version}, this one knows {VERSION}); import with that"
        )
    connections, count = document.get("connections"), document.get("count")
    if not isinstance(connections, list):
        raise Broken(f"{name}: there is no list of connections in it; the file is broken")
    if count != len(connections):
        raise Broken(f"{name}: count is {count!r} and {len(connections)} connections are there; the file is broken")
    problems = []
    seen: set[str] = set()
    for number, item in enumerate(connections, 1):
        try:
            id_ = item.get("id") if isinstance(item, dict) else None
            if isinstance(id_, str) and id_ in seen:
                raise fastnl.InvalidValue("id", f"{id_!r} is there twice")
            seen.add(str(id_))
            values_of(msgspec.convert(item, Fields))
        except msgspec.ValidationError as e:
            field, problem = explain(e)
            problems.append(f"connection {number} ({id_}): {field}: {problem}")
        except fastnl.FastnlError as e:
            problems.append(f"connection {number} ({id_}): {e.message}")
    if problems:
        more = [f"… and {len(problems) - TOLD} more"] if len(problems) > TOLD else []
        raise Broken("\n  ".join([f"{name}: nothing was submitted:", *problems[:TOLD], *more]))
    return connections


def _report(settings: Settings, made: Batch, gone: Batch | None) -> None:
    if settings.json:
        output.as_json({"connections": made.answered, "removed": gone.answered if gone else []})
        return
    if gone is not None:
        output.outcome("disconnect", gone.answered)
    output.outcome("import", made.answered)
    waiting = sum(1 for r in made.answered if r.get("state") == "pending")
    if waiting:
        click.echo(f"{waiting} wait for their namespaces; `fastnl list --state pending` names them")


def _write(out: TextIO, instance: str | None, connections: Iterable[Connection]) -> int:
    """One connection a line, as they come."""
    out.write(f'{{"format": "{FORMAT}", "version": {VERSION}, "instance": {json.dumps(instance)}, "connections": [')
    count = 0
    for connection in connections:
        out.write(",\n" if count else "\n")
        out.write(json.dumps(connection))
        count += 1
    out.write(f'\n], "count": {count}}}\n')
    return count


@contextlib.contextmanager
def _written_whole(file: str) -> Iterator[TextIO]:
    """A file that takes its name when it is complete; "-" is standard output.  Raises Broken."""
    if file == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    path = Path(file)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(handle, "w", encoding="utf-8") as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as e:
        raise Broken(f"{file}: {e.strerror}") from None


def _of_state(folder: Path) -> list[Connection]:
    """Every connection of a state file that no engine uses, read from a copy: SQLite writes where it reads."""
    import msgspec

    from fastnl_engine.resume import as_known
    from fastnl_engine.store.base import StoreError
    from fastnl_engine.store.sqlite import SqliteStore

    source = folder / "state.db"
    with contextlib.ExitStack() as stack:
        try:
            with contextlib.suppress(FileNotFoundError):
                held = stack.enter_context(open(folder / "lock"))
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastnl-export-")))
            copy = place / source.name
            shutil.copyfile(source, copy)
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{source}-wal", f"{copy}-wal")
        except BlockingIOError:
            raise Broken(f"{folder}: an engine uses it; ask that one, without --state-dir") from None
        except OSError as e:
            raise Broken(f"{e.filename or source}: {e.strerror}") from None
        try:
            store = stack.enter_context(contextlib.closing(SqliteStore(copy)))
            records = as_known(store, *store.load())
        except StoreError as e:
            raise Broken(str(e).replace(str(copy), str(source))) from None
        return [msgspec.to_builtins(r.connection) for r in sorted(records, key=lambda r: r.id)]


commands = (export, import_)

"""What the commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import click

from fastnl_engine.cli.talk import Result

SHOWN = 50  # more items than this that went well are counted, not listed
COLOURS = {
    "up": "green",
    "pending": "yellow",
    "failed": "red",
    "removing": "yellow",
    "degraded": "yellow",
    "away": "yellow",
    "alive": "green",
    "removed": "dim",
    "mended": "green",
    "appeared": "green",
    "gone": "yellow",
    "changed": "yellow",
}
COUNTERS = {"packets": "pkts", "bytes": "bytes", "errors": "errs", "dropped": "drop"}  # and their headings


def as_json(value: Any) -> None:
    """One JSON document; in one line unless somebody is looking."""
    click.echo(json.dumps(value, indent=2 if sys.stdout.isatty() else None))


def as_json_line(value: Any) -> None:
    """One of many documents, a line each."""
    click.echo(json.dumps(value))


def as_yaml(value: Any) -> None:
    """One thing with all that belongs to it."""
    import yaml

    click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000), nl=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, err: bool = False) -> None:
    """Columns in the width of the terminal; into a pipe each row is one line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    stream = sys.stderr if err else sys.stdout
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        number = column.startswith(("rx ", "tx "))
        made.add_column(
            column.upper(),
            overflow="fold",
            min_width=len(column),
            justify="right" if number else "left",
            no_wrap=number,
        )
    for row in rows:
        made.add_row(*(Text(str(cell), COLOURS.get(str(cell), "")) for cell in row))
    console = Console(file=stream, width=None if stream.isatty() else 1 << 16, highlight=False)
    with console.capture() as captured:
        console.print(made)
    lines = captured.get().splitlines()
    click.echo("\n".join(line.rstrip() for line in lines), err=err)


def failures(results: Iterable[Result]) -> None:
    """Each item that failed: which, why, and what of it."""
    rows = []
    for number, result in enumerate(results, 1):
        if not result["ok"] and "error" in result:
            error = result["error"]
            id_ = result.get("id")
            name = f"(item {number})" if id_ is None else id_
            rows.append((name, error.get("code", ""), error.get("field", ""), error.get("message", "")))
    if rows:
        table(("failed", "code", "field", "message"), rows, err=True)


def outcome(op: str, results: Sequence[Result]) -> None:
    """What became of the items of a job: those that failed, the others if they are few, and how many."""
    done = [r for r in results if r["ok"]]
    if len(done) <= SHOWN and done:
        if op == "disconnect":
            removed = [(r["id"], "removed" if r["changed"] else "was not there") for r in done]
            table(("id", "outcome"), removed)
        else:
            rows = [(r["id"], r["state"], "changed" if r["changed"] else "as it was", *_ends(r), why(r)) for r in done]
            table(("id", "state", "outcome", "a", "b", "reason"), rows)
    failures(results)
    changed = sum(1 for r in done if r["changed"])
    click.echo(f"{op}: {len(results)} in all, {changed} changed, {len(results) - len(done)} failed")


def differences(results: Sequence[Result]) -> None:
    """What is not in the kernel as it was asked for."""
    rows = [
        (r["id"], d["field"], _value(d["want"]), _value(d["have"])) for r in results for d in r.get("differences", ())
    ]
    if rows:
        table(("id", "field", "want", "have"), rows)
    failures(results)
    click.echo(f"verify: {len(results)} in all, {sum(not r['ok'] for r in results)} not as they should be")


def counters(results: Sequence[Result]) -> None:
    """A row for each end."""
    columns = ("id", "end", "interface", *(f"{way} {name}" for way in ("rx", "tx") for name in COUNTERS.values()))
    rows = []
    for r in results:
        for end in "ab":
            if end in r:
                numbers = [r[end].get(f"{way}_{name}", "") for way in ("rx", "tx") for name in COUNTERS]
                rows.append((r["id"], end, r[end]["ifname"], *numbers))
    table(columns, rows)


def _value(value: Any) -> str:
    return "-" if value is None else str(value)


def _ends(result: Result) -> tuple[str, str]:
    """`eth0#1048577` for both ends of a job's result."""
    a, b = ("{ifname}#{ifindex}".format(**result[end]) if end in result else "" for end in "ab")
    return a, b


def end_of(record: Result, end: str) -> str:
    """`blue/eth0 10.0.0.1/24` for an end of a record."""
    spec = record.get(end)
    if spec is None:
        return ""
    addresses = spec.get("addresses", [])
    more = f" +{len(addresses) - 1}" if len(addresses) > 1 else ""
    return f"{spec['netns'] or '(own)'}/{spec['ifname']} {''.join(addresses[:1])}{more}".rstrip()


def other_end(record: Result) -> str:
    """End b, or for a VXLAN its tunnel."""
    tunnel = record.get("vxlan")
    if tunnel is None:
        return end_of(record, "b")
    local, remote = tunnel.get("local", ""), tunnel.get("remote", "")
    return " ".join(word for word in (f"vni {tunnel['vni']}", local, "to" if remote else "", remote) if word)


def why(record: Result) -> str:
    """Why a record is not up."""
    if record.get("error"):
        return f"{record['error'].get('code')}: {record['error'].get('message')}"
    return str(record.get("reason", ""))


def event_line(event: Result) -> str:
    """`10:31:07.250  up        c1  was pending`; of anything but a connection with what it is before the name"""
    of = event.get("of")
    was = f"was {event['was']}" if event.get("was") else ""
    if of == "namespace":
        name = f"namespace {event.get('reference') or '(own)'}"
    elif of == "engine":
        known = ("v", "n", "run", "time", "event", "of", "instance")
        name = " ".join([f"engine {event.get('instance')}", *(f"{k}={v}" for k, v in event.items() if k not in known)])
    else:
        name = str(event.get("id"))
    return _line(event, [name, was, why(event)])


def note_line(note: Result) -> str:
    """What a follower has to say of itself."""
    words = {
        "lost": "events {first} to {last} are lost: the engine's log did not reach back so far",
        "away": "the engine does not answer; waiting for it",
        "restarted": "the engine began anew; what happened last in the one before may be missing",
    }
    return _line(note, [words.get(note["event"], "").format_map(note)])


def _line(event: Result, words: Sequence[str]) -> str:
    at = event.get("time", 0.0)
    clock = time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at % 1 * 1000):03d}"
    state = str(event.get("event"))
    return f"{clock}  {click.style(f'{state:8}', fg=_colour(state))}  {'  '.join(w for w in words if w)}"


def _colour(state: str) -> str | None:
    colour = COLOURS.get(state)
    return None if colour == "dim" else colour

"""ctl: the keys of Ligato's configuration, in etcd or in the engine."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import click

from fastnl_engine.cli import output, predefined, values
from fastnl_engine.cli.options import Settings, asks_engine, pass_settings
from fastnl_engine.cli.store import Access, Store, access_of, reaches_store, store
from fastnl_engine.cli.values import Rejected, full_key, short_key
from fastnl_engine.kv.base import Entry, Event
from fastnl_engine.northbound.ligato.keys import ROOT

F = TypeVar("F", bound=Callable[..., Any])
Work = Callable[[Store], Coroutine[Any, Any, int | None]]

GONE = "is not there"


@click.group()
@reaches_store
@asks_engine
def ctl() -> None:
    """Read and write the configuration keys of Ligato's Linux plugins.

    They are in etcd if --etcd, --etcd-config, ETCD_ENDPOINTS or ETCD_CONFIG name one, else in the running engine.
    A KEY that does not begin with a slash belongs to /vnf-agent/LABEL/.

    \b
    Examples:
      fastnl ctl put linux/config/v1/interface/veth1 veth1.json
      fastnl ctl --etcd 10.0.0.1:2379,10.0.0.2:2379 status
      fastnl ctl --label web dump
    """


def _command(name: str) -> Callable[[F], click.Command]:
    def decorate(function: F) -> click.Command:
        return ctl.command(name)(reaches_store(asks_engine(pass_settings(function))))

    return decorate


def _access() -> Access:
    return access_of(click.get_current_context())


def _run(settings: Settings, work: Work, *, tell_trouble: bool = False) -> None:
    """Runs it with the store; ends with its exit code."""
    import asyncio

    access = _access()

    async def run() -> int:
        async with store(settings, access, tell_trouble=tell_trouble) as kv:
            return await work(kv) or 0

    code = asyncio.run(run())
    if code:
        click.get_current_context().exit(code)


# -- one key -----------------------------------------------------------------------------------------


@_command("put")
@click.argument("name", metavar="KEY")
@click.argument("file")
@click.option("--force", is_flag=True, help="Write a value that fastnl cannot use, or a key that it does not read.")
def put(settings: Settings, name: str, file: str, force: bool) -> None:
    """Write the JSON of FILE under KEY; - is standard input.

    A value that KEY cannot have is refused, with line, column and field, before anything is written.

    \b
    Examples:
      fastnl ctl put linux/config/v1/interface/veth1 veth1.json
      fastnl ctl put config/linux/l3/v2/route/10.2.0.0/16/veth1 - < route.json
      fastnl ctl put /vnf-agent/web/linux/config/v1/arp/gw gw.json
    """
    key = full_key(name, _access().agent)
    value, source = values.read_value(file)
    remarks: list[str] = []
    try:
        remarks = values.check(key, value, source)
    except Rejected as e:
        if not force:
            _reject(settings, key, e)
        remarks = [str(e)]

    async def work(kv: Store) -> None:
        revision = await kv.put(key, value)
        if settings.json:
            output.as_json({"key": key, "ok": True, "revision": revision, "remarks": remarks})
            return
        for remark in remarks:
            click.echo(f"Remark: {remark}", err=True)
        click.echo(f"put {key}, revision {revision}")

    _run(settings, work)


def _reject(settings: Settings, key: str, e: Rejected) -> None:
    if settings.json:
        output.as_json({"key": key, "ok": False, "error": e.error})
    else:
        click.echo(f"Error: {e}\nNothing was written; --force writes it all the same.", err=True)
    click.get_current_context().exit(1)


@_command("get")
@click.argument("name", metavar="KEY")
def get(settings: Settings, name: str) -> None:
    """Print the value of KEY as it is stored.  The exit code is 1 if it is not there.

    \b
    Examples:
      fastnl ctl get linux/config/v1/interface/veth1
      fastnl ctl --label web get config/linux/interfaces/v2/interface/eth1 > eth1.json
    """
    key = full_key(name, _access().agent)

    async def work(kv: Store) -> int:
        entry = await kv.get(key)
        if settings.json:
            output.as_json(_row(entry) if entry else {"key": key, "value": None})
        elif entry:
            click.echo(entry.value)
        else:
            click.echo(f"{key} {GONE}", err=True)
        return 0 if entry else 1

    _run(settings, work)


@_command("del")
@click.argument("name", metavar="KEY")
@click.option("--prefix", is_flag=True, help="Every key that begins with KEY, within one agent; each is shown.")
def delete(settings: Settings, name: str, prefix: bool) -> None:
    """Delete KEY, and no other.  One that is not there is no error.

    \b
    Examples:
      fastnl ctl del linux/config/v1/interface/veth1
      fastnl ctl del --prefix linux/config/v1/route/
    """
    key = full_key(name, _access().agent)
    if prefix and not _within_an_agent(key):
        raise click.UsageError(f"--prefix of {key!r} would reach beyond one agent; name {ROOT}LABEL/…")

    async def work(kv: Store) -> None:
        if prefix:
            gone = list((await kv.get_prefix(key)).entries)
            deleted = await kv.delete_prefix(key)
        else:
            deleted = int(await kv.delete(key))
            gone = [key] if deleted else []
        if settings.json:
            output.as_json({"keys": gone, "deleted": deleted})
            return
        for one in gone:
            click.echo(f"deleted {one}")
        if prefix:
            click.echo(f"{deleted} {'key' if deleted == 1 else 'keys'} deleted")
        elif not deleted:
            click.echo(f"{key} was not there")

    _run(settings, work)


def _within_an_agent(prefix: str) -> bool:
    label, slash, _ = prefix.removeprefix(ROOT).partition("/")
    return prefix.startswith(ROOT) and bool(label and slash)


# -- many keys ---------------------------------------------------------------------------------------


@_command("list")
@click.argument("prefix", default="")
def list_(settings: Settings, prefix: str) -> None:
    """Show the keys that begin with PREFIX; without it all of the agent.

    \b
    Examples:
      fastnl ctl list
      fastnl ctl list linux/config/v1/interface/
      fastnl ctl list /
    """
    prefix = full_key(prefix, _access().agent)

    async def work(kv: Store) -> None:
        entries = (await kv.get_prefix(prefix)).entries
        if settings.json:
            output.as_json(list(entries))
            return
        for key in entries:
            click.echo(key)
        if not entries:
            click.echo(f"no keys under {prefix}", err=True)

    _run(settings, work)


@_command("dump")
@click.argument("prefix", default="")
def dump(settings: Settings, prefix: str) -> None:
    """Show keys and values that begin with PREFIX; without it all of the agent.

    \b
    Examples:
      fastnl ctl dump linux/config/v1/
      fastnl ctl dump --json /vnf-agent/ > all.json
    """
    prefix = full_key(prefix, _access().agent)

    async def work(kv: Store) -> None:
        entries = (await kv.get_prefix(prefix)).entries
        if settings.json:
            output.as_json([_row(entry) for entry in entries.values()])
            return
        for key, entry in entries.items():
            click.echo(f"{key}\n{_pretty(entry.value)}\n")
        if not entries:
            click.echo(f"no keys under {prefix}", err=True)

    _run(settings, work)


@_command("watch")
@click.argument("prefix", default="")
@click.option("--initial", is_flag=True, help="First show what is there.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Stop after so many.")
def watch(settings: Settings, prefix: str, initial: bool, count: int | None) -> None:
    """Show what changes under PREFIX, as it changes; without it of the whole agent.

    The store may go away and come back: what changed meanwhile is shown then.  With --json each change is one line.

    \b
    Examples:
      fastnl ctl watch linux/config/v1/
      fastnl ctl watch --initial config-status/
    """
    prefix = full_key(prefix, _access().agent)

    async def work(kv: Store) -> None:
        left, first = count, True
        async with contextlib.aclosing(kv.watch(prefix)) as batches:
            async for batch in batches:
                if first:
                    click.echo(f"watching {prefix} from revision {batch.revision} on", err=True)
                events, first = (() if first and not initial else batch.events), False
                for event in events:
                    _tell(settings, event)
                    left = None if left is None else left - 1
                    if left == 0:
                        return

    _run(settings, work, tell_trouble=True)


def _tell(settings: Settings, event: Event) -> None:
    word = "delete" if event.entry is None else "put"
    if settings.json:
        row = {"key": event.key} if event.entry is None else _row(event.entry)
        output.as_json_line({"event": word, **row, "revision": event.revision})
        return
    value = "" if event.entry is None else f"  {_line(event.entry.value)}"
    click.echo(f"{time.strftime('%H:%M:%S')}  {word:6}  {event.key}{value}")


# -- what became of it -------------------------------------------------------------------------------


@_command("status")
@click.argument("names", metavar="[NAME...]", nargs=-1)
def status(settings: Settings, names: tuple[str, ...]) -> None:
    """Show what became of each configured value: its state, why, and what it waits for.

    NAME is a value's name, its key, or the key without the agent; without it all are shown.  With --json interfaces
    have their state and counters, too.

    \b
    Examples:
      fastnl ctl status
      fastnl ctl status veth1 veth2
      fastnl ctl status --json linux/config/v1/route/r1
    """
    agent = _access().agent
    prefix = full_key("", agent)

    async def work(kv: Store) -> int:
        rows = statuses((await kv.get_prefix(prefix)).entries, agent)
        wanted = set(names)
        if names:
            rows = [row for row in rows if wanted & {row["name"], row["key"], short_key(row["key"], agent)}]
        unknown = wanted - {word for row in rows for word in (row["name"], row["key"], short_key(row["key"], agent))}
        if settings.json:
            output.as_json(rows)
        elif rows:
            columns = ("key", "state", "last operation", "why")
            output.table(columns, [(short_key(r["key"], agent), *_words(r)) for r in rows])
        elif not names:
            click.echo(f"nothing is configured under {prefix}", err=True)
        for name in sorted(unknown):
            click.echo(f"Error: nothing called {name!r} is configured under {prefix}", err=True)
        return 1 if unknown else 0

    _run(settings, work)


def statuses(entries: Mapping[str, Entry], label: str) -> list[dict[str, Any]]:
    """What became of each value among the keys of an agent; state None where nobody has said."""
    from fastnl_engine.northbound.ligato.keys import parse_key, status_key

    rows = []
    for text in entries:
        key = parse_key(text, label)
        if key is None:
            continue
        published = entries.get(status_key(key, label))
        found = _json(published.value) if published else None
        found = found if isinstance(found, dict) else {}
        told = found.get("value")
        told = told if isinstance(told, dict) else {}
        if not told and key.kind == "afpacket":
            continue  # most interfaces of VPP are none of ours
        rows.append({
            "key": text, "name": key.name, "state": told.get("state"), "error": told.get("error", ""),
            "last_operation": told.get("last_operation"), "details": told.get("details", []),
            **({"interface": found["interface"]} if "interface" in found else {}),
        })  # fmt: skip
    return rows


def _words(row: Mapping[str, Any]) -> tuple[str, str, str]:
    if row["state"] is None:
        return "-", "-", "no engine says anything of it; is one running?"
    why = [row["error"], *row["details"]]
    return row["state"], row["last_operation"] or "-", "; ".join(str(word) for word in why if word)


# -- the predefined pair -----------------------------------------------------------------------------


@_command("veth")
def veth(settings: Settings) -> None:
    """Write the pair veth1 and veth2, to try things with.

    veth1 is in the namespace ns1 with 192.168.22.1/24, veth2 in ns2 with 192.168.22.2/24.

    \b
    Example:
      ip netns add ns1; ip netns add ns2
      fastnl ctl veth
      fastnl ctl status
      ip netns exec ns1 ping -c 1 192.168.22.2
    """

    async def work(kv: Store) -> None:
        done = []
        for key, value in _pair().items():
            revision = await kv.put(key, predefined.as_json(value))
            done.append({"key": key, "ok": True, "revision": revision})
            if not settings.json:
                click.echo(f"put {key}, revision {revision}")
        if settings.json:
            output.as_json(done)

    _run(settings, work)


@_command("veth-del")
def veth_del(settings: Settings) -> None:
    """Delete the keys of that pair.

    \b
    Example:
      fastnl ctl veth-del
    """

    async def work(kv: Store) -> None:
        gone = [key for key in _pair() if await kv.delete(key)]
        if settings.json:
            output.as_json({"keys": gone, "deleted": len(gone)})
            return
        for key in _pair():
            click.echo(f"deleted {key}" if key in gone else f"{key} was not there")

    _run(settings, work)


def _pair() -> dict[str, predefined.Value]:
    return {full_key(key, _access().agent): value for key, value in predefined.VETH.items()}


# -- values in print ---------------------------------------------------------------------------------


def _row(entry: Entry) -> dict[str, Any]:
    found = _json(entry.value)
    return {
        "key": entry.key, "value": entry.value.decode(errors="backslashreplace") if found is None else found,
        "revision": entry.mod_revision, "version": entry.version,
    }  # fmt: skip


def _json(value: bytes) -> Any:
    """None for what is no JSON."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _pretty(value: bytes) -> str:
    found = _json(value)
    if found is None:
        return value.decode(errors="backslashreplace")
    return json.dumps(found, indent=2, ensure_ascii=False)


def _line(value: bytes) -> str:
    found = _json(value)
    return repr(value)[2:-1] if found is None else json.dumps(found, ensure_ascii=False)

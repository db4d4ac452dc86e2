"""`vpp-agent-ctl`: the words of the tool that came with Ligato's vpp-agent, for the scripts that know them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import click

from fastnl_engine.cli import predefined, values
from fastnl_engine.cli.options import Settings
from fastnl_engine.cli.store import Access, Store, store
from fastnl_engine.cli.values import Rejected, full_key
from fastnl_engine.kv.access import DEFAULT
from fastnl_engine.kv.etcd_yaml import CONFIG, ENDPOINTS
from fastnl_engine.northbound.ligato.keys import ROOT

USAGE = """\
Usage: vpp-agent-ctl [<etcd.yaml>|--embedded] <command> [arguments]

Crud operations with .json:
  -put <etc_key> <json-file>     Write the JSON object of a file, or of standard input for -
  -get <etc_key>                 Print the value of a key
  -del <etc_key>                 Delete a key
  -dump [<prefix>]               Print all keys and values, or those that begin with a prefix
  -list                          Print all keys under /vnf-agent/

Prearranged flags (create, delete):
  -veth, -vethd                  Linux VETH interface pair: veth1 in ns1 with 192.168.22.1/24 and 10.0.2.2/24,
                                 veth2 in ns2 with 192.168.22.2/24
  -ltap, -ltapd                  Linux TAP interface: tap1 in ns1, tap-host in the kernel
  -lrte, -lrted                  Linux route: 10.0.2.0/24 through veth1
  -larp, -larpd                  Linux ARP entry: 192.168.22.3 on veth1

Keys are whole keys, such as /vnf-agent/vpp1/linux/config/v1/interface/veth1. The prearranged ones belong to the agent
that MICROSERVICE_LABEL names, else to vpp1.

etcd is where the etcd.yaml says, or the one that ETCD_CONFIG names, or ETCD_ENDPOINTS; else at 127.0.0.1:2379.
--embedded takes the running engine's own store instead (FASTNL_ENDPOINT says where).

What differs from the tool of the vpp-agent:
  -del deletes this key and no other; it deleted every key that begins so, veth10 with veth1.
  What fails ends with exit code 1, wrong usage and a store that cannot be reached with 2; it was 0.
  -put of what is no JSON object says so, with line and column, where it panicked; a value that fastnl cannot use
    for a key of its own is refused before it is written.
  -get of a key that is not there says so, with exit code 1; it printed an empty line.
  This text and all results go to standard output, errors to standard error; they went to a logger.
  -veth gives veth2 the address 192.168.22.2, as was documented, and not 192.168.22.5.
  What configures VPP is not there, for there is no VPP.

`fastnl ctl --help` shows the same and more for people: checks, watch, status."""

# with their twins in -…d, but for those that have none
# fmt: off
VPP = {
    "-acl", "-eth", "-tap", "-loop", "-memif", "-vxlan", "-vmxnt", "-afpkt", "-spd", "-sa", "-tun", "-stn", "-gnat",
    "-snat", "-dnat", "-bd", "-fib", "-xconn", "-route", "-arp", "-prxi", "-prxr", "-ipscn", "-appns", "-puntr", "-txn",
}
VPP_ALONE = {"-bfds", "-bfdsd", "-bfdk", "-bfdkd", "-bfde", "-bfded", "-el4", "-dl4", "-errIf", "-errBd"}
# fmt: on

PREARRANGED = {
    "-veth": predefined.with_address(predefined.VETH, "veth1", "10.0.2.2/24"),
    "-ltap": predefined.TAP,
    "-lrte": predefined.ROUTE,
    "-larp": predefined.ARP,
}

ARGUMENTS = {
    "-put": ("<etc_key>", "<json-file>"), "-get": ("<etc_key>",), "-del": ("<etc_key>",), "-dump": ("[<prefix>]",),
    "-list": (),
}  # fmt: skip

Work = Callable[[Store], Coroutine[Any, Any, int]]


class Wrong(Exception):
    """Usage that cannot be; nothing was done."""


def main() -> None:
    """Ends with the exit code."""
    try:
        sys.exit(run(sys.argv[1:], os.environ))
    except KeyboardInterrupt:
        sys.exit(130)


def run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """The exit code."""
    words = list(words)
    embedded = words[:1] == ["--embedded"]
    config = words[0] if words and not words[0].startswith("-") else None
    if embedded or config is not None:
        words = words[1:]
    if not words or words[0] in ("-h", "-help", "--help"):
        print(USAGE)
        return 0
    try:
        work = command(words[0], words[1:], environ.get("MICROSERVICE_LABEL") or "vpp1")
        access = Access(embedded=embedded, etcd_config=config)
        if not embedded and config is None and not any(environ.get(name) for name in (*ENDPOINTS, *CONFIG)):
            access.etcd = DEFAULT
        return asyncio.run(_run(access, work))
    except Wrong as e:
        _say(f"{e}\n`vpp-agent-ctl` alone prints all commands.")
        return 2
    except Rejected as e:
        _say(f"{e}\nNothing was written.")
        return 1
    except click.ClickException as e:
        _say(e.format_message())
        return e.exit_code


async def _run(access: Access, work: Work) -> int:
    async with store(Settings(), access) as kv:
        return await work(kv)


def command(word: str, arguments: Sequence[str], label: str) -> Work:
    """What to do with the store.  Raises Wrong, Rejected, ClickException."""
    if word in VPP or word in VPP_ALONE or (word.endswith("d") and word[:-1] in VPP):
        raise Wrong(f"{word}: there is no VPP here; fastnl has the Linux interfaces, routes and neighbours")
    if word not in ARGUMENTS and _prearranged(word) is None:
        raise Wrong(f"{word}: there is no such command")
    expected = ARGUMENTS.get(word, ())
    needed = sum(not name.startswith("[") for name in expected)
    if not needed <= len(arguments) <= len(expected):
        raise Wrong(f"{word}: takes {' '.join(expected) or 'no arguments'}")
    match word:
        case "-put":
            return _put(*arguments)
        case "-get":
            return _get(*arguments)
        case "-del":
            return _delete(*arguments)
        case "-dump":
            return _dump(*arguments)
        case "-list":
            return _list
    found = _prearranged(word)
    assert found is not None
    chosen = {full_key(key, label): value for key, value in found.items()}
    return _delete(*chosen) if word not in PREARRANGED else _put_all(chosen)


def _prearranged(word: str) -> Mapping[str, predefined.Value] | None:
    return PREARRANGED.get(word) or PREARRANGED.get(word.removesuffix("d"))


def _put(key: str, file: str) -> Work:
    value, name = values.read_value(file)
    try:
        found = json.loads(value)
    except json.JSONDecodeError as e:
        raise Rejected(f"{name}, line {e.lineno}, column {e.colno}: not a valid JSON: {e.msg}") from None
    except (ValueError, RecursionError) as e:
        raise Rejected(f"{name}: not a valid JSON: {e}") from None
    if not isinstance(found, dict):
        raise Rejected(f"{name}: must be a JSON object")
    parsed = values.parsed(key)
    # of others nothing is known, and this tool was there for all of them
    remarks = (
        values.check_parsed(parsed, value, name) if parsed and parsed.kind in ("interface", "arp", "route") else []
    )

    async def work(kv: Store) -> int:
        for remark in remarks:
            _say(remark)
        await kv.put(key, value)
        print(f"DB put successful {key} {file}")
        return 0

    return work


def _put_all(chosen: Mapping[str, predefined.Value]) -> Work:
    async def work(kv: Store) -> int:
        for key, value in chosen.items():
            await kv.put(key, predefined.as_json(value))
            print(f"DB put successful {key}")
        return 0

    return work


def _get(key: str) -> Work:
    async def work(kv: Store) -> int:
        entry = await kv.get(key)
        if entry is None:
            _say(f"{key} is not there")
            return 1
        click.echo(entry.value)
        return 0

    return work


def _delete(*keys: str) -> Work:
    async def work(kv: Store) -> int:
        for key in keys:
            deleted = await kv.delete(key)
            print(f"Deleting {key}: {'done' if deleted else 'it was not there'}")
        return 0

    return work


def _dump(prefix: str = "") -> Work:
    async def work(kv: Store) -> int:
        for key, entry in (await kv.get_prefix(prefix)).entries.items():
            click.echo(f"{key}\n".encode(errors="surrogateescape") + entry.value + b"\n")
        return 0

    return work


async def _list(kv: Store) -> int:
    for key in (await kv.get_prefix(ROOT)).entries:
        click.echo(f"key:  {key}".encode(errors="surrogateescape"))
    return 0


def _say(text: str) -> None:
    click.echo(f"vpp-agent-ctl: {text}", err=True)


if __name__ == "__main__":
    main()

"""The measurements behind the library's constants: what would a pair cost if they were different?

    python -m bench.studies addresses|ipv6|threads|datagrams [--rounds 5] [--pairs 300,1000,3000]
    python -m bench.studies refused|births|defaults|lone|ready|namespaces|sweeps|deferred|beside [--pairs 128] ...

    addresses   are IPv4 addresses removed before a sweep, or with it                       sweep._drop_addresses
    ipv6        is IPv6 turned off by addr_gen_mode, or by each interface's sysctl file     birth.CROWD
    threads     how many namespaces are swept at a time                                     sweep.THREADS
    datagrams   how many messages go into one datagram                                      Tour

What could make the kernel do less for the same pair (bench.cheaper, docs/design/past-the-floor.md):

    refused     what the kernel takes in the message that creates a pair: alias, IPv6 mode, up
    births      messages merged, left out, in another order, or for a whole batch
    defaults    IPv6's defaults set in the namespaces beforehand
    lone        one pair at a time: visits and sockets
    ready       pairs held ready, in place or in a room of their own
    namespaces  namespaces held ready
    sweeps      messages of a delete left out
    deferred    the reply to a delete before the sweep, which others share
    beside      creates while another thread deletes

Variants take turns within every round.  Ratios are medians of the rounds' own to the first
variant.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console

from bench import cheaper
from bench.experiments import Variant, addresses_left
from bench.tables import sheet
from fastnl import birth, sweep
from fastnl._nl import Tour
from fastnl.testing import allow_many_files, isolate
from fastnl_engine.bench import machine, workloads
from fastnl_engine.bench.contenders import Library
from fastnl_engine.bench.results import Results
from fastnl_engine.bench.rounds import measure

Patch = Callable[[], contextlib.AbstractContextManager[Any]]


def addresses() -> dict[str, Patch]:
    return {"removed first": contextlib.nullcontext, "left to the sweep": addresses_left}


def ipv6() -> dict[str, Patch]:
    """By the number of ends in a namespace from which on the files are written."""
    return {
        name: functools.partial(mock.patch.object, birth, "CROWD", n)
        for name, n in (("addr_gen_mode", 1 << 30), ("files over 1000", 1000), ("files over 256", 256), ("files", 1))
    }


def threads() -> dict[str, Patch]:
    return {str(n): functools.partial(mock.patch.object, sweep, "THREADS", n) for n in (32, 1, 8, 16, 64)}


def datagrams() -> dict[str, Patch]:
    return {
        str(n): functools.partial(mock.patch.object, birth, "Tour", functools.partial(Tour, datagram_messages=n))
        for n in (128, 32, 64, 256)
    }


# what is varied, in which shapes, and how many pairs a call
STUDIES: dict[str, tuple[Callable[[], dict[str, Patch]], tuple[str, ...], int]] = {
    "addresses": (addresses, ("star", "dense"), 256),
    "ipv6": (ipv6, ("star", "dense"), 256),
    "threads": (threads, ("spread", "mesh"), 64),
    "datagrams": (datagrams, ("spread", "star"), 64),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.studies")
    parser.add_argument("study", choices=[*STUDIES, *cheaper.STUDIES])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=lambda text: [int(n) for n in text.split(",")], default=None)
    options = parser.parse_args()
    isolate()
    allow_many_files()
    results = Results("", machine.facts())
    others = machine.Others()
    console = Console(width=max(120, Console().width))
    if options.study in STUDIES:
        _of_constants(options.study, results, options)
    else:
        say = functools.partial(console.print, highlight=False)
        pairs = options.pairs[0] if options.pairs else None
        with tempfile.TemporaryDirectory(prefix="fastnl-", dir="/var/tmp") as folder:
            cheaper.run(options.study, results, Path(folder), rounds=options.rounds, pairs=pairs, say=say)
    for name in dict.fromkeys(s.experiment for s in results.series):
        console.print(sheet(results, name).for_terminal())
    console.print(others.read(), highlight=False)


def _of_constants(name: str, results: Results, options: argparse.Namespace) -> None:
    patches, shapes, together = STUDIES[name]
    for shape in shapes:
        for count in options.pairs or ([300, 1000, 3000] if together == 256 else [256]):
            made = workloads.pairs(shape, count)
            workloads.make_namespaces(made)
            variants = [Variant(name, Library(made, together), patch) for name, patch in patches().items()]
            about = {"shape": shape, "pairs": count, "a call": together}
            measure(results, name, about, variants, rounds=options.rounds)


if __name__ == "__main__":
    main()

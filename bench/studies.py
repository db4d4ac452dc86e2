"""The measurements behind the library's constants: what would a pair cost if they were different?

    python -m bench.studies addresses|ipv6|threads|datagrams [--rounds 5] [--pairs 300,1000,3000]

    addresses   are IPv4 addresses removed before a sweep, or with it                       sweep._drop_addresses
    ipv6        is IPv6 turned off by addr_gen_mode, or by each interface's sysctl file     birth.CROWD
    threads     how many namespaces are swept at a time                                     sweep.THREADS
    datagrams   how many messages go into one datagram                                      Tour

Variants take turns within every round.  Ratios are medians of the rounds' own to the first
variant.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import resource
from collections.abc import Callable
from typing import Any
from unittest import mock

from rich.console import Console

from bench.experiments import Variant, addresses_left
from bench.tables import sheet
from fastnl import birth, sweep
from fastnl._nl import Tour
from fastnl.testing import isolate
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
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=lambda text: [int(n) for n in text.split(",")], default=None)
    options = parser.parse_args()
    isolate()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    patches, shapes, together = STUDIES[options.study]
    results = Results("", machine.facts())
    others = machine.Others()
    for shape in shapes:
        for count in options.pairs or ([300, 1000, 3000] if together == 256 else [256]):
            made = workloads.pairs(shape, count)
            workloads.make_namespaces(made)
            variants = [Variant(name, Library(made, together), patch) for name, patch in patches().items()]
            about = {"shape": shape, "pairs": count, "a call": together}
            measure(results, options.study, about, variants, rounds=options.rounds)
    console = Console(width=max(120, Console().width))
    console.print(sheet(results, options.study).for_terminal())
    console.print(others.read(), highlight=False)


if __name__ == "__main__":
    main()

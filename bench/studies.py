"""The measurements behind the library's constants: what would a pair cost if they were different?

    python -m bench.studies addresses|ipv6|threads|datagrams [--rounds 5] [--pairs 300,1000,3000]

    addresses   are IPv4 addresses removed before a sweep, or with it                       sweep._drop_addresses
    ipv6        is IPv6 turned off by addr_gen_mode, or by each interface's sysctl file     birth.CROWD
    threads     how many namespaces are swept at a time                                     sweep.THREADS
    datagrams   how many messages go into one datagram                                      Tour

Variants take turns within every round.  Ratios are medians of the rounds' own ratios to the first variant.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import resource
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

from rich.console import Console
from rich.table import Table

from bench import machine, workloads
from bench.contenders import Cost, Library, settle
from bench.summary import STEPS
from fastnl import birth, sweep
from fastnl._nl import Tour
from fastnl.testing import isolate

Variant = Callable[[], contextlib.AbstractContextManager[Any]]


def addresses() -> dict[str, Variant]:
    return {
        "removed first": contextlib.nullcontext,
        "left to the sweep": lambda: mock.patch.object(sweep, "_drop_addresses", lambda *_: None),
    }


def ipv6() -> dict[str, Variant]:
    """By the number of ends in a namespace from which on the files are written."""
    return {
        name: functools.partial(mock.patch.object, birth, "CROWD", n)
        for name, n in (("addr_gen_mode", 1 << 30), ("files over 1000", 1000), ("files over 256", 256), ("files", 1))
    }


def threads() -> dict[str, Variant]:
    return {
        str(n): functools.partial(mock.patch.object, sweep, "THREADS", n)
        for n in (32, 1, 8, 16, 64)
    }  # fmt: skip


def datagrams() -> dict[str, Variant]:
    return {
        str(n): functools.partial(mock.patch.object, birth, "Tour", functools.partial(Tour, datagram_messages=n))
        for n in (128, 32, 64, 256)
    }


# what is varied, in which shapes, and how many pairs a call
STUDIES: dict[str, tuple[Callable[[], dict[str, Variant]], tuple[str, ...], int]] = {
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
    variants, shapes, together = STUDIES[options.study]
    counts = options.pairs or ([300, 1000, 3000] if together == 256 else [256])
    console = Console(width=max(100, Console().width))
    others = machine.Others()
    for shape in shapes:
        for count in counts:
            rounds = list(_rounds(shape, count, together, variants(), options.rounds))
            console.print(_table(f"{options.study}: {shape}, {count} pairs, {together} a call", rounds))
    console.print(others.read(), highlight=False)


def _rounds(
    shape: str, count: int, together: int, variants: dict[str, Variant], rounds: int
) -> Iterator[dict[str, Cost]]:
    connections = workloads.pairs(shape, count)
    workloads.make_namespaces(connections)
    names = list(variants)
    for n in range(rounds):
        turn = n % len(names)
        costs = {}
        for name in names[turn:] + names[:turn]:
            settle()
            with variants[name]():
                costs[name] = Library(connections, together).round()
        yield costs


def _table(title: str, rounds: Sequence[dict[str, Cost]]) -> Table:
    table = Table(title=f"{title}; {len(rounds)} rounds", min_width=96)
    table.add_column("")
    for step in STEPS:
        table.add_column(f"{step}, us a pair", justify="right")
        table.add_column("ratio (range)", justify="right")
    first = next(iter(rounds[0]))
    for name in rounds[0]:
        cells = []
        for step in STEPS:
            cost = statistics.median(float(getattr(r[name], step)) for r in rounds)
            ratios = sorted(getattr(r[name], step) / getattr(r[first], step) for r in rounds)
            cells += [f"{cost * 1e6:,.0f}", f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})"]
        table.add_row(name, *cells)
    return table


if __name__ == "__main__":
    main()

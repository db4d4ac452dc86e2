"""The command line and the loop of fastnl-afpacket."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import signal
import socket
import sys
import time
from typing import Any

import click
import structlog
import zmq

import fastnl
from fastnl_engine.afpacket.attend import Attendant, Step
from fastnl_engine.afpacket.crossing import Crossing, Place, Shape
from fastnl_engine.afpacket.switchboard import Switchboard
from fastnl_engine.afpacket.watch import Watch
from fastnl_engine.config import client_endpoint
from fastnl_engine.curve import KeyProblem

log = structlog.get_logger()


@click.command()
@click.option("--pair", "pairs", nargs=2, multiple=True, metavar="A B", help="AF_PACKET interfaces of the engine's.")
@click.option("--pair-if", "if_pairs", nargs=2, multiple=True, metavar="IF IF", help="Interfaces; needs no engine.")
@click.option("--endpoint", help="ZeroMQ endpoint of the engine (default: FASTNL_ENDPOINT, or the engine's default).")
@click.option("--consumer", default="fastnl-afpacket", show_default=True, help="Name for the engine; one process each.")
@click.option("--netns", default="", help="Namespace of the interfaces (default: this process's own).")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Threads of each pair.")
@click.option("--ring", type=click.IntRange(1, 1024), default=8, show_default=True, help="MiB of each receive ring.")
@click.option("--retire", type=click.IntRange(1, 1000), default=1, show_default=True, help="ms until frames go on.")
@click.option("--stats", type=click.FloatRange(0.1), help="Seconds between lines of counters on standard output.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.version_option(fastnl.__version__)
def main(
    pairs: tuple[tuple[str, str], ...],
    if_pairs: tuple[tuple[str, str], ...],
    endpoint: str | None,
    consumer: str,
    netns: str,
    workers: int,
    ring: int,
    retire: int,
    stats: float | None,
    log_level: str,
) -> None:
    """Joins pairs of interfaces: what comes in by one leaves by the other, frame by frame.

    With --pair the engine says when the interfaces of these names come and go; with --pair-if they are looked for by
    their names.  A line of JSON with counters is printed at the end, on SIGUSR1 and every --stats seconds.

    \b
    fastnl-afpacket --pair afp1 afp2
    fastnl-afpacket --pair-if veth1 veth2 --workers 2 --stats 10
    """
    _check_names("--pair", pairs)
    _check_names("--pair-if", if_pairs)
    if not pairs and not if_pairs:
        raise click.UsageError("nothing to join; give --pair or --pair-if")
    _set_up_log(log_level)
    shape = Shape(workers, ring * 1024, retire)

    def cross(a: Place, b: Place) -> Crossing:
        return Crossing(a, b, shape)

    boards = Switchboard(pairs, cross), Switchboard(if_pairs, cross)
    try:
        with contextlib.ExitStack() as stack:
            loop = Loop(boards, stats)
            stack.callback(loop.close)
            if pairs:
                loop.attend(client_endpoint(endpoint), consumer, netns)
            if if_pairs:
                loop.watch(netns, list(itertools.chain(*if_pairs)))
            loop.run()
    except (OSError, zmq.ZMQError, KeyProblem, fastnl.FastnlError) as e:
        log.error("cannot run", reason=str(e))
        sys.exit(1)


def _check_names(option: str, pairs: tuple[tuple[str, str], ...]) -> None:
    names = list(itertools.chain(*pairs))
    for name in names:
        if names.count(name) > 1:
            raise click.UsageError(f"{option}: {name!r} is there twice; an interface is in one pair only")
        if not name or len(name) > 200:
            raise click.UsageError(f"{option}: {name!r} cannot be a name")


class Loop:
    """Waits for the engine, for interfaces, for signals and for the time, on one thread."""

    def __init__(self, boards: tuple[Switchboard, Switchboard], stats: float | None) -> None:
        self._by_engine, self._by_name = self._boards = boards
        self._stats = stats
        self._stats_at = time.monotonic() + stats if stats else math.inf
        self._attendant: Attendant | None = None
        self._watch: Watch | None = None
        self._stopping = self._asked = False
        self._poller = zmq.Poller()
        self._signals, self._waker = socket.socketpair()
        for end in (self._signals, self._waker):
            end.setblocking(False)
        self._poller.register(self._signals, zmq.POLLIN)

    def attend(self, endpoint: str, consumer: str, netns: str) -> None:
        def create(step: Step) -> None:
            self._by_engine.create(step["name"], Place(step["netns"] or netns, step["ifindex"]))

        self._attendant = Attendant(endpoint, consumer, create, self._by_engine.delete)
        for s in self._attendant.sockets:
            self._poller.register(s, zmq.POLLIN)

    def watch(self, netns: str, names: list[str]) -> None:
        def create(name: str, ifindex: int) -> None:
            self._by_name.create(name, Place(netns, ifindex))

        self._watch = Watch(netns, names, create, self._by_name.delete)
        self._poller.register(self._watch.fileno(), zmq.POLLIN)
        self._watch.turn()

    def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        signal.set_wakeup_fd(self._waker.fileno())
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._stop)
        signal.signal(signal.SIGUSR1, self._ask)
        log.info("running")
        while not self._stopping:
            ready = dict(self._poller.poll(self._timeout()))
            with contextlib.suppress(BlockingIOError):
                self._signals.recv(64)
            if self._attendant is not None:
                self._attendant.turn()
            if self._watch is not None and self._watch.fileno() in ready:
                self._watch.turn()
            for board in self._boards:
                board.turn()
            if self._asked or time.monotonic() >= self._stats_at:
                self._asked = False
                self._stats_at = time.monotonic() + self._stats if self._stats else math.inf
                self._print()

    def _timeout(self) -> int | None:
        due = [board.timeout for board in self._boards] + [self._stats_at - time.monotonic()]
        if self._attendant is not None:
            due.append(self._attendant.timeout)
        first = min(due)
        return None if math.isinf(first) else int(1000 * max(0.0, first)) + 1

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _ask(self, *_: object) -> None:
        self._asked = True

    def _print(self) -> None:
        pairs: list[dict[str, Any]] = [row for board in self._boards for row in board.counts()]
        with contextlib.suppress(OSError):  # nobody may be reading any more
            print(json.dumps({"pairs": pairs}), flush=True)

    def close(self) -> None:
        for board in self._boards:
            board.close()
        if self._attendant is not None:
            self._attendant.close()
        if self._watch is not None:
            self._watch.close()
        self._print()
        signal.set_wakeup_fd(-1)
        self._signals.close()
        self._waker.close()


def _set_up_log(level: str) -> None:
    """To standard error, so that standard output holds counters alone."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.LogfmtRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    main()

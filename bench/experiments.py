"""The experiments of `make bench`: each answers one question, with all contenders in turns.

A form says how much of it: "smoke" runs everything once as small as can be, "short" takes minutes, "full" an hour.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from pyroute2 import IPBatch

from bench import messages
from bench.peers import FORMS as FORMS_OF_PEERS
from bench.peers import Peer
from bench.replay import Floor
from fastnl import Connection, End, Host, Wired, sweep
from fastnl._nl import read_rows
from fastnl_engine.bench import workloads
from fastnl_engine.bench.churn import churn
from fastnl_engine.bench.contenders import BATCH, Contender, Library, Step, Time, wired
from fastnl_engine.bench.engine import CLIENTS, IN_FLIGHT, Engine
from fastnl_engine.bench.results import Results, Series, Setting, distribution
from fastnl_engine.bench.rounds import measure
from fastnl_engine.bench.worker import Process
from fastnl_engine.bench.workloads import KINDS, Workload
from fastnl_engine.testing import EngineProcess


@dataclass(frozen=True, slots=True)
class Form:
    """How much is measured.

    pairs     of a round
    flow      pairs of a round of the levels: twice what the engine's clients have in flight, so that they are refilled
    slow      pairs of a contender that takes tens of milliseconds for each
    moved     pairs of one call that moves them, at most: each waits for itself
    standing  connections that are there already
    compared  shapes in which the levels and the peers are measured, which takes most of the time
    rates     arrivals a second
    lone      connections made one after the other
    patience  seconds for the rounds of one comparison: after them no other round begins
    """

    rounds: int
    pairs: int
    flow: int
    slow: int
    moved: int
    shapes: Sequence[str]
    compared: Sequence[str]
    batches: Sequence[int]
    standing: Sequence[int]
    clients: Sequence[int]
    rates: Sequence[int]
    seconds: float
    lone: int
    patience: float


ALL = ("spread", "star", "mesh")
# how much more patience than usual: for what figures to reach hang on, and for many contenders
WEIGHTS = {
    "levels": 50, "peers": 40, "deletes": 7, "lone": 24, "layers": 6, "peers-changes": 6, "clients": 2,
}  # fmt: skip
SIZES_OF_BATCHES = (1, 8, 64, 512)

FORMS = {
    "smoke": Form(
        rounds=1, pairs=8, flow=16, slow=2, moved=1, shapes=ALL[::2], compared=ALL[:1], batches=(1, 8),
        standing=(1, 20), clients=(1, 2), rates=(40,), seconds=0.5, lone=5, patience=1,
    ),
    "short": Form(
        rounds=5, pairs=256, flow=1024, slow=4, moved=64, shapes=ALL, compared=ALL[:2], batches=SIZES_OF_BATCHES,
        standing=(1, 100, 1000), clients=(1, 8, 64), rates=(100, 400), seconds=4, lone=100, patience=1.5,
    ),
    "full": Form(
        rounds=9, pairs=512, flow=1024, slow=8, moved=512, shapes=ALL, compared=ALL, batches=SIZES_OF_BATCHES,
        standing=(1, 100, 1000, 3000, 10_000), clients=(1, 2, 4, 8, 16, 32, 64), rates=(100, 400, 800), seconds=30,
        lone=300, patience=6,
    ),
}  # fmt: skip


@dataclass
class Run:
    """What an experiment is given."""

    form: Form
    results: Results
    folder: Path
    peers: Sequence[Peer]
    tell: Callable[[str], None] = lambda _: None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def place(self) -> Path:
        """A folder for something new; its path is short, as a socket's may have 107 bytes only."""
        return self.folder / str(next(self._numbers))

    def compare(
        self,
        experiment: str,
        workload: Workload,
        contenders: Sequence[Contender],
        steps: Sequence[Step] = ("create", "delete"),
        *,
        only: Sequence[Step] | None = None,
        latencies: bool = False,
        **setting: str | int,
    ) -> None:
        about: Setting = {
            "kind": workload.kind, "shape": workload.shape, "addresses": workload.addresses, "routes": workload.routes,
        }  # fmt: skip
        what = ", ".join(str(x) for x in (workload.kind, workload.shape, *setting.values()))
        until = time.monotonic() + self.form.patience * WEIGHTS.get(experiment, 1)
        measure(
            self.results, experiment, about | setting, contenders, steps,
            rounds=self.form.rounds, only=only, latencies=latencies, until=until,
            tell=lambda name: self.tell(f"{experiment} ({what}): {name}"),
        )  # fmt: skip


def connections_of(workload: Workload) -> list[Connection]:
    """The connections, with namespaces for them."""
    made = workload.connections()
    workloads.make_namespaces(made)
    return made


def each(run: Run, shapes: Sequence[str] | None = None) -> Iterator[Workload]:
    """A workload for each kind and shape."""
    for kind, shape in itertools.product(KINDS, run.form.shapes if shapes is None else shapes):
        yield Workload(shape, kind, run.form.pairs)


def abridged(run: Run, values: Sequence[T]) -> Iterator[tuple[Workload, T]]:
    """The first shape with each of the values, the others with the last one alone."""
    for workload in each(run):
        for value in values if workload.shape == run.form.shapes[0] else values[-1:]:
            yield workload, value


# -- what a message costs ----------------------------------------------------------------------------


def byte_level(run: Run) -> None:
    """How long does it take to write the messages of a connection, and to read the kernel's?"""

    def add(setting: Setting, step: str, works: dict[str, Callable[[], object]]) -> None:
        series = {who: Series("bytes", setting, who, "", step, "us", BATCH) for who in works}
        for turn in range(run.form.rounds + 1):
            for who in list(works)[:: 1 if turn % 2 else -1]:
                cost = 1e6 * messages.timed(works[who], BATCH)
                if turn:
                    series[who].rounds.append(cost)
        run.results.series += series.values()

    with IPBatch() as builder:
        for kind, (addresses, routes) in itertools.product(KINDS, SIZES):
            run.tell(f"bytes ({kind}, {addresses} addresses, {routes} routes)")
            made = Workload("star", kind, BATCH, addresses, routes).connections()
            add({"kind": kind, "addresses": addresses, "routes": routes}, "build", {
                "library": lambda made=made: messages.build(made),
                "pyroute2 IPBatch": lambda made=made: messages.build_with_pyroute2(made, builder),
            })  # fmt: skip
    data = messages.answers(BATCH)
    add({}, "read", {
        "library": lambda: read_rows(data),
        "pyroute2": lambda: messages.read_with_pyroute2(data),
    })  # fmt: skip


SIZES = ((0, 0), (1, 0), (4, 0), (1, 1), (4, 4))  # addresses and routes of an end
T = TypeVar("T")


# -- the library -------------------------------------------------------------------------------------


def batches(run: Run) -> None:
    """What does it bring to hand over many connections at a time?"""
    for workload, batch in itertools.product(each(run), run.form.batches):
        # one by one a delete waits for grace periods of its own
        workload = replace(workload, count=max(batch, min(workload.count, batch * run.form.slow * 4)))
        made = connections_of(workload)
        run.compare("batches", workload, [Floor(made, run.place(), batch=batch), Library(made, batch)], batch=batch)


def sizes(run: Run) -> None:
    """What do addresses and routes cost?"""
    for workload, (addresses, routes) in abridged(run, SIZES):
        workload = replace(workload, addresses=addresses, routes=routes)
        made = connections_of(workload)
        run.compare("sizes", workload, [Floor(made, run.place()), Library(made)])


def changes(run: Run) -> None:
    """What does it cost to change a connection that is up: another address and MTU, another namespace?"""
    make_rooms()
    few = run.form.slow * 4
    for workload, step in itertools.product(each(run), CHANGES):
        at_once = [n for n in run.form.batches if step != "move" or n <= run.form.moved]
        usual = max(n for n in at_once if n <= (few if step == "move" else BATCH))
        for batch in at_once if workload.shape == run.form.shapes[0] else [usual]:
            # what is moved waits for grace periods of its own, and so does what is deleted one by one
            most = few if step == "move" else min(workload.count // 2, batch * few)
            _change(run, replace(workload, count=max(batch, most)), step, batch, engine=batch == usual)


def _change(run: Run, workload: Workload, step: Step, batch: int, *, engine: bool) -> None:
    steps: list[Step] = ["create", step, "delete"]
    made = connections_of(workload)
    with contextlib.ExitStack() as stack:
        contenders: list[Contender] = [Floor(made, run.place(), steps, batch=batch), Library(made, batch)]
        if engine:
            contenders.append(stack.enter_context(Engine(made, run.place())))
        run.compare("changes", workload, contenders, steps, only=[step], batch=batch)


CHANGES: tuple[Step, ...] = ("update", "recreate", "move")


def make_rooms() -> None:
    for name in workloads.ROOMS:
        workloads.make_namespace(name)


def growth(run: Run) -> None:
    """Does a connection cost more where many are up already?"""
    # spread comes last, as its namespaces stay; the tunnels' are then all there from the start
    for shape, kind in itertools.product(("dense", "spread") if "star" in run.form.shapes else ("dense",), KINDS):
        standing = Workload(shape, kind, max(run.form.standing), prefix="s").connections()
        # the probes' namespaces are the first ones of the others
        probe = Workload(shape, kind, min(BATCH, run.form.pairs), prefix="p")
        probes = connections_of(probe)
        host = Host("bench")  # one for all, as it goes by how many ends of its own a namespace holds
        there: list[Wired] = []
        for count in run.form.standing:
            run.tell(f"growth ({kind}, {shape}): making {count}")
            more = standing[len(there) : count]
            workloads.make_namespaces(more)
            there += wired(host.connect(more))
            run.compare(
                "growth", probe, [Floor(probes, run.place(), host=host), Library(probes, host=host)], standing=count
            )
        host.disconnect(there)


# -- who deletes how ---------------------------------------------------------------------------------


@dataclass
class Variant:
    """A library that works in its own way: under what `patch` changes."""

    name: str
    library: Library
    patch: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    form: str = "born"

    @property
    def count(self) -> int:
        return self.library.count

    def step(self, step: Step) -> Time:
        with self.patch():
            return self.library.step(step)


def addresses_left() -> contextlib.AbstractContextManager[Any]:
    """Deletes leave the addresses to the kernel, which walks the routes of the namespace for each interface."""
    return mock.patch.object(sweep, "_drop_addresses", lambda *_: None)


def deletes(run: Run) -> None:
    """What makes a delete cheap?"""
    for workload in each(run):
        made = connections_of(workload)
        few = made[: run.form.slow * 4]
        contenders: list[Contender] = [
            Floor(made, run.place(), batch=len(made)),
            Variant("one by one", Library(few, sweep=1)),
            Variant("one by one, 16 at a time", Library(few, sweep=1, at_once=16)),
            *(Variant(f"{n} in one sweep", Library(made, sweep=n)) for n in run.form.batches if 1 < n < len(made)),
            Variant("all in one sweep", Library(made, sweep=len(made))),
            Variant("all, addresses left to the kernel", Library(made, sweep=len(made)), addresses_left),
        ]
        run.compare("deletes", workload, contenders, only=["delete"])


# -- levels ------------------------------------------------------------------------------------------


def levels(run: Run) -> None:
    """What does each layer above the kernel cost?"""
    for workload in each(run, run.form.compared):
        workload = replace(workload, count=run.form.flow)
        made = connections_of(workload)
        with contextlib.ExitStack() as stack:
            contenders: list[Contender] = [
                Floor(made, run.place()),
                Library(made),
                Library(made, batch=len(made), name="library, one call"),
                stack.enter_context(Engine(made, run.place())),
                stack.enter_context(Engine(made, run.place(), durable=False)),
                stack.enter_context(Engine(made, run.place(), together=IN_FLIGHT)),
            ]
            contenders += _northbounds(run, workload.kind, made, stack)
            run.compare("levels", workload, contenders, batch=BATCH, clients=CLIENTS)


def _northbounds(run: Run, kind: str, made: Sequence[Connection], stack: contextlib.ExitStack) -> list[Contender]:
    try:
        from bench.northbounds import CONTENDERS
    except ImportError as e:
        run.results.missing["etcd northbound, gRPC forwarder"] = f"{e} (extras etcd and nsm)"
        return []
    found: list[Contender] = []
    for contender in CONTENDERS:
        if kind not in contender.kinds:
            run.results.missing[f"{contender.name}, {kind}"] = contender.without
            continue
        try:
            found.append(stack.enter_context(contender(made, run.place())))
        except FileNotFoundError as e:
            run.results.missing[contender.name] = f"no {e.filename} here"
    return found


def layers(run: Run) -> None:
    """Where do the microseconds of a connection go?"""
    # each contender does one thing more than the one before
    for kind in KINDS:
        bare = Workload("spread", kind, run.form.pairs, addresses=0, prefix="n")
        full = replace(bare, addresses=1, prefix="v")
        down = [_down(c) for c in connections_of(bare)]
        made = connections_of(full)
        with contextlib.ExitStack() as stack:
            contenders: list[Contender] = [
                Floor(down, run.place(), kept=True, name="created"),
                Floor(connections_of(bare), run.place(), kept=True, name="and up"),
                Floor(made, run.place(), kept=True, name="and addresses"),
                Floor(made, run.place(), name="and visits"),
                Library(made, name="and library"),
                stack.enter_context(Engine(made, run.place(), durable=False)),
                stack.enter_context(Engine(made, run.place())),
            ]
            run.compare("layers", full, contenders, only=["create"])


def _down(c: Connection) -> Connection:
    ends = {"ab"[k]: End(e.netns, e.ifname, up=False) for k, e in enumerate(c.ends)}
    return replace(c, **ends)


def lone(run: Run) -> None:
    """How long does a single connection take when nothing else is to be done?"""
    for workload in each(run, ["spread"]):
        workload = replace(workload, count=run.form.lone)
        made = connections_of(workload)
        with contextlib.ExitStack() as stack:
            alone = [
                stack.enter_context(Engine(made, run.place(), durable=durable, clients=1, in_flight=1))
                for durable in (True, False)
            ]
            contenders = [Floor(made, run.place(), batch=1), Library(made, batch=1), *alone]
            short = replace(run, form=replace(run.form, rounds=min(run.form.rounds, 3)))
            short.compare("lone", workload, contenders, latencies=True)


def clients(run: Run) -> None:
    """How does the engine fare with few and many clients?"""
    for workload, count in abridged(run, run.form.clients):
        made = connections_of(workload)
        with (
            Engine(made, run.place(), clients=count) as one,
            Engine(made, run.place(), clients=count, durable=False) as two,
        ):
            run.compare("clients", workload, [one, two], clients=count)


def arrivals(run: Run) -> None:
    """How long does a request take while others come and go at random, at a rate that does not wait?"""
    few, many = run.form.clients[0], run.form.clients[-1]
    cases = [(r, *how) for r in run.form.rates for how in ((many, False), (few, True), (many, True))]
    for workload, (rate, count, durable) in abridged(run, cases):
        made = connections_of(replace(workload, count=max(64, min(run.form.pairs, rate))))
        who = "engine" if durable else "engine, not durable"
        run.tell(f"arrivals ({workload.kind}, {workload.shape}, {rate}/s, {count} clients): {who}")
        folder = run.place()
        folder.mkdir()
        with EngineProcess(folder, *([] if durable else ["--no-durable"]), instance="churn") as engine:
            found = churn(engine, made, rate=rate, seconds=run.form.seconds, clients=count)
        for step, seconds in (("create", found.create), ("delete", found.delete)):
            values = distribution([1e3 * x for x in seconds])
            setting: Setting = {"kind": workload.kind, "shape": workload.shape, "rate": rate, "clients": count}
            middle = [value for percent, value in values if percent == 50]
            series = Series("arrivals", setting, who, "born", step, "ms", len(seconds), middle, [], values)
            run.results.series.append(series)


# -- what others do ----------------------------------------------------------------------------------


def peers(run: Run) -> None:
    """What do the programs cost that people use instead?"""
    for workload in each(run, run.form.compared):
        made = connections_of(workload)
        with contextlib.ExitStack() as stack:
            contenders: list[Contender] = [Floor(made, run.place()), Floor(made, run.place(), kept=True)]
            for peer, form in itertools.product(run.peers, FORMS_OF_PEERS):
                contenders.append(stack.enter_context(_process(run, workload, peer, form, _count(run, peer, form))))
            run.compare("peers", workload, contenders)


def peers_changes(run: Run) -> None:
    """What does a change of a connection that is up cost these programs?"""
    make_rooms()
    steps: list[Step] = ["create", "update", "move", "delete"]
    for workload in each(run, run.form.shapes[:1]):
        workload = replace(workload, count=min(BATCH, run.form.pairs))
        made = connections_of(workload)
        with contextlib.ExitStack() as stack:
            contenders: list[Contender] = [Floor(made, run.place(), steps)]
            contenders += [
                stack.enter_context(_process(run, workload, peer, "born", _count(run, peer, "born")))
                for peer in run.peers
                if peer.changes
            ]
            run.compare("peers-changes", workload, contenders, steps, only=["update", "move"])


def _process(run: Run, workload: Workload, peer: Peer, form: str, count: int) -> Process:
    workload = replace(workload, count=min(workload.count, count))
    return Process(peer.name, form, workload, run.place(), peer.command)


def _count(run: Run, peer: Peer, form: str) -> int:
    """As many as take it a second or so."""
    if form == "moved":
        return run.form.slow
    if peer.name in ("library", "vishvananda/netlink"):
        return run.form.pairs
    return run.form.slow * (8 if peer.name == "ip -batch" else 4)


# what figures to reach hang on comes first: what was measured is kept, should somebody lose patience
EXPERIMENTS: dict[str, Callable[[Run], None]] = {
    "bytes": byte_level,
    "levels": levels,
    "peers": peers,
    "deletes": deletes,
    "lone": lone,
    "growth": growth,
    "layers": layers,
    "batches": batches,
    "sizes": sizes,
    "clients": clients,
    "arrivals": arrivals,
    "changes": changes,
    "peers-changes": peers_changes,
}

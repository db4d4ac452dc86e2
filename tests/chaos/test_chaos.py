"""kill -9 at any moment, under the load of several clients, while namespaces come and go.

    FASTNL_CHAOS_ROUNDS   how many times the engine is killed; `make chaos ROUNDS=200` sets it
    FASTNL_CHAOS_SEED     of an earlier run, which prints it, to draw the same jobs and moments again

Each client knows exactly what it may know: for each of its connections what was acknowledged last, and what is in
flight.  After each round the engine's list, its store and the kernel, read with `ip`, have to agree with that.
"""

from __future__ import annotations

import contextlib
import copy
import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fastnl.netns import create, remove
from fastnl.testing import eventually, ip_json
from fastnl_engine.testing import EngineProcess, RawSocket, end, pair, tunnel

ROUNDS = int(os.environ.get("FASTNL_CHAOS_ROUNDS", "12"))
SEED = os.environ.get("FASTNL_CHAOS_SEED") or str(random.randrange(1 << 32))

CLIENTS = 4
IDS = 24  # of each client
WINDOW = 5  # requests that a client has in flight
STABLE = [f"s{n}" for n in range(8)]
FLEETING = [f"f{n}" for n in range(5)]

Spec = dict[str, Any]


# -- what a client knows ---------------------------------------------------------------------------


@dataclass(eq=False)
class Op:
    """One item of a request.  `done` is None as long as it is in flight; a refused one changes nothing."""

    kind: str
    spec: Spec | None = None
    end: str = ""
    netns: str = ""
    done: bool | None = None

    def after(self, spec: Spec | None) -> Spec | None:
        """What the connection is to be when this was done."""
        if self.kind != "move":
            return self.spec
        if spec is None:
            return None
        moved = copy.deepcopy(spec)
        moved[self.end]["netns"] = self.netns
        return moved


@dataclass
class Line:
    """One connection: what is certain, and the operations since, in their order."""

    id: str
    number: int
    certain: Spec | None = None
    ops: list[Op] = field(default_factory=list)
    indexes: dict[str, int] | None = None  # of its interfaces as told last; None: nothing is certain

    def possible(self, before: Op | None = None) -> list[Spec | None]:
        """What it may be in the end, or may have been before one of the operations."""
        states = [self.certain]
        for op in self.ops:
            if op is before:
                break
            after = [op.after(s) for s in states]
            if op.done is None:
                states += [s for s in after if s not in states]
            elif op.done:
                states = after
        return states

    def answered(self, op: Op, result: dict[str, Any]) -> None:
        latest = op is self.ops[-1]
        op.done = result["ok"]
        up = result["ok"] and result.get("state") == "up"
        self.indexes = {e: result[e]["ifindex"] for e in "ab" if e in result} if latest and up else None
        while self.ops and self.ops[0].done is not None:
            first = self.ops.pop(0)
            if first.done:
                self.certain = first.after(self.certain)

    def found(self, row: dict[str, Any] | None) -> None:
        """What the engine said when nothing was in flight."""
        self.certain, self.ops = plain(row), []
        self.indexes = indexes(row)


def plain(row: dict[str, Any] | None) -> Spec | None:
    """A record of `list` as it was submitted."""
    if row is None:
        return None
    spec = {k: v for k, v in row.items() if k not in ("ok", "state", "since", "reason", "error")}
    for e in "ab":
        if e in spec:
            spec[e] = {k: v for k, v in spec[e].items() if k != "ifindex"}
    return spec


def indexes(row: dict[str, Any] | None) -> dict[str, int] | None:
    return {e: row[e]["ifindex"] for e in "ab" if e in row} if row is not None and row["state"] == "up" else None


def places(spec: Spec | None) -> set[str]:
    return {spec[e]["netns"] for e in "ab" if e in spec} if spec is not None else set()


# -- the load --------------------------------------------------------------------------------------


class Customer(threading.Thread):
    """A client with several requests in flight, until `cut` (the engine is dead) or `finish` (it is not)."""

    def __init__(self, endpoint: str, lines: list[Line], draw: random.Random) -> None:
        super().__init__(name="customer")
        self._endpoint = endpoint
        self._lines = lines
        self._draw = draw
        self._halt = threading.Event()
        self._cut = False
        self._asked: dict[int, list[tuple[Line, Op]]] = {}
        self.problem: BaseException | None = None
        self.answers: Counter[str] = Counter()
        self.start()

    def cut(self) -> None:
        self._cut = True
        self._halt.set()

    def finish(self) -> None:
        self._halt.set()

    def run(self) -> None:
        raw = RawSocket(self._endpoint)
        try:
            while not self._halt.is_set():
                while len(self._asked) < WINDOW and self._ask(raw):
                    pass
                if raw.socket.poll(20):
                    self._take(raw)
            # what a killed engine had sent still arrives; what it had not never will, as the socket is closed
            while self._asked and (not self._cut or raw.socket.poll(50)):
                self._take(raw)
        except BaseException as e:
            self.problem = e
        finally:
            raw.close()

    def _ask(self, raw: RawSocket) -> bool:
        """Sends a few requests; false when it drew none that may wait behind others."""
        draw = self._draw
        waiting = Counter(line.id for items in self._asked.values() for line, _ in items)
        chosen = [
            line for line in draw.sample(self._lines, min(draw.randint(1, 6), len(self._lines))) if waiting[line.id] < 3
        ]
        ops = [(line, self._draw_op(line)) for line in chosen]
        for kind in {op.kind for _, op in ops}:
            mine = [(line, op) for line, op in ops if op.kind == kind]
            if kind == "connect":
                fields: dict[str, Any] = {"connections": [op.spec for _, op in mine], "wait": draw.random() < 0.5}
            elif kind == "disconnect":
                fields = {"ids": [line.id for line, _ in mine]}
            else:
                mode = draw.choice(["move", "recreate"])
                fields = {"moves": [{"id": line.id, "end": o.end, "netns": o.netns, "mode": mode} for line, o in mine]}
            number = draw.randrange(1 << 60)
            self._asked[number] = mine
            for line, op in mine:
                line.ops.append(op)
            raw.ask(id=number, op=kind, **fields)
        return bool(chosen)

    def _draw_op(self, line: Line) -> Op:
        draw = self._draw
        last = line.possible()[-1]
        choice = draw.random()
        if last is None or choice < 0.3:
            return Op("connect", draw_spec(line, draw))
        if choice < 0.4:
            return Op("connect", last)  # which changes nothing
        if choice < 0.7:
            return Op("disconnect")
        return Op("move", end=draw.choice([e for e in "ab" if e in last]), netns=draw_netns(draw))

    def _take(self, raw: RawSocket) -> None:
        reply = raw.reply()
        items = self._asked.pop(reply["id"])
        if "error" in reply:
            assert reply["error"]["code"] == "busy", reply
            reply["results"] = [{"ok": False, "error": reply["error"]} for _ in items]
        for (line, op), result in zip(items, reply["results"], strict=True):
            if not result["ok"]:
                assert refusable(op, line.possible(before=op), result["error"]["code"]), (result, line)
            line.answered(op, result)
            self.answers[op.kind if result["ok"] else result["error"]["code"]] += 1


def refusable(op: Op, before: list[Spec | None], code: str) -> bool:
    """Whether an operation may be refused so; in namespaces that stay, every one has to succeed."""
    if code == "unknown_id":
        return op.kind == "move" and None in before
    involved = set().union(*(places(s) | places(op.after(s)) for s in before))
    # a tunnel has its VNI until the kernel has cleaned its namespace up, which takes a moment after the name is gone
    gone = ("netns_not_found", "netns_gone", "vni_in_use")
    return code == "busy" or (code in gone and bool(involved & set(FLEETING)))


def draw_netns(draw: random.Random) -> str:
    return draw.choice(STABLE) if draw.random() < 0.85 else draw.choice(FLEETING)


def draw_spec(line: Line, draw: random.Random) -> Spec:
    n = line.number
    net = f"10.{n}.{draw.randrange(3)}"
    kind = draw.randrange(3)
    addresses = [[f"{net}.{host}/30", f"fd00:{n + 1:x}::{host}/64"][:kind] for host in (1, 2)]
    more = {"mtu": 1400} if draw.random() < 0.3 else {}
    a = end(draw_netns(draw), f"{n}a", *addresses[0])
    if n % 6 == 5:
        return tunnel(line.id, a, vni=100 + n, remote="192.0.2.1", **more)
    return pair(line.id, a, end(draw_netns(draw), f"{n}b", *addresses[1]), **more)


class Weather(threading.Thread):
    """Makes the fleeting namespaces and lets them go, in random order, while `blowing` is set.

    Each has a pair of its own to the test's namespace, which shows when it really ends.
    """

    def __init__(self, seed: str) -> None:
        super().__init__(name="weather")
        self._draw = random.Random(seed)
        self._serial = 0
        self.witnesses: dict[str, str] = {}  # of the namespaces that are there
        self.blowing = threading.Event()
        self.calm = threading.Event()
        self._over = False
        self.problem: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            while not self._over:
                if not self.blowing.is_set():
                    self.calm.set()
                    self.blowing.wait()
                    continue
                self._flip(self._draw.choice(FLEETING))
                time.sleep(self._draw.uniform(0, 0.06))
            for name in list(self.witnesses):
                self._flip(name)
        except BaseException as e:
            self.problem = e
            self.calm.set()

    def _flip(self, name: str) -> None:
        if name in self.witnesses:
            remove(name)
            del self.witnesses[name]
            return
        create(name)
        self._serial += 1
        witness = f"w{self._serial}"
        subprocess.run(
            ["ip", "link", "add", witness, "type", "veth", "peer", "name", witness, "netns", name],
            check=True, capture_output=True,
        )  # fmt: skip
        self.witnesses[name] = witness

    def rest(self) -> None:
        """Nothing changes from here on until `blowing` is set again."""
        self.calm.clear()
        self.blowing.clear()
        assert self.calm.wait(60) and self.problem is None, self.problem

    def close(self) -> None:
        self._over = True
        self.blowing.set()
        self.join()
        assert self.problem is None, self.problem


# -- the rounds ------------------------------------------------------------------------------------


class Chaos:
    def __init__(self, engine: EngineProcess, weather: Weather) -> None:
        self.engine = engine
        self.weather = weather
        self.lines = [[Line(f"c{c}-{k}", c * IDS + k) for k in range(IDS)] for c in range(CLIENTS)]
        self.untouched = self.unknown = self.early = self.resumed = 0
        self.answers: Counter[str] = Counter()
        begun = time.monotonic()
        engine.start()
        self.start_seconds = time.monotonic() - begun
        # threads that look around come and go, several times a second
        samples = [footprint(engine.pid) for _ in range(50) if time.sleep(0.01) is None]
        self.at_rest = {what: min(sample[what] for sample in samples) for what in samples[0]}

    def round(self, number: int) -> None:
        draw = random.Random(f"{SEED}/{number}")
        self.weather.blowing.set()
        with self.load(draw, "cut"):
            time.sleep(draw.uniform(0, 0.5))
            self.kill()
        while draw.random() < 0.4:
            # not serving yet, or just taking up what the last one left
            with self.load(draw, "cut") if draw.random() < 0.7 else contextlib.nullcontext():
                self.engine.launch()
                time.sleep(draw.uniform(0, 1.3) * self.start_seconds)
                self.early += 1
                self.kill()
        self.unknown += sum(1 for line in self.all if line.ops)
        known = {
            line.id: line.indexes
            for line in self.all
            if line.indexes and not line.ops and not places(line.certain) & {*FLEETING}
        }
        if draw.random() < 0.5:
            self.engine.start()
            self.weather.rest()
            self.check(known)
            self.weather.blowing.set()
        # nobody asks for anything of some, so they must still be what they were when it was killed
        resting = {line.id for line in self.all if draw.random() < 0.4}
        with self.load(draw, "finish", resting):
            if not self.engine.running:
                self.engine.start()
            time.sleep(draw.uniform(0, 0.3))
        self.weather.rest()
        self.check({id_: known[id_] for id_ in known.keys() & resting})

    @property
    def all(self) -> list[Line]:
        return [line for lines in self.lines for line in lines]

    @contextlib.contextmanager
    def load(self, draw: random.Random, how: str, resting: Collection[str] = ()) -> Iterator[None]:
        """Clients at work, which are cut off or may finish in the end."""
        customers = [
            Customer(
                self.engine.endpoint,
                [line for line in lines if line.id not in resting],
                random.Random(draw.randrange(1 << 60)),
            )
            for lines in self.lines
        ]
        try:
            yield
        finally:
            for customer in customers:
                getattr(customer, how)()
            for customer in customers:
                customer.join()
                self.answers += customer.answers
        for customer in customers:
            if customer.problem is not None:
                raise customer.problem

    def kill(self) -> None:
        assert self.engine.running, f"it ended by itself:\n{self.engine.log[-4000:]}"
        self.engine.kill()
        self.resumed = self.engine.log.count("resumed")

    def check(self, known: dict[str, dict[str, int]]) -> None:
        """Everything is as somebody knows it to be, or might be; `known` are the indexes of what is untouched."""
        rows = self.settled()
        for line in self.all:
            row = rows.pop(line.id, None)
            assert plain(row) in line.possible(), (
                f"{line.id} is {row}, not one of {line.possible()}\n{self.said(line.id)}"
            )
            want = known.get(line.id)
            self.untouched += want is not None
            assert want is None or indexes(row) == want, (
                f"{line.id} was touched: {want} became {row}\n{self.said(line.id)}"
            )
            line.found(row)
        assert not rows, f"never asked for: {rows}"
        self.check_kernel()
        self.check_store()
        log = self.engine.log
        assert "Traceback" not in log, log[-4000:]
        now = footprint(self.engine.pid)
        few = eventually(lambda: footprint(self.engine.pid)["threads"] <= self.at_rest["threads"])
        assert few, (now, self.at_rest)
        assert now["rss"] < self.at_rest["rss"] + (32 << 20), (now, self.at_rest)
        # sockets of clients that have just hung up are closed in a moment
        assert eventually(lambda: footprint(self.engine.pid)["fds"] <= self.at_rest["fds"] + 2), (now, self.at_rest)

    def said(self, id_: str) -> str:
        """The last words of the engine about a connection."""
        return "\n".join([line for line in self.engine.log.splitlines() if id_ in line or "resumed" in line][-12:])

    def settled(self) -> dict[str, dict[str, Any]]:
        """The records once each is up, or waits for what is not there."""
        client = self.engine.client()
        there = {*STABLE, *self.weather.witnesses}
        rows: list[dict[str, Any]] = []

        def calm() -> bool:
            # it serves while it still takes up what the last one left
            resumed = self.engine.log.count("resumed") > self.resumed
            rows[:] = client.list()
            return resumed and client.info()["load"] == 0 and not unsettled()

        def unsettled() -> list[dict[str, Any]]:
            return [r for r in rows if r["state"] != ("up" if places(r) <= there else "pending")]

        settled = eventually(calm)
        assert settled, f"namespaces: {sorted(there)}; load {client.info()['load']}: {unsettled()}"
        assert all(r["reason"] for r in rows if r["state"] == "pending"), rows
        self.engine.hang_up()
        self.rows = {r["id"]: r for r in rows}
        return dict(self.rows)

    def check_kernel(self) -> None:
        """Every interface there is belongs to a record that is up, and the other way round."""
        want = {}
        for row in self.rows.values():
            for e, other in ("ab", "ba"):
                if row["state"] == "up" and e in row:
                    mine = row[e]
                    want[mine["netns"], mine["ifname"]] = {
                        "ifindex": mine["ifindex"],
                        "alias": f"fastnl/{self.engine.instance}/{row['id']}/{e}",
                        "up": True,
                        "peer": row[other]["ifindex"] if other in row else None,
                        "mtu": row.get("mtu", 1450 if row["kind"] == "vxlan" else 1500),
                        "addresses": sorted(mine.get("addresses", ())),
                    }
        have = {}
        for name in (*STABLE, *self.weather.witnesses):
            links = {link["ifname"]: link for link in ip_json(name, "addr", "show")}
            for link in links.values():
                # `ip` gives the name of a peer in the same namespace, the index of one elsewhere
                peer = links[link["link"]]["ifindex"] if "link" in link else link.get("link_index")
                if link["ifname"] not in ("lo", "foreign", self.weather.witnesses.get(name)):
                    have[name, link["ifname"]] = {
                        "ifindex": link["ifindex"],
                        "alias": link.get("ifalias", ""),
                        "up": "UP" in link["flags"],
                        "peer": peer if link["linkinfo"]["info_kind"] == "veth" else None,
                        "mtu": link["mtu"],
                        "addresses": sorted(
                            f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["scope"] != "link"
                        ),
                    }
        wrong = {k: (want.get(k), have.get(k)) for k in want.keys() | have.keys() if want.get(k) != have.get(k)}
        assert not wrong, f"(want, have): {wrong}\n{self.engine.log[-4000:]}"
        for name in STABLE[:2]:
            assert ip_json(name, "link", "show", "foreign")
        # a namespace whose name is gone is gone, whatever the engine had in it
        here = {"lo", *self.weather.witnesses.values()}
        assert eventually(lambda: {r["ifname"] for r in ip_json("", "link", "show")} == here), "a namespace is held"

    def check_store(self) -> None:
        with contextlib.closing(sqlite3.connect(f"file:{self.engine.state}/state.db?mode=ro", uri=True)) as db:
            assert db.execute("SELECT count(*) FROM intent").fetchone() == (0,)
            stored = dict(db.execute("SELECT id, state FROM connection"))
        assert stored == {id_: row["state"] for id_, row in self.rows.items()}


def footprint(pid: int) -> dict[str, int]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "fds": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(status["Threads"]),
        "rss": int(status["VmRSS"].split()[0]) << 10,
    }


@pytest.fixture
def engine(nothing_left: None) -> Iterator[EngineProcess]:
    # not tmp_path: the path of a Unix socket may have 107 bytes only
    folder = Path(tempfile.mkdtemp(prefix="fastnl-"))
    engine = EngineProcess(folder)
    yield engine
    engine.close()
    shutil.rmtree(folder)


@pytest.fixture
def weather(nothing_left: None) -> Iterator[Weather]:
    weather = Weather(SEED)
    yield weather
    weather.close()


@pytest.mark.timeout(120 + 20 * ROUNDS)
def test_nothing_acknowledged_is_lost_and_nothing_leaks_however_often_it_is_killed(engine, netns, foreign, weather):
    print(f"FASTNL_CHAOS_SEED={SEED}")
    netns.many(len(STABLE), "s")
    for name in STABLE[:2]:
        foreign(name, "foreign")
    begun = time.monotonic()
    chaos = Chaos(engine, weather)
    for number in range(ROUNDS):
        try:
            chaos.round(number)
        except BaseException:
            print(f"round {number} of seed {SEED}")
            raise
        if number % 10 == 9 or number == ROUNDS - 1:
            print(
                f"{number + 1} rounds in {time.monotonic() - begun:.0f} s, {chaos.early} more kills at a start; "
                f"{chaos.untouched} connections untouched, {chaos.unknown} in flight at a kill; "
                f"answers: {dict(chaos.answers)}; {footprint(chaos.engine.pid)}"
            )
    client = chaos.engine.client()
    client.disconnect([row["id"] for row in client.list()])
    assert client.info()["connections"] == {}

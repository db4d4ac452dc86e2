"""kill -9 of engines and of etcd at any moment, under the load of several clients that ask any of the engines.

    FASTNL_CHAOS_ROUNDS   how many times something is killed; `make fleet-chaos ROUNDS=100` sets it
    FASTNL_CHAOS_SEED     of an earlier run, which prints it, to draw the same jobs again

Each client knows for each of its connections what it may be: what was acknowledged last and, where an answer never
came, either.  After each round, with everything running again, every engine's list, etcd and the kernels of all hosts
have to agree with that, and with each other.
"""

from __future__ import annotations

import copy
import json
import os
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from fastnl.testing import eventually
from fastnl_engine.fleet.testing import Fleet, at
from fastnl_engine.testing import RawSocket, pair

ROUNDS = int(os.environ.get("FASTNL_CHAOS_ROUNDS", "4"))
SEED = os.environ.get("FASTNL_CHAOS_SEED") or str(random.randrange(1 << 32))

HOSTS = ("one", "two", "three")
NAMESPACES = ("blue", "red", "green")
CLIENTS = 3
IDS = 8  # of each client
PATIENCE = 90
# what an engine may answer when something was killed; whether it was done is not known then
UNKNOWN = {"unavailable", "host_away", "no_fleet", "shutting_down", "busy"}

Spec = dict[str, Any]


@dataclass
class Line:
    """One connection, and all that it may be."""

    id: str
    number: int
    possible: list[Spec | None] = field(default_factory=lambda: [None])

    def answered(self, after: list[Spec | None], result: dict[str, Any] | None) -> None:
        """`after`: what the operation makes of each that is possible; None: there was no answer."""
        if result is not None and result["ok"]:
            self.possible = after
        elif result is None or result["error"]["code"] in UNKNOWN or result["error"].get("field", "").endswith("host"):
            self.possible = self.possible + after
        self.possible = [s for n, s in enumerate(self.possible) if s not in self.possible[:n]]


class Customer(threading.Thread):
    """A client that asks one thing after the other, each of any engine, until `halt` is set.

    An answer that does not come because its engine was killed is given up.
    """

    def __init__(self, fleet: Fleet, lines: list[Line], halt: threading.Event, draw: random.Random) -> None:
        super().__init__(name="customer")
        self._fleet, self._lines, self._halt, self._draw = fleet, lines, halt, draw
        self.problem: BaseException | None = None
        self.answers: Counter[str] = Counter()
        self.start()

    def run(self) -> None:
        try:
            while not self._halt.is_set():
                self._ask(self._draw.choice(list(self._fleet.machines.values())))
        except BaseException as e:
            self.problem = e

    def _ask(self, machine: Any) -> None:
        draw = self._draw
        process = machine.engine.process
        lines = draw.sample(self._lines, draw.randint(1, 4))
        kind = draw.choice(["connect", "connect", "connect", "disconnect", "move"])
        if kind == "connect":
            specs = [draw_spec(line, draw) for line in lines]
            after: list[list[Spec | None]] = [[spec] for spec in specs]
            fields: dict[str, Any] = {"connections": specs, "wait": draw.random() < 0.3}
        elif kind == "disconnect":
            after = [[None] for _ in lines]
            fields = {"ids": [line.id for line in lines]}
        else:
            moves = [{"id": line.id, "end": draw.choice("ab"), "netns": draw.choice(NAMESPACES)} for line in lines]
            after = [
                [moved(s, move) for s in line.possible if s is not None]
                for line, move in zip(lines, moves, strict=True)
            ]
            fields = {"moves": moves}
        raw = RawSocket(machine.engine.endpoint)
        try:
            raw.ask(id=0, op=kind, **fields)
            deadline = time.monotonic() + PATIENCE
            # what a killed engine had sent still arrives
            while not raw.socket.poll(50) and (process.poll() is None or raw.socket.poll(50)):
                assert time.monotonic() < deadline, f"{machine.name} does not answer {kind} {fields}"
                if process is not machine.engine.process:
                    break
            reply = raw.reply() if raw.socket.poll(0) else None
        finally:
            raw.close()
        if reply is None or "results" not in reply:
            assert reply is None or reply["error"]["code"] in UNKNOWN, reply
            results: list[dict[str, Any] | None] = [None] * len(lines)
        else:
            results = reply["results"]
        for line, then, result in zip(lines, after, results, strict=True):
            code = "no answer" if result is None else kind if result["ok"] else result["error"]["code"]
            self.answers[code] += 1
            if result is not None and not result["ok"]:
                assert refusable(kind, line, result["error"]), (kind, fields, result, line)
                if code == "unknown_id":
                    line.possible = [None]
                    continue
            line.answered(then, result)


def refusable(kind: str, line: Line, error: dict[str, Any]) -> bool:
    """Nothing here is wrong, nor does anybody else want it: only what is dead excuses a refusal."""
    if error["code"] == "unknown_id":
        return kind == "move" and None in line.possible
    return error["code"] in UNKNOWN or error.get("field", "").endswith("host")


def moved(spec: Spec, move: dict[str, str]) -> Spec:
    spec = copy.deepcopy(spec)
    spec[move["end"]]["netns"] = move["netns"]
    return spec


def draw_spec(line: Line, draw: random.Random) -> Spec:
    n = line.number
    net = f"10.{n}.{draw.randrange(3)}"
    more = {"mtu": 1400} if draw.random() < 0.3 else {}
    a = at(draw.choice(HOSTS), draw.choice(NAMESPACES), f"{n}a", f"{net}.1/30")
    b = at(draw.choice(HOSTS), draw.choice(NAMESPACES), f"{n}b", f"{net}.2/30")
    return pair(line.id, a, b, **more)


def plain(row: dict[str, Any]) -> Spec:
    """A record of `list` as it was submitted."""
    spec = {k: copy.deepcopy(row[k]) for k in ("id", "kind", "a", "b", "mtu", "labels") if k in row}
    for e in "ab":
        spec[e].pop("ifindex", None)
    return spec


class Chaos:
    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.lines = [[Line(f"c{c}-{k}", c * IDS + k) for k in range(IDS)] for c in range(CLIENTS)]
        self.answers: Counter[str] = Counter()
        self.killed: Counter[str] = Counter()
        self.pinged = 0

    def round(self, number: int) -> None:
        draw = random.Random(f"{SEED}/{number}")
        halt = threading.Event()
        customers = [Customer(self.fleet, lines, halt, random.Random(draw.randrange(1 << 60))) for lines in self.lines]
        try:
            for _ in range(draw.randint(1, 3)):
                time.sleep(draw.uniform(0.1, 1.5))
                self.hurt(draw)
            time.sleep(draw.uniform(0, 1))
            self.repair()
            time.sleep(draw.uniform(0, 0.5))
        finally:
            halt.set()
            self.repair()
            for customer in customers:
                customer.join()
                self.answers += customer.answers
        for customer in customers:
            if customer.problem is not None:
                raise customer.problem
        self.check()

    def hurt(self, draw: random.Random) -> None:
        """Kills something, and starts it again at once, later, or leaves that to `repair`."""
        victims = draw.sample([*HOSTS, "etcd"], draw.choice([1, 1, 1, 2, 4]))
        for victim in victims:
            self.killed[victim] += 1
            if victim == "etcd":
                self.fleet.etcd.kill()
            elif self.fleet[victim].engine.running:
                self.fleet[victim].engine.kill()
        if draw.random() < 0.6:
            time.sleep(draw.choice([0, draw.uniform(0, 1), draw.uniform(0, 4)]))
            self.repair()

    def repair(self) -> None:
        for member in self.fleet.etcd.members:
            if not member.running:
                self.fleet.etcd.start()
        for machine in self.fleet.machines.values():
            if not machine.engine.running:
                machine.engine.launch()

    def check(self) -> None:
        rows = self.settled()
        for line in (line for lines in self.lines for line in lines):
            row = rows.pop(line.id, None)
            is_ = None if row is None else plain(row)
            assert is_ in line.possible, f"{line.id} is {is_}, not one of {line.possible}\n{self.said(line.id)}"
            line.possible = [is_]
        assert not rows, f"never asked for: {rows}"
        self.check_etcd()
        self.check_kernels()
        for machine in self.fleet.machines.values():
            assert "Traceback" not in machine.engine.log, machine.engine.log[-4000:]
        for row in self.rows.values():
            for mine, other in ("ab", "ba"):
                target = row[other]["addresses"][0].partition("/")[0]
                ends = row[mine], row[other]
                if (ends[0]["host"], ends[0]["netns"]) == (ends[1]["host"], ends[1]["netns"]):
                    continue  # a ping would not leave the namespace
                machine = self.fleet[ends[0]["host"]]
                assert machine.ping(ends[0]["netns"], target), f"{row}\n{self.seen_by(row)}\n{self.said(row['id'])}"
                self.pinged += 1

    def seen_by(self, row: dict[str, Any]) -> str:
        """What the kernels have of a connection that does not carry anything."""
        out = []
        for end in (row["a"], row["b"]):
            machine, netns, ifname = self.fleet[end["host"]], end["netns"], end["ifname"]
            commands = ("ip -s -d addr show dev", "ip neigh show dev", "bridge fdb show dev")
            out += [f"{machine.name} {netns}: {machine.run(*c.split(), ifname, netns=netns)}" for c in commands]
            out.append(f"{machine.name}: {machine.run('ip', 'neigh')} {machine.run('ip', 'route', netns=netns)}")
        answered = self.fleet[row["a"]["host"]].ping(row["a"]["netns"], row["b"]["addresses"][0].partition("/")[0])
        return "\n".join([*out, f"now it answers: {answered}"])

    def said(self, id_: str) -> str:
        """The last words of the engines about a connection, and what etcd has of it."""
        lines = [
            f"{machine.name}: {line}"
            for machine in self.fleet.machines.values()
            for line in [x for x in machine.engine.log.splitlines() if id_ in x or "serving" in x][-8:]
        ]
        return "\n".join([*lines, str({k: v for k, v in self.fleet.stored().items() if id_ in k})])

    def settled(self) -> dict[str, dict[str, Any]]:
        """The records, once all engines show the same, and everything as up."""
        self.fleet.wait_alive(*HOSTS)
        seen: dict[str, dict[str, Any]] = {}

        def calm() -> bool:
            for name, machine in self.fleet.machines.items():
                seen[name] = machine.connections()
            first, *others = [{id_: (plain(r), r["state"]) for id_, r in rows.items()} for rows in seen.values()]
            return all(o == first for o in others) and all(state == "up" for _, state in first.values())

        if not eventually(calm, PATIENCE):
            states = {
                n: {i: (r["state"], r.get("reason"), r.get("error")) for i, r in s.items()} for n, s in seen.items()
            }
            odd = {
                i
                for s in states.values()
                for i, x in s.items()
                if any(o.get(i) != x for o in states.values()) or x[0] != "up"
            }
            pytest.fail("\n".join(f"{i}: { {n: s.get(i) for n, s in states.items()} }\n{self.said(i)}" for i in odd))
        for machine in self.fleet.machines.values():
            machine.engine.hang_up()
        self.rows = seen["one"]
        return dict(self.rows)

    def check_etcd(self) -> None:
        """Exactly the keys of what is there, and no number twice."""

        def stored() -> dict[str, str]:
            return {k: v for k, v in self.fleet.stored().items() if k in self.fleet.of_connections()}

        def wrong() -> Any:
            have = stored()
            ids = set(self.rows)
            far = {id_ for id_, row in self.rows.items() if row["a"]["host"] != row["b"]["host"]}
            hosts = {id_: {row[e]["host"] for e in "ab"} for id_, row in self.rows.items()}
            want = {
                *(f"connection/{id_}" for id_ in ids),
                *(f"half/{host}/{id_}" for id_ in ids for host in hosts[id_]),
                *(f"outcome/{host}/{id_}" for id_ in ids for host in hosts[id_]),
            }
            named = {k for k in have if not k.startswith("vni/")}
            # one that had a tunnel once keeps its number
            owners = {v for k, v in have.items() if k.startswith("vni/")}
            return (named ^ want) or far - owners or owners - ids

        assert eventually(lambda: not wrong(), PATIENCE), wrong()

    def check_kernels(self) -> None:
        """Every interface on every host belongs to a connection, and the other way round."""
        numbers = {int(k.rpartition("/")[2]): id_ for k, id_ in self.fleet.stored("vni/").items()}
        for id_, row in self.rows.items():
            assert "vni" not in row or numbers.get(row["vni"]) == id_, (row, numbers)
        want = {}
        for row in self.rows.values():
            remote = row["a"]["host"] != row["b"]["host"]
            for mine, other in ("ab", "ba"):
                end = row[mine]
                want[end["host"], end["netns"], end["ifname"]] = {
                    "kind": "vxlan" if remote else "veth",
                    "up": True,
                    "mtu": row.get("mtu", 1450 if remote else 1500),
                    "addresses": sorted(end["addresses"]),
                    "number": row["vni"] if remote else None,
                    "remote": self.fleet[row[other]["host"]].addresses[4] if remote else None,
                }

        def have() -> dict[tuple[str, str, str], dict[str, Any]]:
            return {
                (machine.name, *where): {
                    "kind": link["linkinfo"]["info_kind"],
                    "up": "UP" in link["flags"],
                    "mtu": link["mtu"],
                    "addresses": sorted(
                        f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["scope"] != "link"
                    ),
                    "number": link["linkinfo"].get("info_data", {}).get("id"),
                    "remote": link["linkinfo"].get("info_data", {}).get("remote"),
                }
                for machine in self.fleet.machines.values()
                for where, link in machine.everything().items()
            }

        def wrong() -> dict[Any, Any]:
            now = have()
            return {k: (want.get(k), now.get(k)) for k in want.keys() | now.keys() if want.get(k) != now.get(k)}

        assert eventually(lambda: not wrong(), 30), (
            f"(want, have): {json.dumps({str(k): v for k, v in wrong().items()})}"
        )


@pytest.mark.timeout(300 + 60 * ROUNDS)
def test_nothing_acknowledged_is_lost_and_nothing_leaks_however_often_engines_and_etcd_are_killed(make_fleet):
    print(f"FASTNL_CHAOS_SEED={SEED}")
    fleet = make_fleet(*HOSTS)
    begun = time.monotonic()
    chaos = Chaos(fleet)
    for number in range(ROUNDS):
        try:
            chaos.round(number)
        except BaseException:
            print(f"round {number} of seed {SEED}")
            raise
        print(
            f"{number + 1} rounds in {time.monotonic() - begun:.0f} s; killed {dict(chaos.killed)}; "
            f"{chaos.pinged} pings; answers: {dict(chaos.answers)}; {len(chaos.rows)} connections"
        )
    fleet["one"].client().disconnect(list(fleet["two"].connections()))
    for machine in fleet.machines.values():
        assert eventually(lambda m=machine: not m.everything(), 30), machine.everything()
    assert eventually(lambda: not fleet.of_connections(), 30), fleet.stored()

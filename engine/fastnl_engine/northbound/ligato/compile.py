"""From the configuration as it is to the connections that the engine should have and to a verdict on every value.

    compiler = Compiler("vpp1")
    compiler.put("/vnf-agent/vpp1/linux/config/v1/interface/veth1", b'{...}')
    compiler.changes()      # connections to submit and to give up since the last call
    compiler.statuses()     # verdicts that changed

Nothing here does I/O, and nothing is forgotten: a value that is wrong or waits for others stays until it is
deleted. What comes out depends on what is configured, not on the order in which it came. Work is put off until
somebody asks, so that what changes in one burst becomes one change; it then costs what the changed values touch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import Any

from fastnl_engine.northbound.ligato.claims import Claims, Rank
from fastnl_engine.northbound.ligato.dependents import Dependent, Dependents
from fastnl_engine.northbound.ligato.ends import attach, end_of
from fastnl_engine.northbound.ligato.entries import Entry, connection_id
from fastnl_engine.northbound.ligato.keys import parse_key, prefix
from fastnl_engine.northbound.ligato.ledger import Ledger
from fastnl_engine.northbound.ligato.model import AfPacket, Arp, Interface, Route
from fastnl_engine.northbound.ligato.status import Verdict, failed, pending

MAIN_TABLE = 254  # RT_TABLE_MAIN
IPV6_METRIC = 1024  # IP6_RT_PRIO_USER: what the kernel takes 0 for

Desired = dict[str, Any]
Slot = tuple[Hashable, ...]


class Compiler:
    """The configuration of one agent, known by its microservice label."""

    def __init__(self, label: str) -> None:
        """Raises ValueError for a label that none can have."""
        prefix(label)
        self.label = label
        self._entries: dict[str, Entry] = {}
        self._claims = Claims()
        self._interfaces: dict[str, Entry] = {}  # the one that counts of each name
        self._pointing: dict[str, set[str]] = defaultdict(set)  # veths, by the peer that they name
        self._members: dict[str, set[str]] = defaultdict(set)  # interfaces, by the VRF that they name
        self._attached: dict[str, dict[str, Entry]] = defaultdict(dict)  # routes and neighbours, by interface
        self._held: dict[str, dict[str, tuple[Slot, Rank]]] = {}  # by interface: what it and its routes claim
        self._where: dict[str, str] = {}  # the connection that an interface is in
        self._dependents = Dependents()

        self._dirty: set[str] = set()  # names of interfaces
        self._dirty_plain: set[str] = set()  # keys whose verdict is their own

        self._desired: dict[str, Desired] = {}
        self._ledger = Ledger()
        self._new_desired: dict[str, Desired | None] = {}

    # Configuration in

    def put(self, key: str | bytes, value: bytes, since: int = 0) -> bool:
        """Takes a value; False for a key that is no configuration of this agent's.

        `since` orders values by age, such as the revision that created the key: of two that exclude each other the
        older wins, and of two of one age the one whose name comes first.
        """
        parsed = parse_key(key, self.label)
        if parsed is None:
            return False
        entry = Entry(parsed, value, since)
        old = self._entries.get(parsed.text)
        if old is not None and old.same_as(entry):
            return True
        if old is not None:
            self._leave(old)
        self._entries[parsed.text] = entry
        self._join(entry)
        return True

    def delete(self, key: str | bytes) -> bool:
        """Takes a value away; False for one that is not there."""
        parsed = parse_key(key, self.label)
        old = self._entries.pop(parsed.text, None) if parsed else None
        if old is None:
            return False
        self._leave(old)
        self._ledger.forget(old.text)
        return True

    def resync(self, items: Iterable[tuple[str | bytes, bytes, int]]) -> None:
        """The whole configuration anew as (key, value, since): what is not among it is deleted."""
        gone = set(self._entries)
        for key, value, since in items:
            if self.put(key, value, since):
                parsed = parse_key(key, self.label)
                gone.discard(parsed.text if parsed else "")
        for text in gone:
            self.delete(text)

    def bar(self, key: str, verdict: Verdict | None) -> None:
        """Leaves a route or neighbour out, so that it keeps nothing else from being; None: takes it in again."""
        entry = self._entries.get(key)
        if entry is not None and isinstance(entry.value, Route | Arp) and entry.barred != verdict:
            entry.barred = verdict
            self._dirty.add(entry.value.interface)

    # Results out

    def changes(self) -> dict[str, Desired | None]:
        """Connections that changed since the last call, by id, as the engine takes them; None: not wanted any more.

        In the order in which they should be submitted: what goes gives its names free for what comes, and a VRF
        is there before its members.
        """
        self._work()
        out, self._new_desired = self._new_desired, {}
        return dict(sorted(out.items(), key=lambda item: item[1] is not None and 1 + (item[1]["kind"] != "vrf")))

    def statuses(self) -> dict[str, Verdict | None]:
        """Verdicts that changed since the last call, by key; None: the value was deleted."""
        self._work()
        return self._ledger.take_changes()

    def dependents(self) -> dict[str, Dependent | None]:
        """Dependents that changed since the last call, by name; None: not configured any more."""
        self._work()
        return self._dependents.take_changes()

    def desired(self) -> dict[str, Desired]:
        """All connections, by id."""
        self._work()
        return dict(self._desired)

    def verdicts(self) -> dict[str, Verdict]:
        """On all values, by key."""
        self._work()
        return self._ledger.all()

    # Indexes

    def _join(self, entry: Entry) -> None:
        value = entry.value
        if not entry.ours:
            return
        if entry.key.kind in ("interface", "afpacket"):
            self._claims.take((entry.key.kind, entry.name), entry.rank)
            self._elect(entry)
        elif isinstance(value, Route | Arp):
            self._attached[value.interface][entry.text] = entry
            self._dirty.add(value.interface)
        else:
            self._dirty_plain.add(entry.text)

    def _leave(self, entry: Entry) -> None:
        value = entry.value
        if not entry.ours:
            return
        if entry.key.kind in ("interface", "afpacket"):
            self._claims.drop((entry.key.kind, entry.name), entry.rank)
            self._elect(entry)
        elif isinstance(value, Route | Arp):
            _discard(self._attached, value.interface, entry.text)
            self._dirty.add(value.interface)
        else:
            self._dirty_plain.discard(entry.text)

    def _elect(self, entry: Entry) -> None:
        """Which entry counts for a name, after one came or went."""
        holder = self._claims.holder((entry.key.kind, entry.name))
        new = self._entries[holder] if holder is not None else None
        if entry.key.kind == "afpacket":
            self._dependents.configure(entry.name, new.value if new and isinstance(new.value, AfPacket) else None)
            return
        old = self._interfaces.get(entry.name)
        _replace(self._interfaces, entry.name, new)
        self._dirty.add(entry.name)
        for attached in self._attached.get(entry.name, {}).values():
            attached.barred = None  # another interface may be one that they go with
        if old is not None and old.interface:
            _discard(self._pointing, old.interface.peer, entry.name)
            _discard(self._members, old.interface.vrf_master, entry.name)
        if new is not None and new.interface:
            if new.interface.peer:
                self._pointing[new.interface.peer].add(entry.name)
            if new.interface.vrf_master:
                self._members[new.interface.vrf_master].add(entry.name)

    # Work

    def _work(self) -> None:
        if self._dirty:
            names, self._dirty = self._dirty, set()
            names |= self._all(self._members, names)
            for name in tuple(names):
                names |= self._claim(name)
            names |= self._all(self._members, names)
            # whom somebody names as peer decides what becomes of them, and of all others that name them
            names |= self._all(self._pointing, names)
            names |= self._all(self._pointing, names)
            self._evaluate(names)
        for text in self._dirty_plain:
            self._ledger.say(self._entries[text], self._entries[text].verdict)
        self._dirty_plain.clear()
        for name, verdict in self._dependents.work(self._stand):
            self._judge("afpacket", name, verdict)

    @staticmethod
    def _all(index: dict[str, set[str]], names: Iterable[str]) -> set[str]:
        return set().union(*(index[name] for name in names if name in index))

    def _interface(self, name: str) -> Interface | None:
        entry = self._interfaces.get(name)
        return entry.interface if entry else None

    def _claim(self, name: str) -> set[str]:
        """Books what an interface and its routes need for themselves; tells whose fate that changes."""
        wanted: dict[str, tuple[Slot, Rank]] = {}
        entry, interface = self._interfaces.get(name), self._interface(name)
        if entry is not None and interface is not None:
            wanted[""] = ("host", interface.netns, interface.host_if_name), (entry.since, name)
            table = self._table(interface) or MAIN_TABLE
            for text, attached in self._attached.get(name, {}).items():
                value = attached.value
                if isinstance(value, Arp):
                    wanted[text] = ("arp", name, value.ip), (attached.since, text)
                elif isinstance(value, Route) and value.netns in ("", interface.netns):
                    metric = value.metric or (IPV6_METRIC if value.ipv6 else 0)
                    slot = ("route", interface.netns, value.table or table, metric, value.to)
                    wanted[text] = slot, (attached.since, text)
        held = self._held.pop(name, {})
        if wanted:
            self._held[name] = wanted
        touched: set[str] = set()
        for claimant in held.keys() | wanted.keys():
            before, after = held.get(claimant), wanted.get(claimant)
            if before != after:
                for change, booked in ((self._claims.drop, before), (self._claims.take, after)):
                    if booked is not None:
                        holder = self._claims.holder(booked[0])
                        change(*booked)
                        touched |= self._touched(booked[0], holder)
        return touched

    def _touched(self, slot: Slot, before: str | None) -> set[str]:
        """The interfaces of all that stand in the row of a slot whose holder has changed."""
        if slot[0] == "host" and slot[1] == "":
            self._dependents.touch("host", str(slot[2]))
        if self._claims.holder(slot) == before:
            return set()
        row = {*self._claims.claimants(slot), before} - {None}
        if slot[0] == "host":
            return {str(name) for name in row}
        values = [self._entries[text].value for text in row if text in self._entries]
        return {v.interface for v in values if isinstance(v, Route | Arp)}

    def _table(self, interface: Interface) -> int:
        """The routing table of the VRF that an interface is in; 0 without."""
        master = self._interface(interface.vrf_master) if interface.vrf_master else None
        return master.table if master is not None and master.type == "vrf" else 0

    def _evaluate(self, names: set[str]) -> None:
        built: dict[str, tuple[str, ...]] = {}
        dead: set[str] = set()
        for name in names:
            before = self._where.pop(name, None)
            problem = self._problem(name)
            interface = self._interface(name)
            if interface is not None and problem is None:
                together = tuple(sorted((name, interface.peer))) if interface.type == "veth" else (name,)
                id = self._where[name] = connection_id(self.label, *together)
                built[id] = together
            elif problem is not None:
                self._hold_back(name, problem)
            if before is not None and before != self._where.get(name):
                dead.add(before)
            self._judge("interface", name, None)
            self._dependents.touch("interface", name)
            if interface is not None:
                self._dependents.touch("host", interface.host_if_name)
        for id in dead - built.keys():
            if self._desired.pop(id, None) is not None:
                self._new_desired[id] = None
        for id, together in built.items():
            self._build(id, together)

    def _problem(self, name: str) -> Verdict | None:
        """Why an interface cannot be now, or None."""
        problem = self._own_problem(name)
        interface = self._interface(name)
        if problem is not None or interface is None or interface.type != "veth":
            return problem
        entry, peer = self._interfaces.get(interface.peer), self._interface(interface.peer)
        if entry is None:
            return pending("veth-peer-exists", f"peer {interface.peer} is not configured")
        if peer is None:
            return pending("veth-peer-exists", f"peer {interface.peer} is INVALID")
        if peer.type != "veth":
            return pending("veth-peer-exists", f"peer {peer.name} is a {peer.type_name}, not a VETH")
        if peer.peer != name:
            third = self._interface(peer.peer)
            if third is not None and third.peer == peer.name:
                return failed(f"veth.peer_if_name: {peer.name} is taken: it and {third.name} are a pair")
            return pending("veth-peer-points-back", f"{peer.name} does not point back: its peer is {peer.peer}")
        theirs = self._own_problem(peer.name)
        return theirs and pending("veth-peer-exists", f"peer {peer.name} is {theirs.reason}")

    def _own_problem(self, name: str) -> Verdict | None:
        """What is wrong with an interface itself, its peer left aside; not configured at all is one, too."""
        entry = self._interfaces.get(name)
        if entry is None:
            return pending("outgoing-interface-is-up", f"interface {name} is not configured")
        interface = entry.interface
        if interface is None:
            return entry.verdict
        holder = self._claims.holder(("host", interface.netns, interface.host_if_name))
        if holder != name:
            where = f"namespace {interface.netns}" if interface.netns else "the engine's own namespace"
            return failed(f"host_if_name: {interface.host_if_name} in {where} belongs to interface {holder}")
        return self._vrf_problem(interface) if interface.vrf_master else None

    def _vrf_problem(self, interface: Interface) -> Verdict | None:
        label, master = "vrf-interface-exists", self._interface(interface.vrf_master)
        if interface.vrf_master not in self._interfaces:
            return pending(label, f"VRF {interface.vrf_master} is not configured")
        if master is not None and master.type != "vrf":
            return pending(label, f"{master.name} is a {master.type_name}, not a VRF_DEVICE")
        if master is not None and master.netns != interface.netns:
            return pending(label, f"VRF {master.name} is in namespace {master.netns!r}, not in {interface.netns!r}")
        theirs = self._own_problem(interface.vrf_master)
        return theirs and pending(label, f"VRF {interface.vrf_master} is {theirs.reason}")

    def _hold_back(self, name: str, problem: Verdict) -> None:
        """An interface that cannot be, and all that needs it."""
        entry = self._interfaces.get(name)
        what = problem.unmet[0].text if entry is None else f"interface {name} is {problem.reason}"
        if entry is not None:
            self._ledger.say(entry, problem)
        for attached in self._attached.get(name, {}).values():
            self._ledger.say(attached, pending("outgoing-interface-is-up", what))

    def _judge(self, kind: str, name: str, verdict: Verdict | None) -> None:
        """Those that configure a name: the verdict, if there is one, is on the key that counts."""
        counts: str | None = None
        for text in self._claims.claimants((kind, name)):
            entry = self._entries[text]
            if counts is None:
                counts = text
                if verdict or entry.verdict:
                    self._ledger.say(entry, verdict)
            else:
                self._ledger.say(entry, pending("configured-once", f"{counts} configures {name} and takes precedence"))

    def _build(self, id: str, names: tuple[str, ...]) -> None:
        """The connection of an interface or of a pair, all of which can be."""
        entries = [self._interfaces[name] for name in names]
        interfaces = [entry.interface for entry in entries if entry.interface]
        needed = tuple(sorted({i.netns for i in interfaces if i.netns}))
        desired: Desired = {"id": id, "kind": interfaces[0].type}
        labels = {"ligato.label": self.label}
        for letter, entry, interface in zip("ab", entries, interfaces, strict=False):
            master = self._interface(interface.vrf_master) if interface.vrf_master else None
            end = desired[letter] = end_of(interface, master.host_if_name if master else "")
            labels[f"ligato.{letter}"] = interface.name
            self._ledger.say(entry, Verdict(None, connection=id, path=letter, namespaces=needed))
            if interface.name not in self._attached:
                continue
            fields, refused, placed = attach(interface, *self._attachments(interface), self._table(interface))
            end |= fields
            for text, verdict in refused.items():
                self._ledger.say(self._entries[text], verdict)
            for text, path in placed:
                verdict = Verdict(None, connection=id, path=f"{letter}.{path}", namespaces=needed)
                self._ledger.say(self._entries[text], verdict)
        if interfaces[0].type == "vrf":
            desired["vrf"] = {"table": interfaces[0].table}
        desired["labels"] = labels
        if self._desired.get(id) != desired:
            self._desired[id] = self._new_desired[id] = desired

    def _attachments(self, interface: Interface) -> tuple[list[tuple[str, Route, str]], list[tuple[str, Arp, str]]]:
        """Routes and neighbours of an interface, each with its key and the key of one that is in its place, or ""."""
        routes: list[tuple[str, Route, str]] = []
        arps: list[tuple[str, Arp, str]] = []
        held = self._held.get(interface.name, {})
        for text, entry in self._attached.get(interface.name, {}).items():
            if entry.barred is not None:
                self._ledger.say(entry, entry.barred)
                continue
            holder = self._claims.holder(held[text][0]) if text in held else text
            rival = "" if holder in (text, None) else str(holder)
            if isinstance(entry.value, Route):
                routes.append((text, entry.value, rival))
            elif isinstance(entry.value, Arp):
                arps.append((text, entry.value, rival))
        return routes, arps

    def _stand(self, packet: AfPacket) -> tuple[Dependent, Verdict]:
        """What a dependent stands on, and the verdict on it."""
        if packet.linux_interface:
            name: str | None = packet.linux_interface
        else:
            name = self._claims.holder(("host", "", packet.host_if_name))
        interface = self._interface(name) if name is not None else None
        host = interface.host_if_name if interface is not None else packet.host_if_name
        found = Dependent(packet.name, host, packet.enabled)
        label = "host-interface-exists"
        if interface is None:
            what = f"interface {name}" if packet.linux_interface else f"an interface called {host}"
            return found, pending(label, f"{what} is not configured in the engine's own namespace")
        if interface.netns:
            return found, pending(label, f"interface {name} is in namespace {interface.netns}, not in the engine's own")
        id = self._where.get(interface.name)
        if id is None:
            problem = self._problem(interface.name)
            return found, pending(label, f"interface {name} is {problem.reason if problem else 'not there'}")
        end = "a" if self._desired[id]["labels"]["ligato.a"] == interface.name else "b"
        return Dependent(packet.name, host, packet.enabled, id, end), Verdict(None, connection=id, path=end)


def _discard(index: dict[str, Any], name: str, member: str) -> None:
    """Takes a member out of one row of an index, and the row with its last."""
    row = index.get(name)
    if row is None:
        return
    row.pop(member, None) if isinstance(row, dict) else row.discard(member)
    if not row:
        del index[name]


def _replace(index: dict[str, Entry], name: str, value: Entry | None) -> None:
    if value is None:
        index.pop(name, None)
    else:
        index[name] = value

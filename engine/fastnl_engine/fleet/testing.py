"""For tests: hosts on one machine, with an underlay between them, an engine on each and one real etcd.

    isolate()                                   # first thing in the process, see fastnl.testing
    with reachable(folder) as etcd, Fleet(folder, etcd) as fleet:
        one, two = fleet.add("one"), fleet.add("two", mtu=9000)
        fleet.start()
        one.make("blue"), two.make("red")
        one.client().connect([...])
        assert one.ping("blue", "10.0.0.2")
        two.engine.kill()

A host is a namespace of its own for the network, for mounts (so that /run/netns is its own: hosts may have namespaces
of the same name) and for the hostname.  The underlay is a bridge in the namespace of the process that makes the
hosts; there, too, etcd listens.  Nothing here is needed to run a fleet.
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastnl.testing import PATIENCE, eventually, spawn
from fastnl_engine.client import Client
from fastnl_engine.kv.testing import Etcd
from fastnl_engine.testing import EngineProcess, end, pair

ROOT = "/fastnl/fleet/"
SWITCH = "underlay"  # the bridge
DEVICE = "under"  # of each host
LEASE = 2  # seconds until a host that died is missed

_BECOME = """
set -e
mkdir -p /run/netns
mount -t tmpfs fastnl-testing /run/netns
hostname "$0"
ip link set lo up
echo ready
exec sleep infinity
"""


class Machine:
    """A host.

    number   of its addresses in the underlay
    engine   not started yet
    """

    def __init__(self, name: str, number: int, folder: Path, etcd: Sequence[str], settings: dict[str, str]) -> None:
        self.name = name
        self.addresses = {4: f"192.0.2.{number}", 6: f"2001:db8::{number:x}"}
        # unshare and sh become sleep, so this is the process that holds the namespaces
        unshare = ["unshare", "--net", "--mount", "--uts", "--propagation", "private"]
        self._holder = spawn([*unshare, "sh", "-c", _BECOME, name], stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        said = self._holder.stdout.readline()
        assert said == "ready\n", f"{name} is no host: {said!r}"
        folder.mkdir()
        env = {"FASTNL_FLEET_ENDPOINTS": ",".join(etcd), "FASTNL_FLEET_LEASE": str(LEASE), **settings}
        self.engine = EngineProcess(folder, instance=name, prefix=self.enter(), env=env)

    def close(self) -> None:
        try:
            self.engine.close()
        finally:
            self._holder.kill()
            self._holder.wait()
            assert self._holder.stdout is not None
            self._holder.stdout.close()

    # -- looking in --------------------------------------------------------------------------------------

    def enter(self, *argv: str, netns: str = "") -> list[str]:
        """The command line that runs `argv` on the host, or in one of its named namespaces."""
        enter = ["nsenter", "--target", str(self._holder.pid), "--mount", "--net", "--uts"]
        # only the inner one sees the host's /run/netns
        return [*enter, "--", *(["nsenter", f"--net=/run/netns/{netns}", "--"] if netns else []), *argv]

    def run(self, *argv: str, netns: str = "") -> str:
        """What a command says.  Raises AssertionError when it fails."""
        done = subprocess.run(self.enter(*argv, netns=netns), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"on {self.name}: {' '.join(argv)}: {done.stderr}{done.stdout}"
        return done.stdout

    def links(self, netns: str = "") -> dict[str, dict[str, Any]]:
        """Interfaces by name, as `ip` sees them, with their addresses."""
        rows = json.loads(self.run("ip", "-j", "-d", "addr", "show", netns=netns) or "[]")
        return {row["ifname"]: row for row in rows if row}

    def namespaces(self) -> list[str]:
        return sorted(self.run("ls", "/run/netns").split())

    def everything(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Every interface of the host that is not there anyway, by namespace and name."""
        return {
            (netns, name): link
            for netns in ["", *self.namespaces()]
            for name, link in self.links(netns).items()
            if name not in ("lo", DEVICE)
        }

    def ping(self, netns: str, target: str, *, wait: float = PATIENCE, size: int | None = None) -> bool:
        """Whether `target` answers, tried again for `wait` seconds; `size` payload bytes may not be fragmented."""
        options = ["-n", "-q", "-c", "1", "-W", str(min(wait, 0.5))]
        if size is not None:
            options += ["-s", str(size), "-M", "do"]
        command = self.enter("ping", *options, target, netns=netns)
        return eventually(lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0, wait)

    # -- changing it -------------------------------------------------------------------------------------

    def make(self, *names: str) -> None:
        """Makes named namespaces."""
        for name in names:
            self.run("ip", "netns", "add", name)

    def remove(self, *names: str) -> None:
        for name in names:
            self.run("ip", "netns", "del", name)

    def connections(self, page: int = 100) -> dict[str, dict[str, Any]]:
        """Those of the whole fleet, by id, as this host's engine tells them page by page."""
        client = self.client()
        rows: list[dict[str, Any]] = []
        after = None
        while True:
            reply = client.request("fleet", action="connections", limit=page, after=after)
            assert "results" in reply, reply
            rows += reply["results"]
            after = reply["after"]
            if after is None:
                found = {row["id"]: row for row in rows}
                assert len(found) == len(rows), "one was told twice"
                return found

    def client(self, timeout: float = PATIENCE) -> Client:
        """A client of its engine, which the engine's `hang_up` and `close` close."""
        return self.engine.client(timeout)


class Fleet:
    """Hosts and what is between them.  `etcd` is one of `reachable`.

    name   of the fleet in etcd
    """

    def __init__(self, folder: Path, etcd: Etcd, name: str = "default") -> None:
        self._folder = folder
        self.etcd = etcd
        self._name = name
        self.machines: dict[str, Machine] = {}

    def __enter__(self) -> Fleet:
        for line in (
            f"link add {SWITCH} type bridge forward_delay 0",
            # bridges take the least MTU of their ports unless told
            f"link set {SWITCH} up mtu 9000",
            f"addr add 192.0.2.254/24 dev {SWITCH}",
        ):
            _ip(line)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(_ip, f"link del {SWITCH}")
            for machine in self.machines.values():
                stack.callback(machine.close)

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def add(self, name: str, *, mtu: int = 1500, family: int = 4, **settings: str) -> Machine:
        """A host with a place in the underlay.

        mtu       of its device there
        family    4 or 6, of the address that its tunnels have
        settings  further ones of the table [fleet]; address="" leaves it to be found
        """
        number = len(self.machines) + 1
        address = f"192.0.2.{number}" if family == 4 else f"2001:db8::{number:x}"
        settings = {"host": name, "address": address, "name": self._name, **settings}
        env = {f"FASTNL_FLEET_{key.upper()}": value for key, value in settings.items()}
        machine = Machine(name, number, self._folder / name, self.endpoints, env)
        self.machines[name] = machine
        port = f"port{number}"
        pid = machine._holder.pid
        _ip(f"link add {port} mtu {mtu} type veth peer name {DEVICE} mtu {mtu} netns {pid}")
        _ip(f"link set {port} up master {SWITCH}")
        machine.run("ip", "link", "set", DEVICE, "up")
        machine.run("ip", "addr", "add", f"{machine.addresses[4]}/24", "dev", DEVICE)
        machine.run("ip", "addr", "add", f"{machine.addresses[6]}/64", "dev", DEVICE, "nodad")
        machine.run("ip", "route", "add", "default", "via", "192.0.2.254")
        return machine

    @property
    def endpoints(self) -> list[str]:
        """Of etcd, as seen from the hosts."""
        return [f"http://192.0.2.254:{url.rpartition(':')[2]}" for url in self.etcd.urls]

    def start(self, *names: str) -> Fleet:
        """Starts engines, all if none is named, and waits until they are registered."""
        machines = [self.machines[name] for name in names or self.machines]
        for machine in machines:
            machine.engine.launch()
        for machine in machines:
            with machine.engine.client() as probe:
                probe.info()
        self.wait_alive(*(machine.name for machine in machines))
        return self

    def wait_alive(self, *names: str) -> None:
        """Until hosts are registered in etcd."""
        wanted = set(names)
        logs = {name: self.machines[name].engine.log for name in names}
        assert eventually(lambda: wanted <= self.alive()), f"not registered: {wanted - self.alive()}: {logs}"

    def cli(self, machine: Machine, *argv: str, code: int = 0) -> str:
        """What `fastnl` prints on a host, which has to exit with `code`."""
        fastnl = [sys.executable, "-c", "from fastnl_engine.cli import main; main()"]
        command = [*fastnl, *argv, "--endpoint", machine.engine.endpoint]
        done = subprocess.run(machine.enter(*command), capture_output=True, text=True, check=False)
        assert done.returncode == code, f"exit code {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    # -- etcd, as etcdctl sees it ------------------------------------------------------------------------

    def stored(self, under: str = "") -> dict[str, str]:
        """Keys and values of this fleet, without what they all begin with."""
        prefix = f"{ROOT}{self._name}/"
        answer = json.loads(self.etcd.ctl("get", prefix + under, "--prefix", "--write-out", "json"))
        found = {_text(kv["key"]): _text(kv.get("value", "")) for kv in answer.get("kvs", ())}
        return {key.removeprefix(prefix): value for key, value in found.items()}

    def alive(self) -> set[str]:
        return {key.removeprefix("alive/") for key in self.stored("alive/")}

    def of_connections(self) -> set[str]:
        """Keys that are there for some connection."""
        return {key for key in self.stored() if key.split("/")[0] in ("connection", "half", "outcome", "vni")}


def at(host: str, netns: str, ifname: str, *addresses: str, **more: Any) -> dict[str, Any]:
    """An End on a host."""
    return {"host": host, **end(netns, ifname, *addresses, **more)}


def far(number: int, one: str = "one", two: str = "two", **more: Any) -> dict[str, Any]:
    """A connection cN of a namespace blue with a namespace red, in a network of its own; the ends have .1 and .2."""
    net = f"10.{number >> 8}.{number & 255}"
    a, b = at(one, "blue", f"a{number}", f"{net}.1/24"), at(two, "red", f"b{number}", f"{net}.2/24")
    return pair(f"c{number}", a, b, **more)


def reachable(folder: Path) -> Etcd:
    """An etcd, not started yet, that listens in the underlay."""
    etcd = Etcd(folder)
    port = etcd.members[0].url.rpartition(":")[2]
    etcd.flags += ["--listen-client-urls", f"http://0.0.0.0:{port}"]  # the last one counts
    return etcd


def _text(raw: str) -> str:
    return base64.b64decode(raw).decode()


def _ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True, capture_output=True)

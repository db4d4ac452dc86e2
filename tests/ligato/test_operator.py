"""What an operator of Ligato's plugin has in etcd, in a real kernel: its files, its fields, its namespaces."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.ligato.conftest import Agent, addresses, comes, goes, ligato, links, veth1, veth3

from fastnl.testing import Namespaces, eventually, ip_json, nsenter, ping, spawn
from fastnl_engine.testing import EngineProcess

I1, I3 = "linux/config/v1/interface/", "config/linux/interfaces/v2/interface/"
R1, A1 = "linux/config/v1/route/", "linux/config/v1/arp/"
R3 = "config/linux/l3/v2/route/"


# SIOCETHTOOL with ETHTOOL_GRXCSUM and ETHTOOL_GTXCSUM, include/uapi/linux/ethtool.h
ETHTOOL = """
import ctypes, fcntl, socket, struct, sys
for command in (0x14, 0x16):
    value = ctypes.create_string_buffer(struct.pack("II", command, 0), 8)
    request = struct.pack("16sP16x", sys.argv[1].encode(), ctypes.addressof(value))
    fcntl.ioctl(socket.socket(), 0x8946, request)
    print("on" if struct.unpack_from("II", value)[1] else "off")
"""


def routes(netns: str, table: str = "main", family: str = "-4") -> dict[str, dict[str, Any]]:
    return {row["dst"]: row for row in ip_json(netns, family, "route", "show", "table", table)}


def offloads(netns: str, ifname: str) -> dict[str, bool]:
    """Which checksums the interface leaves to whoever has the frame; {} while it is not there."""
    command = nsenter(netns, sys.executable, "-c", ETHTOOL, ifname)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return dict(zip(("rx", "tx"), map("on".__eq__, done.stdout.split()), strict=False))


def has_driver(kind: str) -> bool:
    made = subprocess.run(["ip", "-n", "n0", "link", "add", "probe", "type", kind], capture_output=True)
    subprocess.run(["ip", "-n", "n0", "link", "del", "probe"], capture_output=True, check=False)
    return made.returncode == 0


# -- the files of the documentation ----------------------------------------------------------------

VETH1 = {
    "name": "veth1", "host_if_name": "veth1Name", "type": 0, "enabled": True, "mtu": 1500,
    "phys_address": "d2:74:8c:12:67:d2",
    "ip_addresses": ["192.168.22.1/24", "2001:db8:0:0:0:ff00:89e3:bb42/48"],
    "namespace": {"type": 2, "name": "ns1"}, "veth": {"peer_if_name": "veth2"},
}  # fmt: skip
VETH2 = {
    "name": "veth2", "host_if_name": "veth2Name", "type": 0, "enabled": True, "mtu": 1500,
    "phys_address": "92:c7:42:67:ab:cd",
    "ip_addresses": ["192.168.22.2/24", "2001:842:0:0:0:ff00:13c7:1245/48"],
    "namespace": {"type": 2, "name": "ns2"}, "veth": {"peer_if_name": "veth1"},
}  # fmt: skip


def as_v3(value: dict[str, Any]) -> dict[str, Any]:
    reference = {"type": "NSID", "reference": value["namespace"]["name"]}
    return value | {"type": "VETH", "namespace": reference}


def by_number(value: dict[str, Any]) -> dict[str, Any]:
    return value | {"type": 1, "namespace": {"type": 1, "reference": value["namespace"]["name"]}}


def by_name(value: dict[str, Any]) -> dict[str, Any]:
    return value | {"type": "VETH", "namespace": {"type": "NAMED_NS", "name": value["namespace"]["name"]}}


@pytest.mark.parametrize(
    ("prefix", "spelled"),
    [(I1, dict), (I1, by_name), (I3, as_v3), (I3, by_number)],
    ids=["v1", "v1 by name", "v3", "v3 by number"],
)
def test_veth1_and_veth2_as_ligato_has_them(
    agent: Agent, netns: Namespaces, prefix: str, spelled: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    netns.make("ns1")
    netns.make("ns2")
    agent.put(prefix + "veth2", spelled(VETH2))
    agent.put(prefix + "veth1", spelled(VETH1))
    for key in ("veth1", "veth2"):
        assert not agent.expect(prefix + key, "CONFIGURED").get("details")
    row = links("ns1")["veth1Name"]
    assert (row["address"], row["mtu"], "UP" in row["flags"]) == ("d2:74:8c:12:67:d2", 1500, True)
    assert addresses("ns1", "veth1Name") == {"192.168.22.1/24", "2001:db8::ff00:89e3:bb42/48"}
    assert addresses("ns2", "veth2Name") == {"192.168.22.2/24", "2001:842::ff00:13c7:1245/48"}
    assert ping("ns1", "192.168.22.2")
    assert agent.interface(prefix + "veth1")["internal_name"] == "veth1Name"
    # link-local addresses, which nobody asked for, are no reason to make it anew
    agent.engine.kill()
    agent.engine.start().resumed()
    agent.expect(prefix + "veth1", "CONFIGURED")
    assert links("ns1")["veth1Name"]["ifindex"] == row["ifindex"]


@pytest.mark.parametrize("words", ["-veth", "-vethd"])
def test_the_old_tool_and_the_engine_share_an_etcd(agent: Agent, netns: Namespaces, words: str) -> None:
    netns.make("ns1")
    netns.make("ns2")
    tool = Path(sys.executable).with_name("vpp-agent-ctl")
    environ = os.environ | {"ETCD_ENDPOINTS": agent.etcd.urls[0]}
    subprocess.run([tool, "-veth"], check=True, capture_output=True, env=environ)
    assert comes("ns1", "veth1") and ping("ns1", "192.168.22.2")
    if words == "-vethd":
        subprocess.run([tool, "-vethd"], check=True, capture_output=True, env=environ)
        assert goes("ns1", "veth1") and goes("ns2", "veth2")


def test_the_label_of_the_environment(
    agent: Agent, make_engine: Callable[..., EngineProcess], netns: Namespaces
) -> None:
    """Two agents on one etcd do not see each other's."""
    netns.many(2)
    engine = make_engine(ligato(agent.etcd.urls), instance="second")
    engine.env["MICROSERVICE_LABEL"] = "web"
    engine.start()
    other = Agent(engine, agent.etcd, "web")
    agent.put(I1 + "t", {"name": "t", "type": 1, "namespace": {"type": 2, "name": "n0"}})
    other.put(I1 + "t", {"name": "t", "type": 1, "namespace": {"type": 2, "name": "n1"}})
    agent.expect(I1 + "t", "CONFIGURED")
    other.expect(I1 + "t", "CONFIGURED")
    other.delete(I1 + "t")
    assert goes("n1", "t") and "t" in links("n0")


def test_an_etcd_with_certificates_users_and_several_endpoints(
    make_etcd: Callable[..., Any], make_engine: Callable[..., EngineProcess], netns: Namespaces, tmp_path: Path
) -> None:
    netns.many(2)
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, cert in (("server", ca.issue_cert("127.0.0.1")), ("client", ca.issue_cert("client.host"))):
        cert.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        cert.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    etcd = make_etcd(
        f"--cert-file={tmp_path}/server.pem", f"--key-file={tmp_path}/server.key",
        f"--trusted-ca-file={tmp_path}/ca.pem", "--client-cert-auth", scheme="https",
        ctl=[f"--cacert={tmp_path}/ca.pem", f"--cert={tmp_path}/client.pem", f"--key={tmp_path}/client.key"],
    )  # fmt: skip
    for command in (
        ("user", "add", "root:rootpw"), ("user", "grant-role", "root", "root"), ("user", "add", "anna:annapw"),
        ("role", "add", "a"), ("role", "grant-permission", "a", "--prefix=true", "readwrite", "/vnf-agent/vpp1/"),
        ("user", "grant-role", "anna", "a"), ("auth", "enable"),
    ):  # fmt: skip
        etcd.ctl(*command)
    etcd.ctl_flags.append("--user=root:rootpw")
    (tmp_path / "password").write_text("annapw\n")
    papers = {"ca": f"{tmp_path}/ca.pem", "cert": f"{tmp_path}/client.pem", "key": f"{tmp_path}/client.key"}
    urls = ["https://127.0.0.1:1", *etcd.urls]
    settings = ligato(urls, **papers, user="anna", password_file=f"{tmp_path}/password")
    agent = Agent(make_engine(settings).start(), etcd)
    agent.put(I1 + "va", veth1("va", "vb", "n0", "10.0.0.1/24"))
    agent.put(I1 + "vb", veth1("vb", "va", "n1", "10.0.0.2/24"))
    agent.expect(I1 + "va", "CONFIGURED")
    assert ping("n0", "10.0.0.2")


# -- fields ----------------------------------------------------------------------------------------


def test_checksum_offloads(agent: Agent, netns: Namespaces) -> None:
    netns.many(2)
    off = {"peer_if_name": "vb", "rx_checksum_offloading": "CHKSM_OFFLOAD_DISABLED", "txChecksumOffloading": 2}
    agent.put(I3 + "va", veth3("va", "vb", "n0", "10.0.0.1/24", veth=off))
    agent.put(I3 + "vb", veth3("vb", "va", "n1", "10.0.0.2/24"))
    agent.expect(I3 + "va", "CONFIGURED")
    assert offloads("n0", "va") == {"rx": False, "tx": False}
    assert offloads("n1", "vb") == {"rx": True, "tx": True}
    index = links("n0")["va"]["ifindex"]
    half = off | {"txChecksumOffloading": "CHKSM_OFFLOAD_ENABLED"}
    agent.put(I3 + "va", veth3("va", "vb", "n0", "10.0.0.1/24", veth=half))
    assert eventually(lambda: offloads("n0", "va") == {"rx": False, "tx": True})
    assert links("n0")["va"]["ifindex"] == index
    # without a word it is on, as the kernel makes it
    agent.put(I3 + "va", veth3("va", "vb", "n0", "10.0.0.1/24"))
    assert eventually(lambda: offloads("n0", "va") == {"rx": True, "tx": True})


def test_what_is_taken_out_of_a_value_interrupts_nothing(agent: Agent, netns: Namespaces) -> None:
    netns.many(2)
    mac = "d2:74:8c:12:67:d2"
    off = {"peer_if_name": "vb", "txChecksumOffloading": 2}
    agent.put(I3 + "va", veth3("va", "vb", "n0", "10.0.0.1/24", mtu=1400, phys_address=mac, veth=off))
    agent.put(I3 + "vb", veth3("vb", "va", "n1", "10.0.0.2/24"))
    agent.expect(I3 + "va", "CONFIGURED")
    row = links("n0")["va"]
    assert row["mtu"] == 1400 and offloads("n0", "va") == {"rx": True, "tx": False}
    agent.put(I3 + "va", veth3("va", "vb", "n0", "10.0.0.1/24"))
    assert eventually(lambda: links("n0")["va"]["mtu"] == 1500)
    assert eventually(lambda: offloads("n0", "va") == {"rx": True, "tx": True})
    agent.expect(I3 + "va", "CONFIGURED")
    # what the kernel once chose nobody knows: the MAC stays
    assert (links("n0")["va"]["ifindex"], links("n0")["va"]["address"]) == (row["ifindex"], mac)
    assert addresses("n0", "va") == {"10.0.0.1/24"} and ping("n0", "10.0.0.2")
    # nor does the next start find anything to be mended
    agent.engine.kill()
    agent.engine.start().resumed()
    agent.expect(I3 + "va", "CONFIGURED")
    assert links("n0")["va"]["ifindex"] == row["ifindex"]


def test_link_only_leaves_addresses_alone(agent: Agent, netns: Namespaces) -> None:
    netns.many(2)
    agent.put(I3 + "va", veth3("va", "vb", "n0", "10.0.0.1/24", link_only=True))
    agent.put(I3 + "vb", veth3("vb", "va", "n1", "10.0.0.2/24"))
    agent.expect(I3 + "va", "CONFIGURED", "link_only")
    assert addresses("n0", "va") == set()
    subprocess.run(["ip", "-n", "n0", "address", "add", "10.0.0.77/24", "dev", "va"], check=True)
    index = links("n0")["va"]["ifindex"]
    agent.put(I3 + "va", veth3("va", "vb", "n0", link_only=True, mtu=1400))
    assert eventually(lambda: links("n0")["va"]["mtu"] == 1400)
    agent.engine.kill()
    agent.engine.start().resumed()
    agent.expect(I3 + "va", "CONFIGURED")
    assert addresses("n0", "va") == {"10.0.0.77/24"} and links("n0")["va"]["ifindex"] == index


def test_ipv6_where_it_is_turned_off_is_turned_on_for_interfaces_of_ours_alone(agent: Agent, netns: Namespaces) -> None:
    netns.many(2)

    def turn(which: str, off: int) -> None:
        command = nsenter("n0", "sh", "-c", f"echo {off} > /proc/sys/net/ipv6/conf/{which}/disable_ipv6")
        subprocess.run(command, check=True)

    turn("all", 1)
    turn("default", 1)
    agent.put(I1 + "va", veth1("va", "vb", "n0", "10.0.0.1/24", "fd00::1/64"))
    agent.put(I1 + "vb", veth1("vb", "va", "n1", "fd00::2/64"))
    agent.expect(I1 + "va", "CONFIGURED")
    assert addresses("n0", "va") == {"10.0.0.1/24", "fd00::1/64"} and ping("n0", "fd00::2")
    agent.put(I3 + "lo", {"name": "lo", "type": "LOOPBACK", "enabled": True, "namespace": {"type": "NSID",
                          "reference": "n0"}, "ip_addresses": ["fd01::1/128"]})  # fmt: skip
    agent.expect(I3 + "lo", "RETRYING", "its owner's to switch on")
    turn("lo", 0)
    agent.expect(I3 + "lo", "CONFIGURED")
    assert addresses("n0", "lo") >= {"fd01::1/128"}


# -- types -----------------------------------------------------------------------------------------


def test_an_existing_interface_is_waited_for_and_keeps_what_it_has(agent: Agent, netns: Namespaces) -> None:
    agent.put(I3 + "ex", {"name": "ex", "type": "EXISTING", "enabled": True, "host_if_name": "host0",
                          "ip_addresses": ["10.5.0.1/24"]})  # fmt: skip
    agent.expect(I3 + "ex", "PENDING", "host0")
    try:
        subprocess.run(["ip", "link", "add", "host0", "type", "bridge"], check=True)
        subprocess.run(["ip", "address", "add", "10.6.0.1/24", "dev", "host0"], check=True)
        agent.expect(I3 + "ex", "CONFIGURED")
        assert eventually(lambda: addresses("", "host0") == {"10.5.0.1/24", "10.6.0.1/24"})
        index = links("")["host0"]["ifindex"]
        agent.engine.kill()
        agent.engine.start().resumed()
        agent.expect(I3 + "ex", "CONFIGURED")
        agent.delete(I3 + "ex")
        assert eventually(lambda: addresses("", "host0") == {"10.6.0.1/24"})
        assert links("")["host0"]["ifindex"] == index
    finally:
        subprocess.run(["ip", "link", "del", "host0"], check=False)


def test_existing_goes_and_returns_with_its_interface(agent: Agent, netns: Namespaces) -> None:
    try:
        subprocess.run(["ip", "link", "add", "host0", "type", "bridge"], check=True)
        agent.put(I3 + "ex", {"name": "ex", "type": 4, "enabled": True, "host_if_name": "host0",
                              "ip_addresses": ["10.5.0.1/24"]})  # fmt: skip
        agent.expect(I3 + "ex", "CONFIGURED")
        subprocess.run(["ip", "link", "del", "host0"], check=True)
        agent.expect(I3 + "ex", "PENDING", "host0")
        subprocess.run(["ip", "link", "add", "host0", "type", "bridge"], check=True)
        agent.expect(I3 + "ex", "CONFIGURED")
        assert addresses("", "host0") == {"10.5.0.1/24"}
    finally:
        subprocess.run(["ip", "link", "del", "host0"], check=False)


def test_a_dummy_comes_or_is_reported_as_what_the_kernel_lacks(agent: Agent, netns: Namespaces) -> None:
    netns.make("n0")
    here = {"type": "NSID", "reference": "n0"}
    agent.put(I3 + "d", {"name": "d", "type": "DUMMY", "enabled": True, "namespace": here,
                         "ip_addresses": ["10.3.0.1/24"]})  # fmt: skip
    agent.put(R3 + "10.9.0.0/16/d", {"outgoing_interface": "d", "dst_network": "10.9.0.0/16"})
    if has_driver("dummy"):
        agent.expect(I3 + "d", "CONFIGURED")
        assert addresses("n0", "d") == {"10.3.0.1/24"} and "10.9.0.0/16" in routes("n0")
    else:
        agent.expect(I3 + "d", "RETRYING", "no driver")
        agent.expect(R3 + "10.9.0.0/16/d", "PENDING")


# -- routes and neighbours -------------------------------------------------------------------------


def test_what_only_v1_knows_of_routes_and_neighbours(agent: Agent, netns: Namespaces) -> None:
    netns.many(2)
    here = {"type": 2, "name": "n0"}
    agent.put(A1 + "a1", {"name": "a1", "interface": "va", "ip_addr": "10.0.0.7", "hw_address": "92:C7:42:67:AB:CD",
                          "namespace": here, "state": {"type": 1}, "ip_family": {"family": 0}})  # fmt: skip
    agent.put(R1 + "r1", {"name": "r1", "interface": "va", "default": True, "gw_addr": "10.0.0.2", "metric": 100,
                          "namespace": here})  # fmt: skip
    agent.put(R1 + "r2", {"name": "r2", "interface": "va", "dst_ip_addr": "10.9.0.0/16", "gw_addr": "10.0.0.2",
                          "table": 77, "src_ip_addr": "10.0.0.1"})  # fmt: skip
    agent.put(R1 + "r3", {"name": "r3", "interface": "va", "dst_ip_addr": "10.8.0.0/16", "scope": {"type": 2}})
    agent.put(R1 + "r4", {"name": "r4", "interface": "va", "dst_ip_addr": "fd01::/48", "gw_addr": "fd00::2"})
    agent.put(I1 + "va", veth1("va", "vb", "n0", "10.0.0.1/24", "fd00::1/64"))
    agent.put(I1 + "vb", veth1("vb", "va", "n1", "10.0.0.2/24", "fd00::2/64"))
    for key in (A1 + "a1", R1 + "r1", R1 + "r2", R1 + "r3", R1 + "r4"):
        agent.expect(key, "CONFIGURED")
    assert (routes("n0")["default"]["gateway"], routes("n0")["default"]["metric"]) == ("10.0.0.2", 100)
    assert routes("n0", "77")["10.9.0.0/16"]["prefsrc"] == "10.0.0.1"
    assert routes("n0")["10.8.0.0/16"]["scope"] == "link"
    assert routes("n0", family="-6")["fd01::/48"]["gateway"] == "fd00::2"
    near = [n for n in ip_json("n0", "neigh", "show", "nud", "all") if n["dst"] == "10.0.0.7"]
    assert near[0]["lladdr"] == "92:c7:42:67:ab:cd" and near[0]["state"] == ["NOARP"]
    # down and up again: routes go with it in the kernel and return
    agent.put(I1 + "va", veth1("va", "vb", "n0", "10.0.0.1/24", "fd00::1/64", enabled=False))
    agent.expect(R1 + "r1", "PENDING", "not enabled")
    agent.expect(A1 + "a1", "PENDING", "not enabled")
    agent.put(I1 + "va", veth1("va", "vb", "n0", "10.0.0.1/24", "fd00::1/64"))
    for key in (A1 + "a1", R1 + "r1", R1 + "r2", R1 + "r3", R1 + "r4"):
        agent.expect(key, "CONFIGURED")
    assert eventually(lambda: "default" in routes("n0") and "10.9.0.0/16" in routes("n0", "77"))
    # an address that a gateway needs goes
    agent.put(I1 + "va", veth1("va", "vb", "n0", "10.1.0.1/24", "fd00::1/64"))
    agent.expect(R1 + "r1", "PENDING", "gw-reachable")
    agent.expect(I1 + "va", "CONFIGURED")
    assert eventually(lambda: "default" not in routes("n0"))


def test_a_route_that_the_kernel_refuses_keeps_nothing_else_from_being(agent: Agent, netns: Namespaces) -> None:
    netns.make("n0")
    agent.put(R1 + "bad", {"name": "bad", "interface": "va", "dst_ip_addr": "10.9.0.0/16", "gw_addr": "10.0.0.2",
                           "src_ip_addr": "10.77.0.1"})  # fmt: skip
    agent.put(R1 + "good", {"name": "good", "interface": "va", "dst_ip_addr": "10.8.0.0/16", "gw_addr": "10.0.0.2"})
    agent.put(I1 + "vb", veth1("vb", "va", "n1", "10.0.0.2/24"))
    agent.put(I1 + "va", veth1("va", "vb", "n0", "10.0.0.1/24"))
    agent.expect(I1 + "va", "PENDING", "n1")
    netns.make("n1")
    for key in (I1 + "va", I1 + "vb", R1 + "good"):
        agent.expect(key, "CONFIGURED")
    agent.expect(R1 + "bad", "RETRYING", "source")
    assert ping("n0", "10.0.0.2") and "10.8.0.0/16" in routes("n0")
    # what changes is done in spite of it, and it comes when it can
    index = links("n0")["va"]["ifindex"]
    agent.put(I1 + "va", veth1("va", "vb", "n0", "10.0.0.1/24", mtu=1400))
    assert eventually(lambda: links("n0")["va"]["mtu"] == 1400)
    agent.put(I1 + "va", veth1("va", "vb", "n0", "10.0.0.1/24", "10.77.0.1/32", mtu=1400))
    agent.expect(R1 + "bad", "CONFIGURED")
    assert routes("n0")["10.9.0.0/16"]["prefsrc"] == "10.77.0.1"
    assert links("n0")["va"]["ifindex"] == index


def test_a_refused_route_is_tried_again(agent: Agent, netns: Namespaces) -> None:
    netns.many(2)
    subprocess.run(nsenter("n0", "ip", "link", "set", "lo", "up"), check=True)
    subprocess.run(nsenter("n0", "ip", "route", "add", "10.9.0.0/16", "dev", "lo"), check=True)
    agent.put(I1 + "vb", veth1("vb", "va", "n1", "10.0.0.2/24"))
    agent.put(I1 + "va", veth1("va", "vb", "n0", "10.0.0.1/24"))
    agent.put(R1 + "r", {"name": "r", "interface": "va", "dst_ip_addr": "10.9.0.0/16", "gw_addr": "10.0.0.2"})
    agent.expect(R1 + "r", "RETRYING")
    agent.expect(I1 + "va", "CONFIGURED")
    subprocess.run(nsenter("n0", "ip", "route", "del", "10.9.0.0/16", "dev", "lo"), check=True)
    agent.expect(R1 + "r", "CONFIGURED")
    assert routes("n0")["10.9.0.0/16"]["dev"] == "va"


# -- namespaces ------------------------------------------------------------------------------------


@pytest.fixture
def sleepers() -> Iterator[Callable[[], int]]:
    """Processes with network namespaces of their own."""
    made: list[subprocess.Popen[bytes]] = []

    def make() -> int:
        made.append(spawn(["unshare", "--net", "sleep", "1000"]))
        pid = made[-1].pid
        own = os.readlink("/proc/self/ns/net")
        assert eventually(lambda: os.readlink(f"/proc/{pid}/ns/net") != own)
        return pid

    yield make
    for process in made:
        process.kill()
        process.wait()


def seen(pid: int, *words: str) -> str:
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", "ip", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("layout", ["v1", "v3"])
def test_the_namespace_of_a_process_and_of_a_path(
    agent: Agent, netns: Namespaces, sleepers: Callable[[], int], layout: str
) -> None:
    netns.many(2)
    pid, other = sleepers(), sleepers()
    prefix, veth = (I1, veth1) if layout == "v1" else (I3, veth3)

    def of_pid(number: int) -> dict[str, Any]:
        return {"type": 0, "pid": number} if layout == "v1" else {"type": "PID", "reference": str(number)}

    def of_path(path: str) -> dict[str, Any]:
        return {"type": 3, "filepath": path} if layout == "v1" else {"type": 3, "reference": path}

    agent.put(prefix + "va", veth("va", "vb", "", "10.0.0.1/24", namespace=of_path("/run/netns/n0")))
    agent.put(prefix + "vb", veth("vb", "va", "", "10.0.0.2/24", namespace=of_pid(pid)))
    assert comes("n0", "va") and "vb" in seen(pid, "link") and ping("n0", "10.0.0.2")
    agent.expect(prefix + "vb", "CONFIGURED")
    # another process: the interface moves
    agent.put(prefix + "vb", veth("vb", "va", "", "10.0.0.2/24", namespace=of_pid(other)))
    assert eventually(lambda: "vb" in seen(other, "link")) and "vb" not in seen(pid, "link")
    assert comes("n0", "va") and ping("n0", "10.0.0.2")
    os.kill(other, signal.SIGKILL)
    assert goes("n0", "va")
    agent.expect(prefix + "vb", "PENDING", str(other))
    agent.put(prefix + "vb", veth("vb", "va", "", "10.0.0.2/24", namespace=of_path("/run/netns/n1")))
    assert comes("n1", "vb") and ping("n0", "10.0.0.2")


def test_an_end_in_the_engines_own_namespace(agent: Agent, netns: Namespaces) -> None:
    netns.make("n0")
    agent.put(I1 + "va", veth1("va", "vb", "", "10.0.0.1/24", namespace={"type": 2, "name": ""}))
    agent.put(I1 + "vb", veth1("vb", "va", "n0", "10.0.0.2/24"))
    assert comes("", "va") and ping("", "10.0.0.2")
    agent.delete(I1 + "vb")
    assert goes("", "va")

"""The first generation's API, over real gRPC, on the real kernel."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from fastnl.testing import PATIENCE, eventually, ip_json, nsenter, ping, spawn
from fastnl_engine.adapters.nsm.inodes import inode_of
from fastnl_engine.adapters.nsm.pb import connection_pb2, crossconnect_pb2
from fastnl_engine.adapters.nsm.pb.crossconnect_pb2 import CrossConnect
from fastnl_engine.adapters.nsm.testing import Events, Manager, addresses, cross_connect, kernel, vxlan

ADDRESSES = ("172.16.1.1/30", "172.16.1.2/30")


def inode(name):
    return inode_of(f"name:{name}")


def pair(id="1", blue="blue", red="red", names=("nsm0", "nsm0"), context=None):
    sides = [kernel(name, inode(netns)) for name, netns in zip(names, (blue, red), strict=True)]
    return cross_connect(id, *sides, context if context is not None else addresses(*ADDRESSES))


def refused(call, *args):
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, timeout=PATIENCE)
    return caught.value


# -- local -------------------------------------------------------------------------------------------


def test_a_pair_between_two_namespaces(forwarder, blue, red, links):
    nsm, asked = forwarder.face(), pair()
    assert nsm.cross.Request(asked, timeout=PATIENCE) == asked
    assert ping(blue, "172.16.1.2") and ping(red, "172.16.1.1")
    assert links(blue)["nsm0"]["mtu"] == 16000
    index = links(blue)["nsm0"]["ifindex"]
    assert nsm.cross.Request(asked, timeout=PATIENCE) == asked
    assert links(blue)["nsm0"]["ifindex"] == index
    nsm.cross.Close(asked, timeout=PATIENCE)
    assert set(links(blue)) == set(links(red)) == {"lo"}
    nsm.cross.Close(asked, timeout=PATIENCE)  # of the unknown is fine
    nsm.cross.Request(asked, timeout=PATIENCE)
    assert ping(blue, "172.16.1.2")
    nsm.cross.Close(asked, timeout=PATIENCE)


def test_everything_that_a_context_says(forwarder, blue, red, links):
    context = addresses(
        ["172.16.1.1/30", "fd00::1/64"], ["172.16.1.2/30", "fd00::2/64"],
        dst_routes=[{"prefix": "10.9.8.7/16"}, {"prefix": "172.16.1.0/30"}, {"prefix": "fd09::/48"}],
        src_routes=[{"prefix": "10.8.0.0/16"}],
        ip_neighbors=[{"ip": "172.16.1.2", "hardware_address": "02:00:00:00:00:02"}],
    )  # fmt: skip
    context.mtu = 1400
    context.ethernet_context.src_mac, context.ethernet_context.dst_mac = "02:00:00:00:00:01", "02:00:00:00:00:02"
    forwarder.face().cross.Request(pair(context=context, names=("eth1", "eth9")), timeout=PATIENCE)
    assert ping(blue, "172.16.1.2") and ping(red, "fd00::1")
    assert (links(blue)["eth1"]["mtu"], links(red)["eth9"]["mtu"]) == (1400, 1400)
    assert links(blue)["eth1"]["address"] == "02:00:00:00:00:01"
    assert links(red)["eth9"]["address"] == "02:00:00:00:00:02"
    routes = {row["dst"]: row for row in ip_json(blue, "route", "show", "dev", "eth1")}
    assert routes["10.9.0.0/16"]["prefsrc"] == "172.16.1.1" and "10.8.0.0/16" not in routes
    assert {row["dst"] for row in ip_json(red, "route", "show", "dev", "eth9")} == {"10.8.0.0/16", "172.16.1.0/30"}
    assert "fd09::/48" in {row["dst"] for row in ip_json(blue, "-6", "route", "show", "dev", "eth1")}
    [neighbour] = ip_json(blue, "neigh", "show", "nud", "permanent")
    assert (neighbour["dst"], neighbour["lladdr"]) == ("172.16.1.2", "02:00:00:00:00:02")
    v6 = [a for row in ip_json(red, "-6", "addr", "show", "dev", "eth9") for a in row["addr_info"]]
    [own] = [a for a in v6 if a["local"] == "fd00::2"]
    assert "tentative" not in own and "dadfailed" not in own


def test_an_update_takes_away_what_the_old_one_had(forwarder, netns, blue, red, links):
    nsm = forwarder.face()
    nsm.cross.Request(pair(context=addresses(*ADDRESSES, dst_routes=[{"prefix": "10.1.0.0/16"}])), timeout=PATIENCE)
    index = links(blue)["nsm0"]["ifindex"]
    nsm.cross.Request(pair(names=("eth1", "nsm0"), context=addresses("10.0.0.1/24", "10.0.0.2/24")), timeout=PATIENCE)
    assert ping(blue, "10.0.0.2")
    assert links(blue)["eth1"]["ifindex"] == index and "nsm0" not in links(blue)
    assert {row["dst"] for row in ip_json(blue, "route", "show")} == {"10.0.0.0/24"}
    nsm.cross.Request(pair(red=netns.make("green")), timeout=PATIENCE)
    assert ping(blue, "172.16.1.2")
    assert set(links(red)) == {"lo"}


def test_a_namespace_of_a_process_that_is_no_pause(forwarder, blue, links):
    with spawn(["unshare", "--net", "sleep", "60"]) as process:
        own = os.stat("/proc/self/ns/net").st_ino
        assert eventually(lambda: inode_of(f"pid:{process.pid}") not in (own, None))
        asked = cross_connect(
            "p", kernel("nsm0", inode(blue)), kernel("nsm0", inode_of(f"pid:{process.pid}")), addresses(*ADDRESSES)
        )
        nsm = forwarder.face()
        nsm.cross.Request(asked, timeout=PATIENCE)
        assert ping(blue, "172.16.1.2")
        with Events(nsm.cross_monitor.MonitorCrossConnects(Empty())) as events:
            assert events.next().cross_connects["p"].source.state == connection_pb2.UP
            process.kill()
            process.wait()
            event = events.next()
            assert event.type == crossconnect_pb2.UPDATE
            assert event.cross_connects["p"].source.state == connection_pb2.DOWN
    assert eventually(lambda: set(links(blue)) == {"lo"})
    assert eventually(lambda: list(forwarder.client().list()) == [])
    nsm.cross.Close(asked, timeout=PATIENCE)


def test_a_name_that_comes_back_is_another_namespace(forwarder, netns, blue, red, links):
    nsm, asked = forwarder.face(), pair()
    nsm.cross.Request(asked, timeout=PATIENCE)
    with Events(nsm.cross_monitor.MonitorCrossConnects(Empty())) as events:
        events.next()
        netns.let_go("red")
        assert events.next().cross_connects["1"].destination.state == connection_pb2.DOWN
        assert eventually(lambda: list(forwarder.client().list()) == [])
        netns.make("red")
        nsm.cross.Request(pair(), timeout=PATIENCE)  # the manager heals
        assert events.next().cross_connects["1"].destination.state == connection_pb2.UP
    assert ping(blue, "172.16.1.2")


def test_what_a_monitor_sees(forwarder, blue, red):
    nsm = forwarder.face()
    with Events(nsm.cross_monitor.MonitorCrossConnects(Empty())) as events:
        first = events.next()
        assert first.type == crossconnect_pb2.INITIAL_STATE_TRANSFER and not first.cross_connects
        nsm.cross.Request(pair(), timeout=PATIENCE)
        event = events.next()
        assert (event.type, dict(event.cross_connects)) == (crossconnect_pb2.UPDATE, {"1": pair()})
        nsm.cross.Close(CrossConnect(id="1"), timeout=PATIENCE)
        event = events.next()
        assert (event.type, list(event.cross_connects)) == (crossconnect_pb2.DELETE, ["1"])


SIX = {f"{way}_{what}" for way in ("rx", "tx") for what in ("bytes", "packets", "error_packets")}


def test_what_went_through(forwarder, netns, blue, red):
    nsm = forwarder.face()
    with Events(nsm.cross_monitor.MonitorCrossConnects(Empty())) as events:
        assert not events.next().metrics
        nsm.cross.Request(pair(), timeout=PATIENCE)
        assert ping(blue, "172.16.1.2", count=3)

        def counted():
            event = events.next(counted=True)
            assert event.type == crossconnect_pb2.UPDATE and set(event.cross_connects) == {"1"}
            assert set(event.metrics) == {"SRC-1", "DST-1"}
            assert all(set(side.metrics) == SIX for side in event.metrics.values())
            return int(event.metrics["SRC-1"].metrics["tx_packets"]), int(event.metrics["DST-1"].metrics["rx_packets"])

        assert eventually(lambda: min(counted()) >= 3)
        # whoever comes later has them at once
        with Events(nsm.cross_monitor.MonitorCrossConnects(Empty())) as others:
            assert int(others.next().metrics["SRC-1"].metrics["tx_packets"]) >= 3
        # they do not outlive their connection
        nsm.cross.Close(pair(), timeout=PATIENCE)
    with Events(nsm.cross_monitor.MonitorCrossConnects(Empty())) as events:
        assert not events.next().metrics


def test_a_tunnel_that_was_a_pair_has_the_counters_of_one_end(forwarder, blue, red):
    nsm = forwarder.face()

    def sides():
        with Events(nsm.cross_monitor.MonitorCrossConnects(Empty())) as events:
            return set(events.next().metrics)

    nsm.cross.Request(pair(), timeout=PATIENCE)
    assert eventually(lambda: sides() == {"SRC-1", "DST-1"})
    tunnel = vxlan("127.0.0.1", "127.0.0.2", 7)
    nsm.cross.Request(cross_connect("1", kernel("nsm0", inode(blue)), tunnel, addresses(*ADDRESSES)), timeout=PATIENCE)
    assert "DST-1" not in sides() and eventually(lambda: sides() == {"SRC-1"})


def test_nothing_is_counted_where_that_is_not_wanted(make_forwarder, blue, red):
    nsm = make_forwarder(env={"METRICS_COLLECTOR_ENABLED": "false"}).start().face()
    nsm.cross.Request(pair(), timeout=PATIENCE)
    time.sleep(3)
    with Events(nsm.cross_monitor.MonitorCrossConnects(Empty())) as events:
        assert not events.next().metrics


def test_a_monitor_of_more_than_one_message_holds(forwarder, blue, red):
    nsm = forwarder.face()
    asked = [pair(str(i), names=(f"a{i}", f"b{i}"), context=addresses()) for i in range(120)]
    for one in asked:
        one.source.labels["filling"] = "x" * 40_000
    for call in [nsm.cross.Request.future(one, timeout=PATIENCE) for one in asked]:
        call.result()
    with Events(nsm.cross_monitor.MonitorCrossConnects(Empty())) as events:
        first, then = events.next(), events.next()
        assert (first.type, then.type) == (crossconnect_pb2.INITIAL_STATE_TRANSFER, crossconnect_pb2.UPDATE)
        assert len({*first.cross_connects, *then.cross_connects}) == 120


def test_a_restart_heals_without_the_manager(forwarder, blue, red, links):
    forwarder.face().cross.Request(pair(), timeout=PATIENCE)
    index = links(blue)["nsm0"]["ifindex"]
    forwarder.hang_up()
    forwarder.kill()
    subprocess.run(["ip", "-n", red, "link", "del", "nsm0"], check=True)
    forwarder.start().resumed()
    nsm = forwarder.face()
    assert ping(blue, "172.16.1.2")
    healed = links(blue)["nsm0"]["ifindex"]
    with Events(nsm.cross_monitor.MonitorCrossConnects(Empty())) as events:
        assert dict(events.next().cross_connects) == {"1": pair()}
    forwarder.hang_up()
    forwarder.kill()
    forwarder.start().resumed()
    nsm = forwarder.face()
    nsm.cross.Request(pair(), timeout=PATIENCE)
    assert links(blue)["nsm0"]["ifindex"] == healed and index
    assert forwarder.client().info()["totals"]["updated"] == 0
    nsm.cross.Close(pair(), timeout=PATIENCE)
    assert set(links(blue)) == {"lo"}


# -- remote ------------------------------------------------------------------------------------------


def test_a_connection_between_hosts(make_forwarder, hosts, blue, red, links):
    faces = {
        host: make_forwarder(prefix=nsenter(host), env={"NSM_FORWARDER_SRC_IP": address}).start().face()
        for host, address in hosts.items()
    }
    tunnel, context = vxlan("192.0.2.1", "192.0.2.2", 7), addresses(*ADDRESSES)
    faces["host2"].cross.Request(cross_connect("r", tunnel, kernel("nsm0", inode(red)), context), timeout=PATIENCE)
    asked = cross_connect("r", kernel("nsm0", inode(blue)), tunnel, context)
    faces["host1"].cross.Request(asked, timeout=PATIENCE)
    assert ping(blue, "172.16.1.2") and ping(red, "172.16.1.1")
    link = links(blue)["nsm0"]
    assert (link["linkinfo"]["info_data"]["port"], link["mtu"]) == (8472, 1500)
    assert link["linkinfo"]["info_data"]["learning"] is False
    # two clients may want the same name, and no two the same number
    taken = cross_connect("s", kernel("nsm1", inode(blue)), tunnel, context)
    error = refused(faces["host1"].cross.Request, taken)
    assert error.code() == grpc.StatusCode.ALREADY_EXISTS and error.details().startswith("vni_in_use")
    update = faces["host1"].mechanisms.MonitorMechanisms(Empty())
    mechanisms = next(update)
    update.cancel()
    assert [m.type for m in mechanisms.local_mechanisms] == ["KERNEL_INTERFACE"]
    assert [(m.type, m.parameters["src_ip"]) for m in mechanisms.remote_mechanisms] == [("VXLAN", "192.0.2.1")]
    faces["host1"].cross.Close(asked, timeout=PATIENCE)
    assert set(links(blue)) == {"lo"}


# -- the manager -------------------------------------------------------------------------------------


def test_registration_and_again_when_the_manager_was_away(make_forwarder, tmp_path):
    path = f"{tmp_path}/registrar.sock"
    forwarder = make_forwarder(env={"FORWARDER_REGISTRAR_SOCKET": path}).start()
    with Manager(f"unix:{path}") as manager:
        assert eventually(lambda: manager.followed)
        assert manager.registered == [forwarder.target.removeprefix("unix:")]
    with Manager(f"unix:{path}") as manager:
        assert eventually(lambda: manager.registered), forwarder.log
        assert forwarder.stop() == 0
        assert manager.unregistered == ["kernel-forwarder"]


def test_the_environment_of_a_deployment(make_forwarder, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        probes = f"127.0.0.1:{free.getsockname()[1]}"
    place = f"{tmp_path}/forwarder.sock"
    forwarder = make_forwarder(
        "--nsm", "default",
        env={"FORWARDER_SOCKET": place, "NSM_BASEDIR": str(tmp_path), "FORWARDER_PROBES": probes,
             "NSM_FORWARDER_SRC_IP": "127.0.0.1", "FORWARDER_NAME": "this-one"},
    )  # fmt: skip
    with Manager(f"unix:{tmp_path}/nsm.forwarder-registrar.io.sock") as manager:
        forwarder.start()
        assert eventually(lambda: manager.registered == [place])
        for path, status in (("liveness", 200), ("readiness", 200)):
            with urllib.request.urlopen(f"http://{probes}/{path}") as answer:
                assert (answer.status, answer.read()) == (status, b"OK")
        # the socket of a run that was killed is in nobody's way
        forwarder.kill()
        forwarder.start()
        assert eventually(lambda: manager.registered == [place] * 2)


@pytest.mark.parametrize(
    ("flags", "env", "words"),
    [
        (["--nsm", "nonsense"], {}, "neither unix:/PATH nor HOST:PORT"),
        ([], {"NSM_FORWARDER_SRC_IP": "10.11.12.13"}, "no interface of this host"),
        ([], {"NSM_FORWARDER_SRC_IP": "x"}, "NSM_FORWARDER_SRC_IP"),
        ([], {"FORWARDER_VXLAN_PORT": "0"}, "FORWARDER_VXLAN_PORT"),
    ],
)
def test_settings_that_cannot_be(make_forwarder, flags, env, words):
    forwarder = make_forwarder(*flags, env=env)
    forwarder.launch()
    assert forwarder.wait() == 1
    assert words in forwarder.log


# -- what cannot be ----------------------------------------------------------------------------------


def without(field):
    def change(asked):
        asked.ClearField(field)

    return change


def parameter(side, name, value):
    def change(asked):
        getattr(asked, side).mechanism.parameters[name] = value

    return change


def kind(side, value):
    def change(asked):
        getattr(asked, side).mechanism.type = value

    return change


def tunnel(**parameters):
    def change(asked):
        asked.destination.mechanism.CopyFrom(vxlan("192.0.2.1", "192.0.2.2", 5))
        asked.destination.mechanism.parameters.update(parameters)

    return change


def source_address(value):
    def change(asked):
        asked.source.context.ip_context.src_ip_addrs[:] = [value]

    return change


BAD = {
    "no id": (without("id"), "INVALID_ARGUMENT", "id: is empty"),
    "no source": (without("source"), "INVALID_ARGUMENT", "source: is missing"),
    "no payload": (without("payload"), "INVALID_ARGUMENT", "payload"),
    "long id": (lambda a: setattr(a, "id", "x" * 300), "INVALID_ARGUMENT", "id"),
    "no name": (parameter("source", "name", ""), "INVALID_ARGUMENT", "source.mechanism.parameters[name]"),
    "long name": (parameter("source", "name", "x" * 16), "INVALID_ARGUMENT", "a.ifname"),
    "huge name": (parameter("source", "name", "\N{MOUSE}" * 100_000), "INVALID_ARGUMENT", "a.ifname"),
    "slash": (parameter("destination", "name", "a/b"), "INVALID_ARGUMENT", "b.ifname"),
    "no inode": (parameter("source", "netnsInode", ""), "INVALID_ARGUMENT", "netnsInode"),
    "odd inode": (parameter("source", "netnsInode", "-1"), "INVALID_ARGUMENT", "netnsInode"),
    "unknown inode": (parameter("destination", "netnsInode", "12345"), "NOT_FOUND", "netns_not_found"),
    "mechanism": (kind("source", "MEMIF"), "UNIMPLEMENTED", "MEMIF"),
    "two tunnels": (lambda a: (tunnel()(a), kind("source", "VXLAN")(a)), "UNIMPLEMENTED", "VXLAN"),
    "vni": (tunnel(vni="16777216"), "INVALID_ARGUMENT", "destination.mechanism.parameters[vni]"),
    "no vni": (tunnel(vni=""), "INVALID_ARGUMENT", "vni"),
    "tunnel address": (tunnel(dst_ip="far"), "INVALID_ARGUMENT", "dst_ip"),
    "address": (source_address("10.0.0.300/24"), "INVALID_ARGUMENT", "source.context.ip_context.src_ip_addrs[0]"),
    "name in use": (parameter("source", "name", "lo"), "ALREADY_EXISTS", "ifname_in_use"),
    "index": (lambda a: setattr(a.source.path, "index", 9), "INVALID_ARGUMENT", "path.index"),
    "policies": (
        lambda a: a.source.context.ip_context.policies.add(proto="x"), "INVALID_ARGUMENT", "policies[0].proto",
    ),
    "no mechanism": (lambda a: a.source.ClearField("mechanism"), "UNIMPLEMENTED", "source.mechanism.type"),
    "newline": (parameter("source", "name", "a\nb"), "INVALID_ARGUMENT", "a.ifname"),
    "huge inode": (parameter("source", "netnsInode", "9" * 5000), "INVALID_ARGUMENT", "netnsInode"),
    "no namespace": (parameter("source", "inodeURL", "file:///dev/null"), "NOT_FOUND", "netns_not_found"),
    "no file": (parameter("source", "inodeURL", "file:///nothing/here"), "NOT_FOUND", "netns_not_found"),
    "no process": (parameter("source", "inodeURL", "file:///proc/999999999/ns/net"), "NOT_FOUND", "999999999"),
    "mac": (lambda a: setattr(a.source.context.ethernet_context, "src_mac", "x"), "INVALID_ARGUMENT", "a.mac"),
    "multicast mac": (
        lambda a: setattr(a.source.context.ethernet_context, "dst_mac", "01:00:5e:00:00:01"),
        "INVALID_ARGUMENT", "b.mac",
    ),
    "mtu": (lambda a: setattr(a.source.context, "mtu", 1 << 31), "INVALID_ARGUMENT", "mtu"),
    "route": (lambda a: a.source.context.ip_context.dst_routes.add(prefix="x"), "INVALID_ARGUMENT", "dst_routes[0]"),
    "neighbour": (
        lambda a: a.source.context.ip_context.ip_neighbors.add(ip="x", hardware_address="y"),
        "INVALID_ARGUMENT", "neighbours[0]",
    ),
    "peer's address": (
        lambda a: a.source.context.ip_context.dst_ip_addrs.append("fe80::/200"), "INVALID_ARGUMENT", "dst_ip_addrs[1]",
    ),
    "negative vni": (tunnel(vni="-1"), "INVALID_ARGUMENT", "vni"),
    "words as vni": (tunnel(vni="seven"), "INVALID_ARGUMENT", "vni"),
    "port": (tunnel(dst_port="70000"), "INVALID_ARGUMENT", "dst_port"),
    "two families": (tunnel(dst_ip="fd00::1"), "INVALID_ARGUMENT", "vxlan"),
    "address translation": (parameter("source", "IPTables4NatTemplate", "-A x"), "UNIMPLEMENTED", "IPTables4Nat"),
    "vlan": (parameter("source", "vlan", "5"), "UNIMPLEMENTED", "VLAN"),
    "vlan tag": (
        lambda a: setattr(a.source.context.ethernet_context, "vlan_tag", 5), "UNIMPLEMENTED", "vlan_tag",
    ),
    "too large": (lambda a: a.source.labels.update({"x": "y" * 1_000_000}), "INVALID_ARGUMENT", "too large"),
}  # fmt: skip


def test_what_cannot_be_says_so_and_leaves_nothing(forwarder, blue, red, links):
    nsm = forwarder.face()
    for what, (change, status, words) in BAD.items():
        asked = pair()
        change(asked)
        error = refused(nsm.cross.Request, asked)
        assert (error.code().name, words in error.details()) == (status, True), (what, error)
        assert set(links(blue)) == set(links(red)) == {"lo"}, what
    assert list(forwarder.client().list()) == []
    bare = pair()
    bare.source.ClearField("context")
    bare.destination.ClearField("context")
    nsm.cross.Request(bare, timeout=PATIENCE)  # a missing context is no mistake, it just asks for nothing
    nsm.cross.Request(pair(context=addresses()), timeout=PATIENCE)
    error = refused(nsm.cross.Request, pair("2"))
    assert error.code() == grpc.StatusCode.ALREADY_EXISTS and error.details().startswith("conflict: ")
    assert dict(error.trailing_metadata())["fastnl-code-bin"] == b"conflict"


def test_a_refused_update_leaves_what_there_was(forwarder, blue, red):
    nsm = forwarder.face()
    nsm.cross.Request(pair(), timeout=PATIENCE)
    asked = pair()
    asked.source.context.ip_context.dst_routes.add(prefix="224.0.0.0/4")
    asked.source.mechanism.parameters["name"] = "lo"
    refused(nsm.cross.Request, asked)
    assert ping(blue, "172.16.1.2")
    with Events(nsm.cross_monitor.MonitorCrossConnects(Empty())) as events:
        assert dict(events.next().cross_connects) == {"1": pair()}


def test_clients_that_go_away_leave_nothing_half_done(forwarder, blue, red, links):
    nsm = forwarder.face()
    calls = [nsm.cross.Request.future(pair(str(i), names=(f"n{i}", f"n{i}"))) for i in range(50)]
    for call in calls:
        call.cancel()
    nsm.cross.Request(pair("last"), timeout=PATIENCE)

    def agree():
        """Some had their answer on its way; of those all are sure, of the others there is nothing."""
        there = {row["id"].removeprefix("nsm/x/") for row in forwarder.client().list()}
        with Events(nsm.cross_monitor.MonitorCrossConnects(Empty())) as events:
            known = set(events.next().cross_connects)
        return "last" in there and known == there and set(links(blue)) == {
            "lo", "nsm0", *(f"n{i}" for i in there - {"last"})
        }  # fmt: skip

    assert eventually(agree)
    for i in range(50):
        nsm.cross.Close(CrossConnect(id=str(i)), timeout=PATIENCE)
    assert set(links(blue)) == {"lo", "nsm0"}


def test_one_id_is_worked_on_in_order(forwarder, blue, red, links):
    nsm = forwarder.face()
    for _ in range(5):
        calls = []
        for i in range(10):
            calls.append(nsm.cross.Request.future(pair(names=(f"n{i}", f"n{i}")), timeout=PATIENCE))
            calls.append(nsm.cross.Close.future(pair(), timeout=PATIENCE))
        for call in calls:
            call.result()
        nsm.cross.Close(pair(), timeout=PATIENCE)
        assert set(links(blue)) == set(links(red)) == {"lo"}


def test_streams_that_nobody_reads(forwarder, blue, red):
    nsm = forwarder.face()
    calls = [nsm.cross_monitor.MonitorCrossConnects(Empty()) for _ in range(500)]
    nsm.cross.Request(pair(), timeout=PATIENCE)
    assert ping(blue, "172.16.1.2")
    for call in calls:
        call.cancel()
    nsm.cross.Close(pair(), timeout=PATIENCE)


def test_nothing_grows(forwarder, blue, red):
    nsm, bad = forwarder.face(), pair("bad")
    bad.source.mechanism.parameters["name"] = "lo"

    def cycle():
        nsm.cross.Request(pair(), timeout=PATIENCE)
        with Events(nsm.cross_monitor.MonitorCrossConnects(Empty())) as events:
            events.next()
        refused(nsm.cross.Request, bad)
        nsm.cross.Close(pair(), timeout=PATIENCE)

    for _ in range(5):
        cycle()
    before = forwarder.held()
    for _ in range(30):
        cycle()
    assert eventually(lambda: forwarder.held() <= before), (forwarder.held(), before)


def test_many_at_once(forwarder, netns, links):
    nsm, rooms = forwarder.face(), netns.many(10)
    asked = [pair(str(i), rooms[i % 10], rooms[(i + 1 + i // 10 % 9) % 10], (f"a{i}", f"b{i}")) for i in range(200)]
    for one in asked:
        i = int(one.id)
        one.source.context.CopyFrom(addresses(f"10.0.{i}.1/30", f"10.0.{i}.2/30"))
    for call in [nsm.cross.Request.future(one, timeout=PATIENCE) for one in asked]:
        call.result()
    assert all(ping(rooms[i % 10], f"10.0.{i}.2") for i in range(0, 200, 20))
    for call in [nsm.cross.Close.future(one, timeout=PATIENCE) for one in asked]:
        call.result()
    assert all(set(links(room)) == {"lo"} for room in rooms)


def test_a_repeated_request_after_a_restart_finds_the_same_process(forwarder, blue, links):
    with spawn(["unshare", "--net", "sleep", "60"]) as process:
        own = os.stat("/proc/self/ns/net").st_ino
        assert eventually(lambda: inode_of(f"pid:{process.pid}") not in (own, None))
        number = inode_of(f"pid:{process.pid}")
        # named by a file of that process at first, by its number later
        asked = cross_connect("p", kernel("nsm0", inode(blue)), kernel("nsm0", number), addresses(*ADDRESSES))
        nsm = forwarder.face()
        by_file = CrossConnect()
        by_file.CopyFrom(asked)
        by_file.destination.mechanism.parameters["inodeURL"] = f"file:///proc/{process.pid}/ns/net"
        nsm.cross.Request(by_file, timeout=PATIENCE)
        # a name that comes later would be preferred
        subprocess.run(["ip", "netns", "attach", "late", str(process.pid)], check=True)
        try:
            index = links(blue)["nsm0"]["ifindex"]
            forwarder.hang_up()
            forwarder.kill()
            forwarder.start().resumed()
            forwarder.face().cross.Request(asked, timeout=PATIENCE)
            assert links(blue)["nsm0"]["ifindex"] == index
            forwarder.face().cross.Close(asked, timeout=PATIENCE)
        finally:
            subprocess.run(["ip", "netns", "del", "late"], check=True)
            process.kill()

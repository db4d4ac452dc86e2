"""The later generation's API, over real gRPC, on the real kernel, with a manager and endpoint that stand in."""

from __future__ import annotations

import asyncio
import subprocess
import time

import grpc
import pytest

from fastnl.testing import PATIENCE, eventually, ip_json, nsenter, ping
from fastnl_engine.adapters.nsm import modern as later
from fastnl_engine.adapters.nsm import settings
from fastnl_engine.adapters.nsm.errors import Refused
from fastnl_engine.adapters.nsm.inodes import Inodes, inode_of
from fastnl_engine.adapters.nsm.modern import Modern
from fastnl_engine.adapters.nsm.pb import connection_pb2
from fastnl_engine.adapters.nsm.pb.connection_pb2 import Connection, MonitorScopeSelector, PathSegment
from fastnl_engine.adapters.nsm.pb.crossconnect_pb2 import CrossConnect
from fastnl_engine.adapters.nsm.testing import Events, Forwarder, Manager, addresses, kernel, request, vxlan

ADDRESSES = ("172.16.1.1/32", "172.16.1.2/32")


def url(name):
    return f"inode://4/{inode_of(f'name:{name}')}"


def wish(netns="blue", name="nsm0"):
    return kernel(name, url(netns), generation=2)


@pytest.fixture
def manager(tmp_path):
    with Manager(f"unix:{tmp_path}/manager.sock") as manager:
        yield manager


@pytest.fixture
def forwarder(make_forwarder, manager, red):
    manager.endpoint, manager.context = kernel("nse0", url(red), generation=2), addresses(*ADDRESSES)
    forwarder = make_forwarder(env={"NSM_CONNECT_TO": manager.address.replace("unix:", "unix://"), "NSM_NAME": "fwd"})
    return forwarder.start()


def test_a_pair_between_client_and_endpoint(forwarder, manager, blue, red, links):
    nsm, asked = forwarder.face(), request("c1", wish())
    made = nsm.service.Request(asked, timeout=PATIENCE)
    assert ping(blue, "172.16.1.2") and ping(red, "172.16.1.1")
    # what the client gets is its own connection, with the whole way
    assert (made.id, made.path.index, made.mechanism) == ("c1", 0, wish())
    assert [s.name for s in made.path.path_segments] == ["client", "fwd", "manager"]
    assert list(made.context.ip_context.dst_ip_addrs) == ["172.16.1.2/32"]
    assert made.network_service_endpoint_name == "endpoint"
    [asked_of_manager] = manager.asked
    assert asked_of_manager.id == made.path.path_segments[1].id
    routes = ip_json(blue, "route", "show")
    assert [(r["dst"], r["dev"], r["scope"]) for r in routes] == [("172.16.1.2", "nsm0", "link")]

    # a refresh changes nothing
    index = links(blue)["nsm0"]["ifindex"]
    refresh = request("c1", wish())
    refresh.connection.CopyFrom(made)
    again = nsm.service.Request(refresh, timeout=PATIENCE)
    for segment in (*again.path.path_segments, *made.path.path_segments):
        segment.ClearField("metrics")
    assert again == made
    assert links(blue)["nsm0"]["ifindex"] == index

    nsm.service.Close(made, timeout=PATIENCE)
    assert set(links(blue)) == set(links(red)) == {"lo"}
    assert [c.id for c in manager.closed] == [made.path.path_segments[1].id]
    nsm.service.Close(made, timeout=PATIENCE)


def test_everything_that_a_context_says(forwarder, manager, blue, red, links):
    manager.context = addresses(
        ["10.0.0.1/24", "fd00::1/64"], ["10.0.0.2/24", "fd00::2/64"],
        src_routes=[{"prefix": "10.9.0.0/16"}, {"prefix": "10.8.0.0/16", "next_hop": "10.0.0.7"},
                    {"prefix": "10.0.0.64/26"}, {"prefix": "fd09::/48"}],
        dst_routes=[{"prefix": "10.7.0.0/16"}],
    )  # fmt: skip
    manager.context.mtu = 1400
    forwarder.face().service.Request(request("c1", wish()), timeout=PATIENCE)
    assert ping(blue, "10.0.0.2") and ping(blue, "fd00::2")
    routes = {r["dst"]: (r.get("gateway"), r.get("flags", [])) for r in ip_json(blue, "route", "show")}
    assert routes == {
        "10.0.0.0/24": (None, []), "10.9.0.0/16": ("10.0.0.2", ["onlink"]),
        "10.8.0.0/16": ("10.0.0.7", ["onlink"]), "10.0.0.64/26": (None, []),
    }  # fmt: skip
    v6 = {r["dst"]: r.get("gateway") for r in ip_json(blue, "-6", "route", "show", "dev", "nsm0")}
    assert v6["fd09::/48"] == "fd00::2"
    assert "10.7.0.0/16" in {r["dst"] for r in ip_json(red, "route", "show")}
    assert links(blue)["nsm0"]["mtu"] == links(red)["nse0"]["mtu"] == 1400


def test_what_went_through(forwarder, manager, blue, red):
    nsm = forwarder.face()
    made = nsm.service.Request(request("c1", wish()), timeout=PATIENCE)
    assert ping(blue, "172.16.1.2", count=3)
    refresh = request("c1", wish())

    def metrics():
        refresh.connection.CopyFrom(made)
        return nsm.service.Request(refresh, timeout=PATIENCE).path.path_segments[1].metrics

    assert eventually(lambda: int(metrics().get("server_rx_packets", 0)) >= 3)
    seen = metrics()
    assert set(seen) == {
        f"{side}_{what}" for side in ("server", "client")
        for what in ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "drops")
    }  # fmt: skip
    # what the client sends we receive, and send to the endpoint
    assert int(seen["client_tx_packets"]) >= 3
    with Events(nsm.monitor.MonitorConnections(MonitorScopeSelector())) as events:
        [connection] = events.next().connections.values()
        assert int(connection.path.path_segments[1].metrics["server_rx_bytes"]) > 0


def rules_of(netns, version="-4"):
    """Those that are not the kernel's."""
    return [r for r in ip_json(netns, version, "rule", "show") if r["table"] not in ("local", "main", "default")]


def test_policy_routes_in_tables_of_their_own(forwarder, manager, blue, red, links):
    policies = [
        {"from": "172.16.9.0/24", "proto": "6", "dst_port": "80-90", "src_port": "2000",
         "routes": [{"prefix": "10.1.0.0/16", "next_hop": "172.16.1.2"}, {"prefix": "10.2.0.0/16"}]},
        {"from": "172.16.8.1/32"}, {"from": "fd08::/64"}, {"proto": "17"},
    ]  # fmt: skip
    manager.context = addresses(["172.16.1.1/24"], ["172.16.1.2/24"], policies=policies)
    nsm = forwarder.face()
    made = nsm.service.Request(request("c1", wish()), timeout=PATIENCE)
    web, one, udp = sorted(rules_of(blue), key=lambda r: [r["src"] != "172.16.9.0", r["src"] != "172.16.8.1"])
    assert (web["src"], web["srclen"], web["ipproto"], web["dport_start"], web["dport_end"], web["sport"]) == (
        "172.16.9.0", 24, "tcp", 80, 90, 2000,
    )  # fmt: skip
    assert one["src"] == "172.16.8.1" and (udp["src"], udp["ipproto"]) == ("all", "udp")
    [six] = rules_of(blue, "-6")
    tables = [r["table"] for r in (web, one, udp, six)]
    assert len(set(tables)) == 4

    def table(number, version="-4"):
        return {(r["dst"], r.get("gateway")) for r in ip_json(blue, version, "route", "show", "table", str(number))}

    assert table(tables[0]) == {("10.1.0.0/16", "172.16.1.2"), ("10.2.0.0/16", None)}
    assert table(tables[1]) == table(tables[2]) == {("default", None)} and table(tables[3], "-6") == {("default", None)}
    assert rules_of(red) == []  # they are about what the client sends

    # another connection of that namespace has its own
    manager.endpoint = kernel("nse1", url(red), generation=2)
    other = nsm.service.Request(request("c2", wish(name="nsm1")), timeout=PATIENCE)
    assert len({r["table"] for r in rules_of(blue)}) == 6
    nsm.service.Close(other, timeout=PATIENCE)
    assert sorted(r["table"] for r in rules_of(blue)) == sorted(tables[:3])

    # a refresh with other routes of the same policy keeps its table; what is not asked for any more goes
    manager.endpoint = kernel("nse0", url(red), generation=2)
    refresh = request("c1", wish())
    refresh.connection.CopyFrom(made)
    del refresh.connection.context.ip_context.policies[1:]
    del refresh.connection.context.ip_context.policies[0].routes[1:]
    forwarder.hang_up()
    forwarder.kill()
    forwarder.start().resumed()
    nsm = forwarder.face()
    nsm.service.Request(refresh, timeout=PATIENCE)
    assert [r["table"] for r in rules_of(blue)] == tables[:1] and rules_of(blue, "-6") == []
    assert table(tables[0]) == {("10.1.0.0/16", "172.16.1.2")}
    nsm.service.Close(made, timeout=PATIENCE)
    assert rules_of(blue) == rules_of(blue, "-6") == []


def test_policies_that_cannot_be(forwarder, manager, blue, red, links):
    for policy, words in [
        ({"from": "x"}, "policies[0].from"), ({"proto": "tcp"}, "policies[0].proto"),
        ({"dst_port": "9-1"}, "policies[0].dst_port"), ({"src_port": "0"}, "policies[0].src_port"),
        ({"from": "10.0.0.0/8", "routes": [{"prefix": "fd00::/64"}]}, "IPv4 and IPv6"),
        ({"routes": [{"prefix": ""}]}, "routes[0].prefix"),
        ({"routes": [{"prefix": "10.0.0.0/8", "next_hop": "y"}]}, "routes[0].nextHop"),
    ]:  # fmt: skip
        manager.context = addresses(*ADDRESSES, policies=[policy])
        code, details = refused(forwarder, request("c1", wish()))
        assert (code, words in details) == ("INVALID_ARGUMENT", True), details
    assert set(links(blue)) == set(links(red)) == {"lo"}


def sysctl(netns, name):
    path = f"/proc/sys/net/{name}"
    return subprocess.run(nsenter(netns, "cat", path), check=True, capture_output=True, text=True).stdout.split()


def test_what_a_namespace_is_set_to(forwarder, manager, blue, red):
    asked = request("c1", wish())
    asked.mechanism_preferences[0].parameters["routeLocalNet"] = "true"
    nsm = forwarder.face()
    made = nsm.service.Request(asked, timeout=PATIENCE)
    assert sysctl(blue, "ipv4/conf/nsm0/route_localnet") == ["1"]
    assert sysctl(red, "ipv4/conf/nse0/route_localnet") == ["0"]
    assert sysctl(blue, "ipv4/ping_group_range") == sysctl(red, "ipv4/ping_group_range") == ["0", "2147483647"]
    asked.connection.CopyFrom(made)
    asked.connection.mechanism.parameters["routeLocalNet"] = "false"
    nsm.service.Request(asked, timeout=PATIENCE)
    assert sysctl(blue, "ipv4/conf/nsm0/route_localnet") == ["0"]


def test_ping_groups_are_left_alone_where_that_is_wanted(make_forwarder, manager, blue, red):
    manager.endpoint, manager.context = kernel("nse0", url(red), generation=2), addresses(*ADDRESSES)
    env = {"NSM_CONNECT_TO": manager.address.replace("unix:", "unix://"), "NSM_PING_GROUP_RANGE": ""}
    before = sysctl(blue, "ipv4/ping_group_range")
    make_forwarder(env=env).start().face().service.Request(request("c1", wish()), timeout=PATIENCE)
    assert sysctl(blue, "ipv4/ping_group_range") == before


def test_a_client_that_names_no_interface(forwarder, blue, links):
    made = forwarder.face().service.Request(request("c1", kernel("", url(blue), generation=2)), timeout=PATIENCE)
    name = made.mechanism.parameters["name"]
    assert len(name) == 15 and name in links(blue)


def test_expiry_and_refresh(forwarder, manager, blue, red, links):
    nsm = forwarder.face()
    began = time.monotonic()
    made = nsm.service.Request(request("short", wish(), lifetime=5), timeout=PATIENCE)
    with Events(nsm.monitor.MonitorConnections(MonitorScopeSelector())) as events:
        events.next()
        # refreshed, it lives on
        nsm.service.Request(request("short", wish(), lifetime=PATIENCE), timeout=PATIENCE)
        assert events.next().type == connection_pb2.UPDATE
        time.sleep(max(0.0, began + 5.2 - time.monotonic()))
        assert "nsm0" in links(blue)
        nsm.service.Request(request("short", wish(), lifetime=1), timeout=PATIENCE)
        assert events.next().type == connection_pb2.UPDATE
        assert events.next().type == connection_pb2.DELETE
    assert set(links(blue)) == set(links(red)) == {"lo"}
    assert len(manager.closed) == 1 and made.id == "short"
    with pytest.raises(grpc.RpcError) as caught:
        nsm.service.Request(request("late", wish(), lifetime=-1), timeout=PATIENCE)
    assert caught.value.details().startswith("expired: ")


def test_reselect_goes_another_way(forwarder, manager, netns, blue, red, links):
    nsm = forwarder.face()
    made = nsm.service.Request(request("c1", wish()), timeout=PATIENCE)
    manager.endpoint = kernel("nse0", url(netns.make("green")), generation=2)
    again = request("c1", wish())
    again.connection.CopyFrom(made)
    again.connection.state = connection_pb2.RESELECT_REQUESTED
    made = nsm.service.Request(again, timeout=PATIENCE)
    assert made.state == connection_pb2.UP and len(manager.closed) == 1
    assert ping(blue, "172.16.1.2") and "nse0" in links("green") and set(links(red)) == {"lo"}


def test_monitors_with_selectors(forwarder, manager, netns, blue):
    netns.make("green")
    nsm = forwarder.face()
    made = nsm.service.Request(request("c1", wish()), timeout=PATIENCE)
    ours = made.path.path_segments[1].id

    def sees(**selector):
        with Events(nsm.monitor.MonitorConnections(MonitorScopeSelector(**selector))) as events:
            event = events.next()
            assert event.type == connection_pb2.INITIAL_STATE_TRANSFER
            return set(event.connections)

    assert sees() == {ours}
    assert sees(path_segments=[PathSegment(name="client")]) == {ours}
    assert sees(path_segments=[PathSegment(id="c1"), PathSegment(name="fwd")]) == {ours}
    assert sees(path_segments=[PathSegment(name="fwd"), PathSegment()]) == {ours}
    assert sees(path_segments=[PathSegment(name="fwd"), PathSegment(id="c1")]) == set()
    assert sees(path_segments=[PathSegment()] * 4) == set()
    assert sees(network_services=["icmp-responder"]) == {ours} and sees(network_services=["x"]) == set()
    manager.endpoint = kernel("nse1", url("green"), generation=2)
    with Events(nsm.monitor.MonitorConnections(MonitorScopeSelector(path_segments=[PathSegment(id="c1")]))) as events:
        events.next()
        manager.context = addresses("172.16.2.1/32", "172.16.2.2/32")
        nsm.service.Request(request("c2", wish(name="nsm1")), timeout=PATIENCE)
        netns.let_go("red")
        event = events.next()
        assert (event.type, event.connections[ours].state) == (connection_pb2.UPDATE, connection_pb2.DOWN)


def test_a_restart_heals_and_still_closes_what_expires(forwarder, manager, blue, red, links):
    made = forwarder.face().service.Request(request("c1", wish()), timeout=PATIENCE)
    index = links(blue)["nsm0"]["ifindex"]
    forwarder.hang_up()
    forwarder.kill()
    forwarder.start().resumed()
    again = forwarder.face().service.Request(request("c1", wish(), lifetime=10), timeout=PATIENCE)
    assert [s.id for s in again.path.path_segments] == [s.id for s in made.path.path_segments]
    assert links(blue)["nsm0"]["ifindex"] == index and ping(blue, "172.16.1.2")
    forwarder.hang_up()
    forwarder.kill()
    forwarder.start()
    assert eventually(lambda: set(links(blue)) == set(links(red)) == {"lo"})
    assert eventually(lambda: len(manager.closed) == 1)


def test_a_connection_between_hosts(make_forwarder, hosts, tmp_path, blue, red, links):
    faces, managers, forwarders = {}, {}, {}
    try:
        for host, address in hosts.items():
            managers[host] = Manager(f"unix:{tmp_path}/{host}.sock", host).start()
            forwarders[host] = make_forwarder(
                prefix=nsenter(host),
                env={"NSM_CONNECT_TO": f"unix://{tmp_path}/{host}.sock", "NSM_TUNNEL_IP": address,
                     "NSM_NAME": f"fwd-{host}"},
            ).start()  # fmt: skip
            faces[host] = forwarders[host].face()
        managers["host1"].remote = Forwarder(forwarders["host2"].target)
        managers["host2"].endpoint = kernel("nse0", url(red), generation=2)
        managers["host2"].context = addresses(*ADDRESSES)
        made = faces["host1"].service.Request(request("c1", wish()), timeout=PATIENCE)
        assert ping(blue, "172.16.1.2") and ping(red, "172.16.1.1", size=1422)
        assert [s.name for s in made.path.path_segments] == ["client", "fwd-host1", "host1", "fwd-host2", "host2"]
        data = {netns: links(netns)[name] for netns, name in ((blue, "nsm0"), (red, "nse0"))}
        assert {d["mtu"] for d in data.values()} == {1450} and made.context.mtu == 1450
        tunnels = [d["linkinfo"]["info_data"] for d in data.values()]
        assert {t["port"] for t in tunnels} == {4789} and tunnels[0]["id"] == tunnels[1]["id"]
        # a refresh keeps the number
        refresh = request("c1", wish())
        refresh.connection.CopyFrom(made)
        indexes = [d["ifindex"] for d in data.values()]
        faces["host1"].service.Request(refresh, timeout=PATIENCE)
        assert [links(blue)["nsm0"]["ifindex"], links(red)["nse0"]["ifindex"]] == indexes
        faces["host1"].service.Close(made, timeout=PATIENCE)
        assert set(links(blue)) == set(links(red)) == {"lo"}
    finally:
        for manager in managers.values():
            if manager.remote is not None:
                manager.remote.channel.close()
            manager.stop()


def test_a_client_that_goes_away_leaves_nothing(forwarder, manager, blue, red, links):
    nsm, manager.delay = forwarder.face(), 0.5
    call = nsm.service.Request.future(request("c1", wish()), timeout=PATIENCE)
    assert eventually(lambda: manager.asked)
    call.cancel()
    assert eventually(lambda: manager.closed)
    assert eventually(lambda: list(forwarder.client().list()) == [])
    assert set(links(blue)) == set(links(red)) == {"lo"}
    # a refresh that is given up leaves what there was
    nsm.service.Request(request("c1", wish()), timeout=PATIENCE)
    call = nsm.service.Request.future(request("c1", wish()), timeout=PATIENCE)
    assert eventually(lambda: len(manager.asked) == 3)
    call.cancel()
    nsm.service.Request(request("c1", wish()), timeout=PATIENCE)  # after what went on
    assert ping(blue, "172.16.1.2") and len(manager.closed) == 1


def test_a_close_takes_its_turn(forwarder, manager, blue, red, links):
    nsm, manager.delay, asked = forwarder.face(), 0.5, request("c1", wish())
    call = nsm.service.Request.future(asked, timeout=PATIENCE)
    assert eventually(lambda: manager.asked)
    nsm.service.Close(asked.connection, timeout=PATIENCE)
    assert call.result().id == "c1"
    assert set(links(blue)) == set(links(red)) == {"lo"} and len(manager.closed) == 1


def test_a_close_that_fails_says_so(forwarder, manager, blue, red, links):
    nsm = forwarder.face()
    made = nsm.service.Request(request("c1", wish()), timeout=PATIENCE)
    manager.stop()
    with pytest.raises(grpc.RpcError) as caught:
        nsm.service.Close(made, timeout=PATIENCE)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    # what is ours is gone all the same, so closing again has nothing to do
    assert set(links(blue)) == set(links(red)) == {"lo"}
    nsm.service.Close(made, timeout=PATIENCE)


def test_a_number_that_is_taken():
    async def run():
        modern = Modern(None, Inodes(), settings.Settings("unix:/x", tunnel_ip="192.0.2.2"), None, None, None, None)
        tried = []

        async def wire(id_, source, destination, cross):
            tried.append(cross.source.mechanism.parameters["vni"])
            if len(tried) < 3:
                raise Refused({"code": "vni_in_use", "message": "taken"})

        modern.plane.wire = wire
        ours = Connection(id="x", mechanism=vxlan("192.0.2.1", "192.0.2.2", 5))
        cross = await modern._wire(ours, Connection(mechanism=wish_of(5)))
        assert tried[0] == "5" and len(set(tried)) == 3
        assert cross.source.mechanism.parameters["vni"] == tried[2]
        # each of two hosts that choose for one another has its own half
        assert all(modern._new_vni("192.0.2.1") % 2 == 0 for _ in range(100))
        assert all(modern._new_vni("192.0.2.3") % 2 == 1 for _ in range(100))

    asyncio.run(run())


def test_what_has_expired_is_closed_again_when_that_fails(monkeypatch):
    monkeypatch.setattr(later, "LATER", 0.01)

    async def run():
        modern = Modern(None, Inodes(), settings.Settings("unix:/x"), later.Way(settings.Settings("unix:/x"), "", None),
                        None, None, None)  # fmt: skip
        ours = later.arrive(request("c1", wish_of(5), lifetime=0).connection, "fwd")
        cross = modern.plane.known["x"] = CrossConnect(id="x", source=ours)
        tried, closed = [], asyncio.Event()

        async def unwire(id_):
            tried.append(id_)
            if len(tried) < 3:
                raise Refused({"code": "kernel", "message": "busy"})
            closed.set()

        modern.plane.unwire = unwire
        modern._expire("x", cross)
        async with asyncio.timeout(PATIENCE):
            await closed.wait()

    asyncio.run(run())


def wish_of(inode):
    return kernel("nse0", f"inode://4/{inode}", generation=2)


def test_registered_as_an_endpoint(forwarder, manager):
    assert eventually(lambda: manager.endpoints)
    [endpoint] = manager.endpoints
    assert (endpoint.name, list(endpoint.network_service_names)) == ("fwd", ["forwarder"])
    assert endpoint.url == forwarder.target.replace("unix:", "unix://")
    assert forwarder.stop() == 0
    assert manager.unregistered == ["fwd"]


def test_registered_again_when_the_registry_was_away(forwarder, manager):
    for _ in range(2):
        assert eventually(lambda: manager.endpoints)
        manager.stop()
        manager.endpoints.clear()
        manager.start()


def test_a_registration_is_refreshed_before_it_expires(make_forwarder, manager):
    env = {"NSM_CONNECT_TO": manager.address.replace("unix:", "unix://"), "NSM_MAX_TOKEN_LIFETIME": "3s"}
    make_forwarder(env=env).start()
    assert eventually(lambda: len(manager.endpoints) > 2)
    first, second = manager.endpoints[:2]
    assert second.expiration_time.ToMicroseconds() > first.expiration_time.ToMicroseconds()


def refused(forwarder, asked):
    with pytest.raises(grpc.RpcError) as caught:
        forwarder.face().service.Request(asked, timeout=PATIENCE)
    return caught.value.code().name, caught.value.details()


def test_what_cannot_be_says_so_and_leaves_nothing(forwarder, manager, blue, red, links):
    def side(**parameters):
        return lambda a: a.mechanism_preferences[0].parameters.update(**parameters)

    bad = [
        (lambda a: a.connection.ClearField("id"), "INVALID_ARGUMENT", "connection.id"),
        (lambda a: a.connection.ClearField("path"), "INVALID_ARGUMENT", "connection.path"),
        (lambda a: setattr(a.connection.path, "index", 3), "INVALID_ARGUMENT", "connection.path.index"),
        (lambda a: setattr(a.connection, "id", "other"), "INVALID_ARGUMENT", "connection.id"),
        (lambda a: a.ClearField("mechanism_preferences"), "UNIMPLEMENTED", "none"),
        (lambda a: setattr(a.mechanism_preferences[0], "type", "MEMIF"), "UNIMPLEMENTED", "MEMIF"),
        (lambda a: setattr(a.mechanism_preferences[0], "type", "VXLAN"), "UNIMPLEMENTED", "VXLAN"),
        (side(inodeURL="ftp://x"), "INVALID_ARGUMENT", "inodeURL"),
        (side(inodeURL="inode://4/77"), "NOT_FOUND", "netns_not_found"),
        (side(name="lo"), "ALREADY_EXISTS", "ifname_in_use"),
        (side(name="x" * 16), "INVALID_ARGUMENT", "a.ifname"),
        (side(name="a/b"), "INVALID_ARGUMENT", "a.ifname"),
        (side(routeLocalNet="true", IPTables4NatTemplate="-A x"), "UNIMPLEMENTED", "IPTables4NatTemplate"),
        (lambda a: a.connection.context.ip_context.src_ip_addrs.append("300.0.0.1"), "INVALID_ARGUMENT", "src_ip"),
        (side(vlan="5"), "UNIMPLEMENTED", "VLAN"),
    ]  # fmt: skip
    for n, (change, status, words) in enumerate(bad):
        asked = request(f"c{n}", wish())
        change(asked)
        code, details = refused(forwarder, asked)
        assert (code, words in details) == (status, True), (n, code, details)
        assert set(links(blue)) == set(links(red)) == {"lo"}
    # the endpoint is told of each that it had agreed to
    assert len(manager.asked) == len(manager.closed) == 8
    manager.refusal = (grpc.StatusCode.RESOURCE_EXHAUSTED, "no more addresses")
    assert refused(forwarder, request("x", wish())) == ("RESOURCE_EXHAUSTED", "no more addresses")
    assert list(forwarder.client().list()) == []


def test_without_a_manager(make_forwarder, blue):
    code, details = refused(make_forwarder().start(), request("c1", wish()))
    assert code == "FAILED_PRECONDITION" and "NSM_CONNECT_TO" in details

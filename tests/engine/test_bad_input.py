"""Whatever a client asks for: a clear error for that item, the rest of the batch done, nothing left behind."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgpack
import pytest

from fastnl.testing import Census, Namespaces, eventually, ip_json, nsenter, ping, spawn
from fastnl_engine.client import Client
from fastnl_engine.planner import Job
from fastnl_engine.testing import EngineProcess, RawSocket, end, pair, tunnel

FIRST = pair("first", end("blue", "f0", "10.1.0.1/24"), end("red", "f0", "10.1.0.2/24"))
LAST = pair("last", end("blue", "l0", "10.2.0.1/24"), end("red", "l0", "10.2.0.2/24"))
GOOD = pair("bad", end("blue", "e0", "10.3.0.1/24"), end("red", "e0", "10.3.0.2/24"))

Result = dict[str, Any]


@pytest.fixture
def engine(shared_engine: EngineProcess) -> EngineProcess:
    return shared_engine


@pytest.fixture
def rooms(netns: Namespaces) -> Namespaces:
    for name in ("blue", "red"):
        netns.make(name)
    return netns


def bad(**changes: Any) -> dict[str, Any]:
    """GOOD with one thing wrong; a name like a__mtu means a field of an end."""
    out = {**GOOD, "a": dict(GOOD["a"]), "b": dict(GOOD["b"])}
    for path, value in changes.items():
        *where, name = path.split("__")
        target = out[where[0]] if where else out
        if value is ...:
            del target[name]
        else:
            target[name] = value
    return out


def fails_alone(client: Client, job: Any, code: str, field: str | None, *, number: int = 0, id: Any = "bad") -> Result:
    """The one job is refused as told, what comes with it is done, and it leaves nothing; gives the error."""
    before = Census.take().interfaces
    first, result, last = client.connect([FIRST, job, LAST])
    assert (first["ok"], last["ok"]) == (True, True), (first, last)
    assert result["ok"] is False and result["id"] == id
    error: Result = result["error"]
    assert (error["code"], error.get("field"), error.get("errno", 0)) == (code, field, number), error
    assert error["message"]
    assert ping("blue", "10.1.0.2") and ping("blue", "10.2.0.2")
    assert all(v["ok"] for v in client.verify())
    assert {row["id"] for row in client.list()} == {"first", "last"}
    assert all(r["changed"] for r in client.disconnect(["first", "last"]))
    assert Census.take().interfaces == before
    # and nothing of it is remembered: its names can be had by another
    if error["code"] not in ("ifname_in_use", "no_permission"):
        [again] = client.connect([GOOD | {"id": "another"}])
        assert again["ok"], again
        client.disconnect(["another"])
    return error


def unharmed(raw: RawSocket) -> bool:
    """The engine serves, and does what it is asked to."""
    return raw.request(id="alive", op="info")["ok"] is True


# -- requests that are none ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\x00",
        os.urandom(64),
        os.urandom(100_000),
        msgpack.packb({"v": 1, "id": 1, "op": "info"})[:-1],
        msgpack.packb({"v": 1, "id": 1, "op": "info"}) * 2,
        b"\x81\xa1v" + b"\x91" * 100_000 + b"\xc0",
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa1v\xdd\xff\xff\xff\xff",
        b"\x81\xa1v\xc9\xff\xff\xff\xff\x01",
        msgpack.packb(msgpack.ExtType(42, b"x")),
    ],
    ids=range(12),
)
def test_undecodable_msgpack_is_a_bad_request(raw, frame):
    reply = raw.request(frame)
    # random bytes may by chance be a map without a version
    assert (reply["ok"], reply["id"]) == (False, None)
    assert reply["error"]["code"] in ("bad_request", "unsupported_version")
    assert unharmed(raw)


@pytest.mark.parametrize("version", [0, 2, "1", None, True, 1.0, [1]])
def test_a_wrong_version_is_refused_with_the_id_of_the_request(raw, version):
    reply = raw.request(msgpack.packb({"v": version, "id": "r", "op": "connect", "connections": [GOOD]}))
    assert (reply["v"], reply["id"], reply["ok"]) == (1, "r", False)
    assert (reply["error"]["code"], reply["error"]["field"]) == ("unsupported_version", "v")
    assert unharmed(raw)


@pytest.mark.parametrize("op", ["destroy", "", 5, None, ["connect"]])
def test_an_unknown_op_is_refused(raw, op):
    reply = raw.request(id=b"r", op=op)
    assert (reply["id"], reply["error"]["code"], reply["error"]["field"]) == (b"r", "unknown_op", "op")
    assert unharmed(raw)


def test_a_request_that_is_refused_does_none_of_its_items(raw, rooms):
    reply = raw.request(id=1, op="connect", connections=[GOOD], wait="yes")
    assert (reply["error"]["code"], reply["error"]["field"]) == ("bad_request", "wait")
    assert raw.request(id=2, op="list")["results"] == []


# -- wrong types -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "field"),
    [
        (bad(kind="teapot"), "kind"),
        (bad(kind=5), "kind"),
        (bad(kind=...), None),
        (bad(a=...), None),
        (bad(a="blue/e0"), "a"),
        (bad(a__netns=...), "a"),
        (bad(a__netns=None), "a.netns"),
        (bad(b__ifname=5), "b.ifname"),
        (bad(b__ifname=b"e0"), "b.ifname"),
        (bad(a__addresses="10.0.0.1/24"), "a.addresses"),
        (bad(a__addresses=["10.0.0.1/24", 5]), "a.addresses[1]"),
        (bad(a__addresses=[["10.0.0.1/24"]]), "a.addresses[0]"),
        (bad(a__mtu="1500"), "a.mtu"),
        (bad(a__mtu=1500.5), "a.mtu"),
        (bad(a__mtu=True), "a.mtu"),
        (bad(mtu=2**63), "mtu"),
        (bad(a__mac=5), "a.mac"),
        (bad(a__routes=[{}]), "a.routes[0]"),
        (bad(a__routes=[{"to": "10.0.0.0/8"}, {"to": "10.0.0.0/8", "metric": "low"}]), "a.routes[1].metric"),
        (bad(a__routes={"to": "10.0.0.0/8"}), "a.routes"),
        (bad(b__neighbours=[{"ip": "10.0.0.1"}]), "b.neighbours[0]"),
        (bad(b__neighbours=[{"ip": "10.0.0.1", "mac": 5}]), "b.neighbours[0].mac"),
        (bad(labels=["app"]), "labels"),
        (bad(labels={"app": 1}), "labels[...]"),
        (bad(color="green"), None),
        (bad(a__color="green"), "a"),
        (bad(b=...), "b"),
        (bad(vxlan={"vni": 1}), "vxlan"),
        (tunnel("bad", end("blue", "vx0")), "vxlan"),
        (tunnel("bad", end("blue", "vx0"), vni="42"), "vxlan.vni"),
        (tunnel("bad", end("blue", "vx0"), vni=1, port_range=[1]), "vxlan.port_range"),
        (tunnel("bad", end("blue", "vx0"), vni=1, ttl="forever"), "vxlan.ttl"),
        ({**tunnel("bad", end("blue", "vx0"), vni=1), "b": end("red", "vx0")}, "b"),
        ({"id": "bad", "kind": "vxlan", "a": end("blue", "vx0")}, "vxlan"),
    ],
)
def test_a_wrong_type_is_named_with_the_path_of_the_field(client, rooms, job, field):
    error = fails_alone(client, job, "invalid", field)
    assert field is None or error["message"].startswith(f"{field}: ")


@pytest.mark.parametrize("item", [None, 5, "bad", b"bad", [GOOD], True, {}, {"id": 5}, msgpack.Timestamp(0)])
def test_an_item_that_is_no_connection_fails_alone(client, rooms, item):
    fails_alone(client, item, "invalid", "id" if item == {"id": 5} else None, id="bad" if item == "bad" else None)


@pytest.mark.parametrize("id_", ["", "x" * 201, "é" * 101, "a\nb", "a\0b", "\x1b[31m"])
def test_an_id_that_cannot_be_is_invalid(client, rooms, id_):
    fails_alone(client, bad(id=id_), "invalid", "id", id=id_)


def test_items_of_disconnect_and_move_fail_alone_too(client, rooms):
    client.connect([FIRST, LAST])
    results = client.disconnect(["first", 5, None, "last"])
    assert [r["ok"] for r in results] == [True, False, False, True]
    assert [r.get("error", {}).get("code") for r in results] == [None, "invalid", "invalid", None]
    assert list(client.list()) == []
    results = client.move([5, {"id": "x"}, {"id": "x", "end": "a", "netns": "red"}])
    assert [r["error"]["code"] for r in results] == ["invalid", "invalid", "unknown_id"]
    assert [r["id"] for r in results] == [None, "x", "x"]


# -- values that cannot be -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "sixteen-bytes-at",
        "é" * 8,
        "a/b",
        "/",
        "a:b",
        "a b",
        " ",
        "a\tb",
        "a\nb",
        "e0 ",
        "\u00a0",
        "eth%d",
    ],
)
@pytest.mark.parametrize("which", ["a", "b"])
def test_a_name_that_no_interface_can_have_is_invalid(client, rooms, name, which):
    fails_alone(client, bad(**{f"{which}__ifname": name}), "invalid", f"{which}.ifname")


@pytest.mark.parametrize("name", ["a.b", "e0.100", "...", "fifteen-bytes-a", "é" * 7])
def test_dots_inside_a_name_and_fifteen_bytes_are_fine(client, rooms, name):
    [result] = client.connect([bad(a__ifname=name)])
    assert result["ok"], result
    assert name in {row["ifname"] for row in ip_json("blue", "link", "show")}


@pytest.mark.parametrize("b", ["blue", "name:blue", "file:/run/netns/blue"])
def test_both_ends_with_one_name_in_one_namespace_are_invalid(client, rooms, b):
    fails_alone(client, bad(b=end(b, "e0")), "invalid", "b.ifname")


def test_both_ends_in_one_namespace_with_two_names_are_fine(client, rooms):
    [result] = client.connect([pair("c", end("blue", "e0"), end("blue", "e1"))])
    assert result["ok"]


def test_an_id_twice_in_one_request_is_a_conflict_for_the_second_one(client, rooms):
    before = Census.take().interfaces
    other = bad(a=end("blue", "x0"), b=end("red", "x0"))
    results = client.connect([FIRST, GOOD, other, LAST])
    assert [r["ok"] for r in results] == [True, True, False, True]
    assert (results[2]["id"], results[2]["error"]["code"], results[2]["error"]["field"]) == ("bad", "conflict", "id")
    assert {row["ifname"] for row in ip_json("blue", "link", "show")} == {"lo", "f0", "e0", "l0"}
    results = client.disconnect(["first", "bad", "bad", "last"])
    assert [r["ok"] for r in results] == [True, True, False, True]
    assert results[2]["error"]["code"] == "conflict"
    assert Census.take().interfaces == before


def test_two_of_one_request_that_want_the_same_name_conflict(client, rooms):
    other = pair("other", end("red", "x0"), end("blue", "e0"))
    results = client.connect([GOOD, other, LAST])
    assert [r["ok"] for r in results] == [True, False, True]
    assert (results[1]["error"]["code"], results[1]["error"]["field"]) == ("conflict", "b.ifname")
    # the same name said in another way is seen when it comes to the kernel's business, and is as harmless
    other = pair("other", end("red", "x0"), end("file:/run/netns/blue", "e0"))
    client.disconnect(["bad"])
    results = client.connect([GOOD, other])
    assert [r["ok"] for r in results] == [True, False]
    assert results[1]["error"]["code"] in ("conflict", "ifname_in_use")
    assert all(v["ok"] for v in client.verify())


def test_an_address_twice_is_invalid(client, rooms):
    fails_alone(client, bad(a__addresses=["10.3.0.1/24", "10.4.0.1/24", "10.3.0.1/24"]), "invalid", "a.addresses[2]")
    fails_alone(client, bad(a__addresses=["fd00::1/64", "fd00:0::1/64"]), "invalid", "a.addresses[1]")


@pytest.mark.parametrize("mtu", [0, 1, 67, 65_536, -1, 2**40])
def test_an_mtu_under_68_or_over_the_kernels_maximum_is_invalid(client, rooms, mtu):
    fails_alone(client, bad(a__mtu=mtu), "invalid", "a.mtu")
    fails_alone(client, bad(mtu=mtu), "invalid", "mtu")


def test_the_smallest_and_the_largest_mtu_are_fine(client, rooms):
    assert client.connect([bad(a__mtu=68, b__mtu=65_535)])[0]["ok"]
    assert [ip_json(n, "link", "show", "e0")[0]["mtu"] for n in ("blue", "red")] == [68, 65_535]


def test_an_mtu_that_ipv6_does_not_allow_is_invalid(client, rooms):
    fails_alone(client, bad(a__mtu=1279, a__addresses=["fd00::1/64"]), "invalid", "a.mtu")


@pytest.mark.parametrize("vni", [-1, 1 << 24, 2**40])
def test_a_vni_over_24_bits_is_invalid(client, rooms, vni):
    fails_alone(client, tunnel("bad", end("blue", "vx0"), vni=vni, remote="192.0.2.1"), "invalid", "vxlan.vni")


def test_a_vni_in_use_by_another_connection_is_refused(client, rooms):
    client.connect([tunnel("has-it", end("red", "vx0"), vni=77, remote="192.0.2.1")])
    [result] = client.connect([tunnel("bad", end("blue", "vx0"), vni=77, remote="192.0.2.2")])
    assert (result["error"]["code"], result["error"]["field"]) == ("vni_in_use", "vxlan.vni")
    assert "has-it" in result["error"]["message"]
    client.disconnect(["has-it"])
    assert client.connect([tunnel("bad", end("blue", "vx0"), vni=77, remote="192.0.2.2")])[0]["ok"]


def test_a_vni_in_use_by_something_that_is_not_ours_is_refused_and_left_alone(client, rooms):
    rooms.make("host")
    subprocess.run(
        ["ip", "-n", "host", "link", "add", "foreign", "type", "vxlan", "id", "77", "remote", "192.0.2.1",
         "dstport", "4789", "dev", "lo"], check=True,
    )  # fmt: skip
    job = tunnel("bad", end("blue", "vx0"), vni=77, remote="192.0.2.2", underlay="host")
    fails_alone(client, job, "vni_in_use", "vxlan.vni", number=errno.EEXIST)
    assert ip_json("host", "link", "show", "foreign")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"a__addresses": ["10.0.0.1/33"]}, "a.addresses[0]"),
        ({"a__addresses": ["10.0.0.1/24", "300.1.1.1/8"]}, "a.addresses[1]"),
        ({"b__addresses": ["fd00::g/64"]}, "b.addresses[0]"),
        ({"b__addresses": ["224.0.0.1/4"]}, "b.addresses[0]"),
        ({"b__addresses": ["0.0.0.0/0"]}, "b.addresses[0]"),
        ({"a__mac": "02:00:00:00:00"}, "a.mac"),
        ({"a__mac": "01:00:00:00:00:01"}, "a.mac"),
        ({"a__mac": "00:00:00:00:00:00"}, "a.mac"),
        ({"a__routes": [{"to": "10.0.0.0/40"}]}, "a.routes[0].to"),
        ({"a__routes": [{"to": "10.0.0.0/8", "via": "fd00::1"}]}, "a.routes[0].via"),
        ({"a__routes": [{"to": "10.0.0.0/8", "metric": -1}]}, "a.routes[0].metric"),
        ({"a__routes": [{"to": "10.0.0.0/8", "onlink": True}]}, "a.routes[0].onlink"),
        ({"a__neighbours": [{"ip": "10.3.0.9", "mac": "nonsense"}]}, "a.neighbours[0].mac"),
        (
            {"a__neighbours": [{"ip": "10.3.0.9", "mac": "02:00:00:00:00:01", "state": "asleep"}]},
            "a.neighbours[0].state",
        ),
        ({"a__queues": 0}, "a.queues"),
        ({"a__txqlen": -1}, "a.txqlen"),
        ({"a__netns": "no/where"}, "a.netns"),
        ({"b__netns": "pid:0"}, "b.netns"),
        ({"b__netns": "what:ever"}, "b.netns"),
        ({"b__netns": "file:relative"}, "b.netns"),
        ({"b__netns": "x" * 256}, "b.netns"),
        ({"b__netns": "x" * 5000}, "b.netns"),
        ({"labels": {"a": "x" * 5000}}, "labels[...]"),
        ({"a__addresses": ["10.0.0.1/24"] * 4097}, "a.addresses"),
    ],
)
def test_a_value_that_cannot_be_is_named(client, rooms, changes, field):
    fails_alone(client, bad(**changes), "invalid", field)


@pytest.mark.parametrize(
    ("vxlan", "field"),
    [
        ({"port": 0}, "vxlan.port"),
        ({"port": 65_536}, "vxlan.port"),
        ({"local": "10.0.0.1", "remote": "fd00::1"}, "vxlan.remote"),
        ({"remote": "nowhere"}, "vxlan.remote"),
        ({"remote": "239.1.1.1"}, "vxlan.dev"),
        ({"dev": "a/b"}, "vxlan.dev"),
        ({"dev": "nodev0", "remote": "192.0.2.1"}, "vxlan.dev"),
        ({"ttl": 256}, "vxlan.ttl"),
        ({"label": 5, "remote": "192.0.2.1"}, "vxlan.label"),
        ({"gbp": True, "gpe": True}, "vxlan.gpe"),
        ({"vnifilter": True}, "vxlan.vnifilter"),
        ({"port_range": [5, 4]}, "vxlan.port_range[1]"),
        ({"underlay": "no/where"}, "vxlan.underlay"),
    ],
)
def test_a_tunnel_that_cannot_be_is_named(client, rooms, vxlan, field):
    fails_alone(client, tunnel("bad", end("blue", "vx0"), vni=42, **vxlan), "invalid", field)


# -- namespaces ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reference", ["nowhere", "name:nowhere", "file:/run/netns/nowhere", "file:/nowhere/x", "pid:4194304", "inode:1"]
)
def test_a_missing_namespace_is_not_found(client, rooms, reference):
    number = {"pid:4194304": errno.ESRCH}.get(reference, errno.ENOENT)
    error = fails_alone(client, bad(b__netns=reference), "netns_not_found", "b.netns", number=number)
    assert reference.removeprefix("name:") in error["message"]


def test_a_missing_underlay_is_not_found(client, rooms):
    job = tunnel("bad", end("blue", "vx0"), vni=1, underlay="nowhere")
    fails_alone(client, job, "netns_not_found", "vxlan.underlay", number=errno.ENOENT)


@pytest.mark.parametrize("what", ["plain", "fifo", "folder", "device", "socket", "other kind of namespace"])
def test_what_is_no_namespace_is_not_found_and_nothing_hangs_on_it(client, rooms, tmp_path, what):
    path = tmp_path / "what"
    if what == "plain":
        path.touch()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "socket":
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(str(path))
    else:
        path.symlink_to("/dev/zero" if what == "device" else "/proc/self/ns/uts")
    error = fails_alone(client, bad(b__netns=f"file:{path}"), "netns_not_found", "b.netns", number=errno.EINVAL)
    assert "no network namespace" in error["message"]


def test_a_plain_file_among_the_named_namespaces_is_not_found(client, rooms):
    # what `ip netns add` leaves where its mount does not propagate
    path = Path("/run/netns/plain")
    path.touch()
    try:
        error = fails_alone(client, bad(b__netns="plain"), "netns_not_found", "b.netns", number=errno.EINVAL)
        assert "plain file" in error["message"]
    finally:
        path.unlink()


def test_the_namespace_of_a_process_that_has_ended_is_not_found(client, rooms):
    process = spawn(["sleep", "100"])
    reference = f"pid:{process.pid}"
    assert client.connect([pair("c", end("blue", "p0"), end(reference, "p0"))])[0]["ok"]
    client.disconnect(["c"])
    process.kill()
    process.wait()
    fails_alone(client, bad(b__netns=reference), "netns_not_found", "b.netns", number=errno.ESRCH)


@pytest.mark.parametrize("wait", [False, True])
def test_a_namespace_that_disappears_between_check_and_use_is_gone(rooms, in_process, wait):
    before = Census.take().interfaces
    rooms.make("going")

    def let_go(*_: Any) -> None:
        # the visit is over, and the namespaces are still open: the next moment they are let go
        if "going" in list(rooms):
            rooms.let_go("going")

    in_process.host.trace = let_go
    job = bad(b=end("going", "e0"))
    first, result, last = in_process.connect([FIRST, job, LAST], wait=wait)
    in_process.host.trace = None
    assert first["ok"] and last["ok"]
    if wait:
        assert (result["ok"], result["state"]) == (True, "pending")
        assert "going" in result["reason"]
    else:
        assert (result["error"]["code"], result["error"]["field"]) == ("netns_gone", "b.netns")
    assert {row["ifname"] for row in ip_json("blue", "link", "show")} == {"lo", "f0", "l0"}
    assert ping("blue", "10.1.0.2") and ping("blue", "10.2.0.2")
    assert {r.id for r in in_process.store.load()[0] if r.state == "up"} == {"first", "last"}
    for id_ in ("first", "bad", "last"):
        in_process.engine.submit(Job("disconnect", id_))
    assert in_process.is_done()
    assert Census.take().interfaces == before


def test_a_namespace_that_is_another_one_all_of_a_sudden_is_gone(rooms, in_process):
    rooms.make("going")

    def replace(*_: Any) -> None:
        in_process.host.trace = None
        rooms.let_go("going")
        rooms.make("going")

    in_process.host.trace = replace
    [result] = in_process.connect([bad(b=end("going", "e0"))])
    assert result["error"]["code"] == "netns_gone"
    assert {row["ifname"] for n in ("blue", "going") for row in ip_json(n, "link", "show")} == {"lo"}


def test_namespaces_that_come_and_go_all_the_time_leave_nothing_behind(client, rooms):
    """Each connect ends in one of the documented ways, whenever its namespace goes."""
    before = Census.take().interfaces
    stop = threading.Event()

    def come_and_go() -> None:
        with Namespaces() as mine:
            while not stop.is_set():
                mine.make("flicker")
                mine.let_go("flicker")

    thread = threading.Thread(target=come_and_go)
    thread.start()
    codes = set()
    try:
        for n in range(60):
            jobs = [FIRST, *(pair(f"c{n}-{i}", end("blue", f"c{i}"), end("flicker", f"c{i}")) for i in range(4)), LAST]
            first, *results, last = client.connect(jobs)
            assert first["ok"] and last["ok"]
            codes |= {r.get("error", {}).get("code", "ok") for r in results}
            client.disconnect([j["id"] for j in jobs])
    finally:
        stop.set()
        thread.join()
    assert codes <= {"ok", "netns_not_found", "netns_gone"}
    assert client.info()["connections"] == {}
    assert eventually(lambda: Census.take().interfaces == before)


# -- what belongs to others ------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["a", "b"])
def test_a_name_in_use_by_something_that_is_not_ours_is_refused_and_never_deleted(client, rooms, foreign, which):
    netns = GOOD[which]["netns"]
    index = foreign(netns, "e0")
    error = fails_alone(client, GOOD, "ifname_in_use", f"{which}.ifname", number=errno.EEXIST)
    assert netns in error["message"]
    assert ip_json(netns, "link", "show", "e0")[0]["ifindex"] == index


def test_renaming_to_a_name_that_is_not_ours_is_refused_and_changes_nothing(client, rooms, foreign):
    client.connect([GOOD])
    index = foreign("blue", "e9")
    [result] = client.connect([bad(a__ifname="e9", a__addresses=["10.3.0.77/24"])])
    assert (result["error"]["code"], result["error"]["field"]) == ("ifname_in_use", "a.ifname")
    assert ip_json("blue", "link", "show", "e9")[0]["ifindex"] == index
    assert all(v["ok"] for v in client.verify(["bad"])) and ping("red", "10.3.0.1")


def test_lo_cannot_be_had(client, rooms):
    fails_alone(client, bad(a__ifname="lo"), "ifname_in_use", "a.ifname", number=errno.EEXIST)


# -- what the kernel refuses -----------------------------------------------------------------------


def test_a_route_with_an_unreachable_gateway_is_refused(client, rooms):
    routes = [{"to": "10.8.0.0/16", "via": "10.3.0.2"}, {"to": "10.9.0.0/16", "via": "192.0.2.1"}]
    error = fails_alone(client, bad(a__routes=routes), "kernel", "a.routes[1]", number=errno.ENETUNREACH)
    assert error["phase"] == "route"
    assert "ext_ack" in error and "onlink" in error["message"]  # what to do about it


def test_a_route_that_is_there_already_is_refused(client, rooms):
    subprocess.run(["ip", "-n", "blue", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "-n", "blue", "route", "add", "10.9.0.0/16", "dev", "lo"], check=True)
    routes = [{"to": "10.9.0.0/16", "via": "10.3.0.2"}]
    fails_alone(client, bad(a__routes=routes), "kernel", "a.routes[0]", number=errno.EEXIST)
    assert ip_json("blue", "route", "show", "10.9.0.0/16")[0]["dev"] == "lo"


def test_an_ipv6_address_of_an_interface_of_others_that_has_ipv6_switched_off_is_refused(client, rooms):
    for which in ("all", "default"):
        switch = f"echo 1 > /proc/sys/net/ipv6/conf/{which}/disable_ipv6"
        subprocess.run(nsenter("blue", "sh", "-c", switch), check=True)
    job = {"id": "bad", "kind": "loopback", "a": end("blue", "lo", "10.3.0.1/24", "fd00::1/64")}
    error = fails_alone(client, job, "kernel", "a.addresses[1]", number=errno.EACCES)
    assert (error["phase"], "its owner's to switch on" in error["message"]) == ("address", True)
    assert "10.3.0.1" not in str(ip_json("blue", "addr", "show", "lo"))


def test_a_tunnel_from_an_address_that_the_underlay_lacks_is_made_or_refused_wholly(client, rooms):
    rooms.make("host")
    before = Census.take().interfaces
    job = tunnel("t", end("blue", "vx0"), vni=1, local="fd99::1", remote="fd99::2", underlay="host")
    [result] = client.connect([job])
    if not result["ok"]:
        assert result["error"]["code"] == "kernel"
        assert Census.take().interfaces == before
    else:
        assert all(v["ok"] for v in client.verify(["t"]))


def test_a_failure_half_way_removes_that_connection_and_leaves_its_neighbours_whole(client, rooms):
    """Every fifth of a large batch fails at its very last step, with both ends up in crowded namespaces."""
    jobs = []
    for n in range(100):
        neighbours = [{"ip": f"10.{n}.0.9", "mac": "02:00:00:00:00:09"}]
        route = {"to": f"172.16.{n}.0/24", "via": "192.0.2.1" if n % 5 == 0 else f"10.{n}.0.1"}
        a = end("blue", f"a{n}", f"10.{n}.0.1/24", neighbours=neighbours)
        b = end("red", f"b{n}", f"10.{n}.0.2/24", routes=[route])
        jobs.append(pair(f"c{n}", a, b))
    results = client.connect(jobs)
    assert [n for n, r in enumerate(results) if not r["ok"]] == list(range(0, 100, 5))
    assert {r["error"]["field"] for r in results if not r["ok"]} == {"b.routes[0]"}
    good = {n for n in range(100) if n % 5}
    assert {row["ifname"] for row in ip_json("blue", "link", "show")} == {"lo", *(f"a{n}" for n in good)}
    assert {row["ifname"] for row in ip_json("red", "link", "show")} == {"lo", *(f"b{n}" for n in good)}
    assert all(v["ok"] for v in client.verify()) and len(list(client.list())) == 80
    client.disconnect([f"c{n}" for n in good])


# -- privilege -------------------------------------------------------------------------------------


def test_a_process_that_the_engine_may_not_look_into_is_no_permission(make_engine, rooms):
    stranger = spawn(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sleep", "100"])
    try:
        status = Path(f"/proc/{stranger.pid}/status")
        assert eventually(lambda: "\nUid:\t65534" in status.read_text())
        engine = make_engine(
            instance="other", prefix=["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
        ).start()
        job = bad(b__netns=f"pid:{stranger.pid}")
        error = fails_alone(engine.client(), job, "no_permission", "b.netns", number=errno.EACCES)
        assert "CAP_SYS_PTRACE" in error["message"]
    finally:
        stranger.kill()
        stranger.wait()


def user(engine: EngineProcess, number: int, script: str) -> subprocess.CompletedProcess[str]:
    """Runs a client as an ordinary user; `engine` is the endpoint there."""
    for path in (engine.folder, engine.folder.parent):
        path.chmod(0o755)
    Path(engine.endpoint.removeprefix("ipc://")).chmod(0o777)
    prelude = (
        f"import json\nfrom fastnl_engine.client import Client\nengine = Client({engine.endpoint!r}, timeout=60)\n"
    )
    return subprocess.run(
        ["setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups", sys.executable, "-c", prelude + script],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_client_without_a_role_is_forbidden_everything_and_told_so(make_engine):
    engine = make_engine(instance="other").start()
    done = user(engine, 65534, "for op in ('info', 'list'):\n print(engine.request(op)['error']['code'])")
    assert done.stdout.split() == ["forbidden", "forbidden"], done.stderr
    assert engine.client().info()["ok"]


def test_a_viewer_may_look_and_not_change(make_engine, rooms, tmp_path):
    config = tmp_path / "engine.toml"
    config.write_text('[roles]\nviewer = ["uid:65534"]\noperator = ["uid:65533"]\n')
    engine = make_engine("--config", str(config), instance="other").start()
    script = f"""
for op, fields in [("info", {{}}), ("list", {{}}), ("stats", {{}}), ("connect", {{"connections": [{GOOD!r}]}}),
                   ("move", {{"moves": []}}), ("disconnect", {{"ids": ["bad"]}})]:
    print(engine.request(op, **fields).get("error", {{}}).get("code", "ok"))
"""
    assert user(engine, 65534, script).stdout.split() == ["ok", "ok", "ok", "forbidden", "forbidden", "forbidden"]
    assert list(engine.client().list()) == []
    assert user(engine, 65533, script).stdout.split() == ["ok"] * 6

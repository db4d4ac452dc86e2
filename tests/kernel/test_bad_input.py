"""Bad input: a clear error for that item, the rest of the batch done, nothing left behind."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fastnl import (
    CallerError,
    Conflict,
    End,
    Host,
    InvalidValue,
    KernelError,
    NameInUse,
    Neighbour,
    NetnsGone,
    NetnsNotFound,
    Route,
    Veth,
    birth,
)
from fastnl.testing import ip_json, nsenter, ping

RUN = Path("/run/netns")


@pytest.fixture
def names(netns):
    return netns.many(4)


def names_in(netns: str) -> set[str]:
    return {row["ifname"] for row in ip_json(netns, "link", "show")} - {"lo"}


def in_the_middle(host: Host, names, bad: Veth):
    """Connects a batch whose middle is bad: its neighbours must be whole, and of the middle nothing left."""
    before = {name: names_in(name) for name in names}
    good = [
        Veth(
            End(names[0], f"good{i}", [f"10.{i}.0.1/24"]), End(names[1], f"good{i}", [f"10.{i}.0.2/24"]), id=f"good{i}"
        )
        for i in range(6)
    ]
    results = host.connect([*good[:3], bad, *good[3:]])
    middle = results.pop(3)
    assert [r.error for r in results] == [None] * 6
    assert (middle.ok, middle.changed, middle.wired) == (False, False, None)
    mine = {f"good{i}" for i in range(6)}
    assert {name: names_in(name) for name in names} == {
        name: before[name] | (mine if name in names[:2] else set()) for name in names
    }
    assert all(ping(names[0], f"10.{i}.0.2") for i in (0, 2, 3, 5))
    assert middle.error.message
    return middle.error


# -- namespaces ------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["a", "b"])
@pytest.mark.parametrize(
    "reference",
    ["nosuch", "name:nosuch", "file:/nosuch", "pid:2147483647", "inode:1", "file:/proc/self/ns/mnt", "file:/proc"],
)
def test_a_namespace_that_is_missing_or_none(host, names, reference, end):
    ends = [End(reference, "bad"), End(names[2], "bad")]
    error = in_the_middle(host, names, Veth(*(ends if end == "a" else ends[::-1])))
    assert isinstance(error, NetnsNotFound)
    assert (error.field, error.code) == (f"{end}.netns", "netns_not_found")
    assert reference in error.message


def test_a_reference_that_can_be_none(host, names):
    error = in_the_middle(host, names, Veth(End("what:ever", "bad"), End(names[2], "bad")))
    assert isinstance(error, InvalidValue)
    assert error.field == "a.netns"


def test_a_plain_file_in_run_netns(host, names):
    path = RUN / "plain"
    path.touch()
    try:
        error = in_the_middle(host, names, Veth(End(names[2], "bad"), End("plain", "bad")))
    finally:
        path.unlink()
    assert isinstance(error, NetnsNotFound)
    assert error.field == "b.netns"
    assert "no network namespace" in error.message


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_what_is_behind_a_path_is_looked_at_and_not_opened(host, names, tmp_path, kind):
    path = tmp_path / kind
    if kind == "fifo":
        os.mkfifo(path)  # an open without a writer would wait for ever
    elif kind == "device":
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 7))  # /dev/full
    else:
        path.mkdir()
    error = in_the_middle(host, names, Veth(End(f"file:{path}", "bad"), End(names[2], "bad")))
    assert isinstance(error, NetnsNotFound)


def test_a_namespace_that_disappears_between_check_and_use(host, names, netns):
    gone = netns.make("gone")
    run = host.run

    def let_go_first(tour, threads=1):
        host.run = run
        netns.let_go(gone)
        run(tour, threads)

    host.run = let_go_first
    error = in_the_middle(host, names, Veth(End(names[2], "bad"), End(gone, "bad")))
    assert isinstance(error, NetnsGone)
    assert (error.field, error.code) == ("b.netns", "netns_gone")


def test_a_name_that_means_another_namespace_after_the_check(host, names, netns):
    again = netns.make("again")
    run = host.run

    def replace_first(tour, threads=1):
        host.run = run
        netns.let_go(again)
        netns.make(again)
        run(tour, threads)

    host.run = replace_first
    error = in_the_middle(host, names, Veth(End(names[2], "bad"), End(again, "bad")))
    assert isinstance(error, NetnsGone)
    assert names_in(again) == set()


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["a", "b"])
def test_a_name_in_use_by_what_is_not_ours_which_is_never_deleted(host, names, foreign, end):
    index = foreign(names[2], "taken")
    ends = [End(names[2], "taken", ["10.99.0.1/24"]), End(names[3], "bad")]
    error = in_the_middle(host, names, Veth(*(ends if end == "a" else ends[::-1])))
    assert isinstance(error, NameInUse)
    assert (error.field, error.code) == (f"{end}.ifname", "ifname_in_use")
    assert "bridge" in error.message
    [row] = ip_json(names[2], "addr", "show", "taken")
    assert (row["ifindex"], row["linkinfo"]["info_kind"], row["addr_info"], "UP" in row["flags"]) == (
        index,
        "bridge",
        [],
        False,
    )


@pytest.mark.parametrize("end", ["a", "b"])
def test_the_name_lo(host, names, end):
    ends = [End(names[2], "lo", ["10.99.0.1/24"]), End(names[3], "bad")]
    error = in_the_middle(host, names, Veth(*(ends if end == "a" else ends[::-1])))
    assert isinstance(error, NameInUse)
    assert error.field == f"{end}.ifname"
    [lo] = ip_json(names[2], "addr", "show", "lo")
    assert lo["addr_info"] == []


def test_a_name_in_use_by_an_earlier_connection_of_ours(host, names):
    pair = Veth(End(names[2], "mine", ["10.99.0.1/24"]), End(names[3], "mine", ["10.99.0.2/24"]))
    assert host.connect([pair])[0].ok
    error = in_the_middle(host, names, pair)
    assert isinstance(error, NameInUse)
    assert ping(names[2], "10.99.0.2")


def test_a_name_twice_in_one_batch(host, names):
    error = in_the_middle(host, names, Veth(End(names[2], "bad"), End("file:/run/netns/" + names[1], "good0")))
    assert isinstance(error, Conflict)
    assert error.field == "b.ifname"
    assert "good0" in error.message


def test_both_ends_in_one_namespace_with_one_name_through_different_references(host, names):
    error = in_the_middle(host, names, Veth(End(names[2], "bad"), End(f"file:/run/netns/{names[2]}", "bad")))
    assert isinstance(error, InvalidValue)
    assert error.field == "b.ifname"


def test_an_id_twice_in_one_request(host, names):
    error = in_the_middle(host, names, Veth(End(names[2], "bad"), End(names[3], "bad"), id="good1"))
    assert isinstance(error, Conflict)
    assert (error.field, error.code) == ("id", "conflict")


def test_an_id_twice_in_one_request_however_far_apart(host, names):
    same = [
        Veth(End(names[0], f"e{i}"), End(names[1], f"e{i}"), id="x" if i in (0, 299) else f"id{i}") for i in range(300)
    ]
    results = host.connect(same)
    assert [n for n, r in enumerate(results) if not r.ok] == [299]
    assert isinstance(results[299].error, Conflict)


# -- what the kernel refuses half-way --------------------------------------------------------------


def test_a_route_whose_gateway_is_unreachable(host, names):
    bad = Veth(
        End(
            names[2],
            "bad",
            ["10.99.0.1/24"],
            routes=[Route("10.98.0.0/16", via="10.99.0.9"), Route("default", via="172.31.0.1")],
        ),
        End(names[3], "bad", ["10.99.0.2/24"]),
    )  # fmt: skip
    error = in_the_middle(host, names, bad)
    assert isinstance(error, KernelError)
    assert not isinstance(error, CallerError)
    assert (error.code, error.phase, error.field) == ("kernel", "route", "a.routes[1]")
    assert "invalid gateway" in error.ext_ack
    assert "onlink" in error.message
    # neither the interface nor the route that could be made
    assert ip_json(names[2], "route", "show", "table", "all") == []


def test_an_ipv6_route_whose_gateway_is_unreachable(host, names):
    bad = Veth(End(names[2], "bad", ["fd00::1/64"], routes=[Route("fd99::/64", via="fd01::1")]), End(names[3], "bad"))
    error = in_the_middle(host, names, bad)
    assert isinstance(error, KernelError)
    assert (error.phase, error.field) == ("route", "a.routes[0]")


def test_an_address_of_a_family_that_cannot_be_switched_on(host, names, monkeypatch):
    """As where /proc/sys is read-only: the switch is not written."""
    subprocess.run(
        nsenter(names[3], "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"), check=True
    )  # fmt: skip
    real = birth.furnish
    monkeypatch.setattr(birth, "furnish", lambda *args: real(*args[:8]))
    bad = Veth(End(names[2], "bad", ["10.99.0.1/24"]), End(names[3], "bad", ["10.99.0.2/24", "fd00::1/64"]))
    error = in_the_middle(host, names, bad)
    assert isinstance(error, KernelError)
    assert (error.phase, error.field) == ("address", "b.addresses[1]")
    assert "disable_ipv6" in error.message


def test_an_address_with_a_bad_prefix_for_its_routes_source(host, names):
    bad = Veth(End(names[2], "bad", routes=[Route("10.98.0.0/16", source="10.99.0.1")]), End(names[3], "bad"))
    error = in_the_middle(host, names, bad)
    assert (error.phase, error.field) == ("route", "a.routes[0]")


def test_the_same_route_twice(host, names):
    bad = Veth(End(names[2], "bad", routes=[Route("10.98.0.0/16"), Route("10.98.0.0/16")]), End(names[3], "bad"))
    error = in_the_middle(host, names, bad)
    assert (error.phase, error.field, error.errno) == ("route", "a.routes[1]", 17)


def test_a_neighbour_on_an_end_whose_mtu_has_no_room_for_ipv6(host, names):
    # caught when the value is made, unless the MTU is the kernel's own choice
    with pytest.raises(InvalidValue):
        End(names[2], "bad", mtu=1000, neighbours=[Neighbour("fd00::1", "02:00:00:00:00:01")])


def test_every_way_to_fail_in_one_batch(host, names, foreign, netns):
    foreign(names[2], "taken")
    cases = {
        "fine": Veth(End(names[0], "f0", ["10.1.0.1/24"]), End(names[1], "f0", ["10.1.0.2/24"]), id="fine"),
        "netns_not_found": Veth(End("nosuch", "n0"), End(names[1], "n0")),
        "ifname_in_use": Veth(End(names[2], "taken"), End(names[1], "t0")),
        "conflict": Veth(End(names[2], "c0"), End(names[1], "c0"), id="fine"),
        "kernel": Veth(End(names[2], "k0", routes=[Route("default", via="10.0.0.1")]), End(names[1], "k0")),
        "invalid": Veth(End(names[2], "i0"), End(f"name:{names[2]}", "i0")),
    }
    results = host.connect([*cases.values(), Veth(End(names[0], "f1"), End(names[1], "f1"))])
    assert [r.error and r.error.code for r in results] == [None, *list(cases)[1:], None]
    assert [names_in(name) for name in names] == [{"f0", "f1"}, {"f0", "f1"}, {"taken"}, set()]
    assert ping(names[0], "10.1.0.2")


# -- no privilege ----------------------------------------------------------------------------------

UNPRIVILEGED = """
import sys
from fastnl import End, Host, Veth
results = Host().connect([Veth(End("n0", f"e{i}"), End("n1", f"e{i}")) for i in range(3)])
for r in results:
    print(type(r.error).__name__, r.error.code, r.error.message, sep="|")
try:
    Host().links("n0")
    print("read")
except Exception as e:
    print(type(e).__name__, e.code, e, sep="|")
"""


@pytest.mark.parametrize("missing", ["net_admin", "sys_admin", "net_admin,-sys_admin"])
def test_no_privilege(names, missing):
    done = subprocess.run(
        ["setpriv", f"--bounding-set=-{missing}", f"--inh-caps=-{missing}", sys.executable, "-c", UNPRIVILEGED],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    *made, read = done.stdout.splitlines()
    assert len(made) == 3
    assert all(line.startswith("NoPermission|no_permission|") and "CAP_" in line for line in made)
    # anybody may look, but going into a namespace takes CAP_SYS_ADMIN
    assert read == "read" if missing == "net_admin" else read.startswith("NoPermission|no_permission|")
    assert names_in(names[0]) == set()


FEW_FILES = """
import os, resource
from fastnl import End, Host, Veth
host = Host()
assert host.features.veth
few = max(map(int, os.listdir("/proc/self/fd"))) + {room}
resource.setrlimit(resource.RLIMIT_NOFILE, (few, few))
results = host.connect([Veth(End(f"n{{i % 4}}", f"a{{i}}"), End(f"n{{(i + 1) % 4}}", f"b{{i}}")) for i in range(8)])
for r in results:
    print("ok" if r.ok else r.error)
"""


@pytest.mark.parametrize("room", range(1, 8))
def test_too_few_open_files(names, room):
    done = subprocess.run(
        [sys.executable, "-c", FEW_FILES.format(room=room)], check=True, capture_output=True, text=True
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 8
    assert all(line == "ok" or "open files" in line for line in lines)
    assert sum(len(names_in(name)) for name in names) == 2 * lines.count("ok")
    assert "ok" not in lines if room == 1 else "ok" in lines or room < 7

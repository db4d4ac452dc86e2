"""Every way to name a namespace, and that none is kept alive by us."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fastnl import End, Host, InvalidValue, NetnsGone, NetnsNotFound, Veth, fence
from fastnl import netns as references
from fastnl._nl import netns_identity, new_netns, open_netns
from fastnl.netns import Handles, Identity, handle_reference, identity, meaning, open_reference
from fastnl.testing import Census, eventually, ip_json, ping, spawn


@pytest.fixture
def sleeper():
    """A process in a network namespace of its own."""
    own = os.stat("/proc/self/ns/net").st_ino
    process = spawn(["unshare", "--net", "sleep", "600"])
    assert eventually(lambda: os.stat(f"/proc/{process.pid}/ns/net").st_ino != own)
    yield process
    process.kill()
    process.wait()


def names_in(netns: str, host: Host) -> set[str]:
    return {row.ifname for row in host.links(netns)} - {"lo"}


# -- all forms -------------------------------------------------------------------------------------


def test_a_name_a_path_and_an_inode_mean_the_same_namespace(host, netns):
    blue = netns.make("blue")
    inode = os.stat("/run/netns/blue").st_ino
    with Handles() as handles:
        fds = {handles.open(r) for r in (blue, "name:blue", "file:/run/netns/blue", f"inode:{inode}")}
    assert len(fds) == 1


def test_every_form_of_reference_is_wired(host, netns, sleeper):
    blue, red = netns.make("blue"), netns.make("red")
    forms = [
        "",
        blue,
        f"name:{blue}",
        f"file:/run/netns/{blue}",
        f"pid:{sleeper.pid}",
        f"file:/proc/{sleeper.pid}/ns/net",
        f"inode:{os.stat(f'/run/netns/{blue}').st_ino}",
        f"inode:{os.stat(f'/proc/{sleeper.pid}/ns/net').st_ino}",
    ]
    results = host.connect(
        [Veth(End(r, f"e{i}", [f"10.0.{i}.1/24"]), End(red, f"e{i}", [f"10.0.{i}.2/24"])) for i, r in enumerate(forms)]
    )
    assert [r.error for r in results] == [None] * len(forms)
    assert all(ping(red, f"10.0.{i}.1") for i in range(len(forms)))
    homes = [r.wired.places[0].netns for r in results]
    assert homes[1] == homes[2] == homes[3] == homes[6]
    assert homes[4] == homes[5] == homes[7]
    assert len(set(homes)) == 3
    assert names_in(f"pid:{sleeper.pid}", host) == {"e4", "e5", "e7"}
    assert all(r.changed for r in host.disconnect([r.wired for r in results]))


def test_connections_to_one_namespace_under_several_names_go_in_one_sweep(host, netns):
    blue, red = netns.make("blue"), netns.make("red")
    others = netns.many(3)
    names = [blue, "name:blue", "file:/run/netns/blue"]
    results = host.connect(
        [Veth(End(n, f"e{i}"), End(o, f"e{i}")) for i, (n, o) in enumerate(zip(names, others, strict=True))]
    )
    tours = []
    host.trace = lambda tour, threads: tours.append(tour)
    assert [r.changed for r in host.disconnect([r.wired for r in results])] == [True] * 3
    assert [len(tour.visits) for tour in tours] == [1]
    assert names_in(red, host) == set()


def test_a_process_that_ended_is_no_reference(host, netns, sleeper):
    reference = f"pid:{sleeper.pid}"
    pair = Veth(End(reference, "e0"), End(netns.make("blue"), "e0"))
    [result] = host.connect([pair])
    assert result.ok
    sleeper.kill()
    sleeper.wait()
    with pytest.raises(NetnsNotFound, match=f"no process {sleeper.pid}"):
        open_reference(reference)
    # its namespace went with it, and the other end with that
    assert eventually(lambda: names_in("blue", host) == set())
    [gone] = host.disconnect([result.wired])
    assert (gone.ok, gone.changed) == (True, False)
    assert isinstance(host.connect([pair])[0].error, NetnsNotFound)


def test_a_process_that_ended_and_is_not_waited_for_has_no_namespace(sleeper):
    sleeper.kill()
    assert eventually(lambda: Path(f"/proc/{sleeper.pid}/stat").read_text().split()[2] == "Z")
    with pytest.raises(NetnsNotFound):
        open_reference(f"pid:{sleeper.pid}")


def test_without_the_new_ioctl_a_pidfd_still_guards_against_a_reused_pid(sleeper, monkeypatch):
    # before 6.11 the way leads over /proc, and whether the process has ended is looked at afterwards
    monkeypatch.setattr(references, "PIDFD_GET_NET_NAMESPACE", 0xFFFF)
    fd = open_reference(f"pid:{sleeper.pid}")
    assert os.fstat(fd).st_ino == os.stat(f"/proc/{sleeper.pid}/ns/net").st_ino
    os.close(fd)

    def end_meanwhile(path):
        fd = open_netns(path)
        sleeper.kill()
        sleeper.wait()
        return fd

    monkeypatch.setattr(references, "open_netns", end_meanwhile)
    with pytest.raises(NetnsNotFound):
        open_reference(f"pid:{sleeper.pid}")


@pytest.mark.parametrize(
    "path",
    ["/proc/self/ns/mnt", "/proc/self/ns", "/dev/null", "/bin/sh", "/nosuch", "/bin/sh/x", "/proc/1/ns/nosuch"],
)
def test_what_is_no_network_namespace_is_not_opened(path):
    with pytest.raises(NetnsNotFound) as caught:
        open_reference(f"file:{path}")
    assert path in caught.value.message


def test_an_unknown_inode_is_searched_for_and_not_found():
    with pytest.raises(NetnsNotFound, match="inode 1"):
        open_reference("inode:1")


def test_inode_and_id_find_a_namespace_that_nothing_shows_and_do_not_hold_it(host):
    if not host.features.stable_id:
        pytest.skip("this kernel has no NS_GET_ID")
    fd = new_netns()
    who = identity(fd)
    reference = f"inode:{who.inode}.{who.id}"
    try:
        look = os.open(f"/proc/self/fd/{fd}", os.O_PATH)
        assert handle_reference(fd) == handle_reference(look) == reference
        os.close(look)
        with open("/dev/null") as other:
            assert handle_reference(other.fileno()) is None
        with pytest.raises(NetnsNotFound):
            open_reference(f"inode:{who.inode}")  # it has neither a name nor a process
        again = open_reference(reference)
        assert identity(again) == who
        os.close(again)
        with pytest.raises(NetnsNotFound, match="gone"):
            open_reference(f"inode:{who.inode}.{who.id + 1000}")
    finally:
        os.close(fd)
    with pytest.raises(NetnsNotFound, match="gone"):
        open_reference(reference)


# -- identity --------------------------------------------------------------------------------------


def test_two_namespaces_differ_and_one_is_itself():
    one, other = new_netns(), new_netns()
    again = os.dup(one)
    try:
        assert identity(one) == identity(again) != identity(other)
        assert identity(one) == Identity(*netns_identity(one))
        assert identity(one).inode == os.fstat(one).st_ino
    finally:
        for fd in (one, other, again):
            os.close(fd)


def test_what_is_no_namespace_has_no_identity():
    with pytest.raises(OSError, match="Bad file descriptor"):
        netns_identity(-1)


def test_an_id_is_never_given_twice_though_inodes_are(host):
    if not host.features.stable_id:
        pytest.skip("this kernel has no NS_GET_ID")
    seen = []
    for _ in range(50):
        fd = new_netns()
        seen.append(identity(fd))
        os.close(fd)
    assert len({who.id for who in seen}) == 50


def test_a_name_that_means_another_namespace_now_is_not_touched(host, netns):
    blue, red = netns.make("blue"), netns.make("red")
    [result] = host.connect([Veth(End(blue, "e0"), End(red, "e0"))])
    netns.let_go(blue)
    netns.make(blue)
    stranger = Veth(End(blue, "e0"), End(netns.make("other"), "x0"))
    assert host.connect([stranger], indexes=[tuple(p.ifindex for p in result.wired.places)])[0].ok
    [moved] = host.update([(result.wired, Veth(End(blue, "e0", ["10.0.0.1/24"]), End(red, "e0")))])
    assert isinstance(moved.error, NetnsGone)
    assert eventually(lambda: names_in(red, host) == set())
    [gone] = host.disconnect([result.wired])
    assert (gone.ok, gone.changed) == (True, False)
    assert names_in(blue, host) == {"e0"}
    assert ip_json(blue, "addr", "show", "e0")[0]["addr_info"] == []


# -- nobody's namespace is held --------------------------------------------------------------------


def test_when_the_owner_lets_a_namespace_go_it_goes(host, netns):
    blue, red = netns.make("blue"), netns.make("red")
    [result] = host.connect([Veth(End(blue, "e0", ["10.0.0.1/24"]), End(red, "e0", ["10.0.0.2/24"]))])
    assert host.links(blue)
    netns.let_go(blue)
    # gone from the kernel: the other end of the pair is, too
    assert eventually(lambda: names_in(red, host) == set())
    assert host.disconnect([result.wired])[0].ok


def test_no_call_leaves_a_descriptor_or_a_thread(host, netns):
    blue, red = netns.make("blue"), netns.make("red")
    host.features  # noqa: B018  found out once
    before = Census.take()
    pair = Veth(End(blue, "e0", ["10.0.0.1/24"]), End(red, "e0"))
    for _ in range(20):
        [made] = host.connect([pair])
        [failed] = host.connect([Veth(End(blue, "e0"), End(red, "x0"))])
        assert made.ok
        assert not failed.ok
        host.links(blue)
        [changed] = host.update([(made.wired, Veth(End(blue, "e0"), End(red, "e0")))])
        assert host.disconnect([changed.wired])[0].changed
        with pytest.raises(NetnsNotFound):
            host.links("nosuch")
    assert before.leaks() == []


def test_ten_thousand_handles_leave_no_descriptor(netns):
    netns.make("blue")
    before = Census.take()
    for _ in range(10_000):
        with Handles() as handles:
            handles.open("blue")
            handles.open("file:/run/netns/blue")
    assert before.leaks() == []


# -- making and letting go -------------------------------------------------------------------------


def test_a_namespace_is_made_as_ip_netns_makes_it():
    references.create("made")
    try:
        listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
        assert "made" in listed.split()
        assert [row["ifname"] for row in ip_json("made", "link", "show")] == ["lo"]
        with pytest.raises(FileExistsError):
            references.create("made")
    finally:
        references.remove("made")
    assert not Path("/run/netns/made").exists()
    with pytest.raises(FileNotFoundError):
        references.remove("made")


def test_a_namespace_made_by_ip_netns_is_let_go_as_well(host):
    subprocess.run(["ip", "netns", "add", "made"], check=True)
    assert host.links("made")
    references.remove("made")
    assert not Path("/run/netns/made").exists()


@pytest.mark.parametrize("name", ["", "file:/x", "pid:1", "a/b", ".."])
def test_only_a_plain_name_can_be_made(name):
    with pytest.raises(InvalidValue):
        references.create(name)


def test_a_namespace_that_cannot_be_made_leaves_no_file(monkeypatch):
    def fail(path):
        raise OSError("no more")

    monkeypatch.setattr(references, "new_netns", fail)
    with pytest.raises(OSError, match="no more"):
        references.create("made")
    assert not Path("/run/netns/made").exists()


@pytest.mark.parametrize("name", ["file:{}", "pid:1", "", "../x", "{}"])
def test_nothing_but_a_named_namespace_is_removed(name, tmp_path):
    precious = tmp_path / "precious"
    precious.touch()
    with pytest.raises(InvalidValue):
        references.remove(name.format(precious))
    assert precious.exists()


# -- many at a time --------------------------------------------------------------------------------


def test_what_is_opened_together_is_what_is_opened_one_by_one(netns):
    names = netns.many(5, "m")
    file = f"file:/run/netns/{names[0]}"
    before = Census.take()
    with Handles() as one, Handles() as many:
        many.open_all([*names, file, "", *names])
        opened = [many.open(reference) for reference in (*names, file, "")]
        assert [many.identity(fd) for fd in opened] == [
            one.identity(one.open(reference)) for reference in (*names, file, "")
        ]
        assert opened[0] == opened[5]  # one namespace, one descriptor
        assert len(set(opened)) == 6
        assert many.lost() == set()
    assert before.leaks() == []


def test_what_cannot_be_opened_together_says_why(netns, tmp_path):
    blue = netns.make("blue")
    plain = tmp_path / "plain"
    plain.write_text("")
    with Handles() as handles:
        handles.open_all(["nosuch", f"file:{plain}", "name:a/b", blue])
        with pytest.raises(NetnsNotFound, match="ip netns add nosuch"):
            handles.open("nosuch")
        with pytest.raises(NetnsNotFound, match="is no network namespace"):
            handles.open(f"file:{plain}")
        with pytest.raises(InvalidValue):
            handles.open("name:a/b")
        assert handles.identity(handles.open(blue)) == meaning(blue)


@pytest.mark.parametrize("form", ["{}", "file:/run/netns/{}"])
@pytest.mark.parametrize("anew", [False, True])
def test_a_namespace_that_is_let_go_while_it_is_open_is_lost(netns, form, anew):
    blue, red = netns.make("blue"), netns.make("red")
    with Handles() as handles:
        handles.open_all([form.format(blue), red])
        netns.let_go(blue)
        if anew:
            netns.make(blue)
        assert handles.lost() == {form.format(blue)}


def test_the_fence_holds_for_what_is_opened_together(netns, tmp_path):
    blue = netns.make("blue")
    fence.fence_files([str(tmp_path)])
    try:
        with Handles() as handles:
            handles.open_all([f"file:/run/netns/{blue}", blue])
            with pytest.raises(InvalidValue):
                handles.open(f"file:/run/netns/{blue}")
            assert handles.open(blue)
        with Handles(fenced=False) as handles:
            handles.open_all([f"file:/run/netns/{blue}"])
            assert handles.open(f"file:/run/netns/{blue}")
    finally:
        fence.fence_files(())

"""Datagrams of many messages: every answer finds its message, and an answer that is lost is noticed."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fastnl import Address, End, Host, Neighbour, Route, Rule, Veth, birth
from fastnl._nl import Phase, Tour, netns_identity, new_netns, read_settings
from fastnl.errors import NameInUse
from fastnl.testing import Census, eventually, ip_json, ping


@pytest.fixture
def ns():
    """A namespace that only a descriptor keeps alive, with a pair e0/e1 of indexes 100 and 101 in it."""
    fd = new_netns()
    tour = Tour(1)
    visit = tour.visit(fd)
    visit.veth(0, Veth(End("", "e0"), End("", "e1")), fd, 100, fd, 101)
    for index in (1, 100, 101):
        visit.change(0, index, up=True)
    tour.run()
    assert tour.problems() == []
    yield fd
    os.close(fd)


def ask(fd: int, question: str) -> list:
    tour = Tour(1)
    visit = tour.visit(fd, asks=True)
    getattr(visit, question)()
    tour.run()
    assert tour.problems() == []
    return visit.rows()


def addresses(fd: int) -> set[str]:
    return {row.address for row in ask(fd, "dump_addresses") if row.address.startswith("10.")}


def some(count: int) -> list[Address]:
    return [Address(f"10.{i >> 8}.{i & 255}.1/32") for i in range(count)]


# -- sizes -----------------------------------------------------------------------------------------


def test_a_tour_without_visits_or_messages_does_nothing(ns):
    Tour(0).run()
    tour = Tour(1)
    visit = tour.visit(ns)
    tour.run()
    assert (tour.problems(), visit.states(), visit.datagrams, visit.rows()) == ([], [], 0, [])


def test_a_batch_of_10000_messages_works(ns):
    tour = Tour(10_000)
    visit = tour.visit(ns)
    for i in range(10_000):
        ip = f"10.1.{i >> 8}.{i & 255}"
        visit.neighbour(i, 100, Neighbour(ip, "02:00:00:00:00:02"))
    tour.run()
    assert tour.problems() == []
    assert all(sent and not number for _, sent, number in visit.states())
    assert len([row for row in ask(ns, "dump_neighbours") if row.ip.startswith("10.1.")]) == 10_000


def test_10000_failures_are_told_one_by_one(ns):
    tour = Tour(10_000)
    visit = tour.visit(ns)
    for i in range(10_000):
        visit.address(i, 5000 + i, Address("10.0.0.1/24"))
    tour.run()
    assert [(p.item, p.errno) for p in tour.problems()] == [(i, errno.ENODEV) for i in range(10_000)]
    assert not visit.overrun


@pytest.mark.parametrize("most", [1, 7, 128])
def test_a_datagram_holds_no_more_messages_than_asked(ns, most):
    tour = Tour(100, datagram_messages=most)
    visit = tour.visit(ns)
    for i, address in enumerate(some(100)):
        visit.address(i, 100, address)
    tour.run()
    assert visit.datagrams == -(-100 // most)
    assert len(addresses(ns)) == 100


def test_a_datagram_holds_no_more_bytes_than_asked(ns):
    tour = Tour(100, datagram_bytes=1000)
    visit = tour.visit(ns)
    for i, address in enumerate(some(100)):
        visit.address(i, 100, address)
    tour.run()
    assert visit.datagrams == 100 / (1000 // len(visit.messages()[0]))
    assert len(addresses(ns)) == 100


def test_a_datagram_stays_under_what_the_socket_sends(ns):
    # netlink_sendmsg refuses more than sk_sndbuf - 32, 212960 bytes by default
    tour = Tour(200, datagram_bytes=1 << 30, datagram_messages=1 << 30)
    visit = tour.visit(ns)
    for i, address in enumerate(some(200)):
        visit.change(i, 100, alias="x" * 250 + str(i % 10))
        visit.raw(i, filler(5000))
        visit.address(i, 100, address)
    tour.run()
    assert tour.problems() == []
    assert visit.datagrams >= 2
    assert len(addresses(ns)) == 200


def filler(size: int) -> bytes:
    """A message that the kernel passes over (NLMSG_NOOP), of any size."""
    return struct.pack("=IHHII", size, 1, 1, 0, 0) + bytes(size - 16)


def test_a_message_over_the_send_limit_fails_alone(ns):
    tour = Tour(3)
    visit = tour.visit(ns)
    first, second, third = some(3)
    visit.address(0, 100, first)
    visit.raw(1, filler(400_000))
    visit.address(2, 100, third)
    tour.run()
    assert [(p.item, p.errno) for p in tour.problems()] == [(1, errno.EMSGSIZE)]
    assert addresses(ns) == {first.text, third.text}
    assert second.text not in addresses(ns)


# -- answers ---------------------------------------------------------------------------------------


def test_failures_are_mapped_to_their_items_and_what_follows_is_done(ns):
    tour = Tour(300)
    visit = tour.visit(ns)
    for i, address in enumerate(some(300)):
        visit.address(i, 9999 if i % 7 == 3 else 100, address, place=i % 4)
    tour.run()
    assert [(p.item, p.errno, p.phase, p.place) for p in tour.problems()] == [
        (i, errno.ENODEV, Phase.ADDRESS, i % 4) for i in range(300) if i % 7 == 3
    ]
    assert addresses(ns) == {a.text for i, a in enumerate(some(300)) if i % 7 != 3}


def test_the_last_message_of_a_datagram_may_be_the_one_that_fails(ns):
    tour = Tour(2)
    visit = tour.visit(ns)
    visit.address(0, 100, Address("10.0.0.1/24"))
    visit.address(1, 9999, Address("10.0.0.1/24"))
    tour.run()
    assert [(p.item, p.errno) for p in tour.problems()] == [(1, errno.ENODEV)]


def test_a_refusal_carries_the_kernels_own_words_and_where_it_stopped(ns):
    tour = Tour(2)
    visit = tour.visit(ns)
    visit.route(0, 100, Route("10.9.0.0/16", via="10.99.0.1"))
    visit.device(1, "nosuchkind", "x0")
    tour.run()
    route, device = tour.problems()
    assert (route.errno, route.ext_ack) == (errno.ENETUNREACH, "Nexthop has invalid gateway")
    assert (device.errno, device.ext_ack) == (errno.EOPNOTSUPP, "Unknown device type")
    # the attribute that a route of the wrong length is stopped at
    bad = Tour(1)
    visit = bad.visit(ns)
    visit.raw(
        0,
        struct.pack("=IHHIIBBBBBBBBI", 36, 24, 0x601, 0, 0, 2, 24, 0, 0, 254, 4, 0, 1, 0)
        + struct.pack("=HHI", 8, 4, 9999),
    )
    bad.run()
    [problem] = bad.problems()
    assert (problem.phase, problem.errno) == (Phase.RAW, errno.ENODEV) or problem.offset


def test_an_offset_tells_the_attribute_that_was_not_liked(ns):
    # IFA_CACHEINFO, too short, behind IFA_LOCAL: header 16, ifaddrmsg 8, IFA_LOCAL 8
    body = (
        struct.pack("=BBBBI", 2, 24, 0, 0, 100)
        + struct.pack("=HH4s", 8, 2, b"\x0a\0\0\1")
        + struct.pack("=HHI", 8, 6, 0)
    )
    message = struct.pack("=IHHII", 16 + len(body), 20, 0x601, 0, 0) + body
    tour = Tour(1)
    tour.visit(ns).raw(0, message)
    tour.run()
    [problem] = tour.problems()
    assert (problem.errno, problem.offset) == (errno.ERANGE, 32)
    assert problem.ext_ack == "Attribute failed policy validation"


def test_after_a_failure_the_items_later_datagrams_are_left_out(ns):
    def states(skip: bool) -> list:
        tour = Tour(2, skip, datagram_messages=1)
        visit = tour.visit(ns)
        for item in (0, 1):
            for index in (9999 if item == 0 else 100, 100):
                visit.change(item, index, mtu=1400)
        tour.run()
        assert [tour.failed(0), tour.failed(1)] == [True, False]
        return visit.states()

    assert states(True) == [(0, True, errno.ENODEV), (0, False, 0), (1, True, 0), (1, True, 0)]
    assert states(False) == [(0, True, errno.ENODEV), (0, True, 0), (1, True, 0), (1, True, 0)]


def test_a_soft_failure_is_told_and_does_not_fail_its_item(ns):
    tour = Tour(1)
    tour.visit(ns).address(0, 100, Address("10.0.0.1/24"), False, soft=True)
    tour.visit(ns).change(0, 100, mtu=1400)
    tour.run()
    assert [p.errno for p in tour.problems()] == [errno.EADDRNOTAVAIL]
    assert not tour.failed(0)
    assert {row.mtu for row in ask(ns, "dump_links") if row.ifindex == 100} == {1400}


# -- answers that do not come ----------------------------------------------------------------------


def test_a_garbled_length_in_the_middle_is_noticed_by_the_missing_last_answer(ns):
    # netlink_rcv_skb drops the rest of the datagram and reports no error at all
    tour = Tour(7, datagram_messages=5)
    visit = tour.visit(ns)
    listed = some(7)
    visit.address(0, 100, listed[0])
    visit.address(1, 9999, listed[1])
    visit.raw(2, struct.pack("=IHHII", 0xFFFF, 20, 1, 0, 0))
    visit.address(3, 100, listed[3])
    visit.address(4, 9999, listed[4])
    visit.address(5, 100, listed[5])
    visit.address(6, 9999, listed[6])
    tour.run()
    # what was refused before it is known, its own datagram's silent ones are not, and the next datagram is well
    assert {p.item: p.errno for p in tour.problems()} == {
        0: 0, 1: errno.ENODEV, 2: 0, 3: 0, 4: 0, 6: errno.ENODEV,
    }  # fmt: skip
    assert addresses(ns) == {listed[0].text, listed[5].text}
    assert not visit.overrun


def test_what_follows_an_unknown_outcome_is_left_out(ns):
    # the interface that it builds on may be missing, or somebody else's that has the index
    tour = Tour(2)
    first = tour.visit(ns)
    first.raw(0, struct.pack("=IHHII", 0xFFFF, 20, 1, 0, 0))
    second = tour.visit(ns)
    second.change(0, 100, mtu=1400)
    second.change(1, 101, mtu=1400)
    tour.run()
    assert second.states() == [(0, False, 0), (1, True, 0)]
    assert tour.failed(0)


def overrun(ns: int) -> Tour:
    """400 messages in one datagram, three in four refused, with room for the answers to a few."""
    tour = Tour(400, datagram_messages=1000, rcvbuf=1)
    visit = tour.visit(ns)
    for i, address in enumerate(some(400)):
        visit.address(i, 100 if i % 4 == 0 else 9999, address)
    tour.run()
    return tour


def test_lost_answers_are_noticed_and_what_was_not_answered_is_unknown(ns):
    tour = overrun(ns)
    [visit] = tour.visits
    assert visit.overrun
    problems = {p.item: p.errno for p in tour.problems()}
    refused = [item for item, number in problems.items() if number]
    unknown = {item for item, number in problems.items() if not number}
    assert 0 < len(refused) < 300
    assert all(problems[i] == errno.ENODEV and i % 4 for i in refused)
    # nothing is taken for done that may not be
    assert unknown == set(range(400)) - set(refused)
    assert len(addresses(ns)) == 100


def test_with_a_normal_buffer_the_same_answers_are_not_lost(ns):
    tour = Tour(400, datagram_messages=1000)
    visit = tour.visit(ns)
    for i, address in enumerate(some(400)):
        visit.address(i, 100 if i % 4 == 0 else 9999, address)
    tour.run()
    assert not visit.overrun
    assert {p.item: p.errno for p in tour.problems()} == {i: errno.ENODEV for i in range(400) if i % 4}


def lossy(monkeypatch, tours: int) -> list[Tour]:
    """Makes the first tours that create connections lose answers; those made are listed."""
    made: list[Tour] = []

    def tour(*args, **kwargs):
        made.append(Tour(*args, **kwargs, **({"rcvbuf": 1} if len(made) < tours else {})))
        return made[-1]

    monkeypatch.setattr(birth, "Tour", tour)
    return made


@pytest.mark.parametrize("tours", [1, 1000])
def test_lost_answers_of_a_batch_are_resolved_by_reading_back(host, netns, monkeypatch, tours):
    blue, red = netns.make("blue"), netns.make("red")
    theirs = Host("other").connect([Veth(End(blue, f"e{i}"), End(red, f"e{i}")) for i in range(0, 200, 2)])
    assert all(r.ok for r in theirs)
    made = lossy(monkeypatch, tours)
    results = host.connect(
        [Veth(End(blue, f"e{i}", [f"10.{i}.0.1/24"]), End(red, f"e{i}", [f"10.{i}.0.2/24"])) for i in range(200)]
    )
    assert any(visit.overrun for visit in made[0].visits)
    assert [r.ok for r in results] == [i % 2 == 1 for i in range(200)]
    assert all(isinstance(r.error, NameInUse) for r in results[::2])
    for end in (0, 1):
        rows = {row["ifname"]: row for row in ip_json((blue, red)[end], "link", "show")}
        assert len(rows) == 201
        for i, (mine, other) in enumerate(zip(results[1::2], theirs, strict=True)):
            assert rows[f"e{2 * i}"]["ifindex"] == other.wired.places[end].ifindex
            assert rows[f"e{2 * i}"]["ifalias"].startswith("fastnl/other/")
            assert rows[f"e{2 * i + 1}"]["ifindex"] == mine.wired.places[end].ifindex
    assert all(ping(blue, f"10.{i}.0.2") for i in (1, 99, 199))


def test_with_answers_lost_an_interface_that_has_our_index_is_left_alone(host, netns, foreign, monkeypatch):
    blue, red = netns.make("blue"), netns.make("red")
    assert all(r.ok for r in Host("other").connect([Veth(End(blue, f"e{i}"), End(red, f"e{i}")) for i in range(99)]))
    lossy(monkeypatch, 1)
    # the last of the batch, so that its answer is among those that are lost
    taken = host._next_index + 2 * 99
    foreign(blue, "foreign", index=taken)
    *others, last = host.connect([Veth(End(blue, f"e{i}", ["10.0.0.1/24"]), End(red, f"e{i}")) for i in range(100)])
    assert not any(r.ok for r in others)
    assert last.ok
    assert last.wired.places[0].ifindex != taken
    [row] = ip_json(blue, "addr", "show", "foreign")
    assert (row["ifindex"], row.get("ifalias"), row["addr_info"], "UP" in row["flags"]) == (taken, None, [], False)


# -- namespaces and threads ------------------------------------------------------------------------


def test_a_namespace_that_cannot_be_entered_fails_its_messages_and_no_others(ns):
    with open("/dev/null") as null:
        tour = Tour(4)
        bad, closed, good = tour.visit(null.fileno()), tour.visit(-1), tour.visit(ns)
        bad.change(0, 1, up=True)
        bad.change(1, 1, up=True)
        closed.change(2, 1, up=True)
        good.change(3, 1, up=True)
        tour.run()
    assert bad.failure == (errno.EINVAL, "entering the namespace")
    assert closed.failure == (errno.EBADF, "entering the namespace")
    assert good.failure is None
    assert [(p.item, p.errno) for p in tour.problems()] == [(0, errno.EINVAL), (1, errno.EINVAL), (2, errno.EBADF)]


def test_the_process_stays_where_it_is(ns):
    def where() -> set[int]:
        out = set()
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                out.add((task / "ns/net").stat().st_ino)
        return out

    [here] = where()
    for threads in (1, 8):
        tour = Tour(1)
        for _ in range(20):
            tour.visit(ns).change(0, 1, up=True)
        tour.run(threads)
        # a thread that has ended is still listed for a moment, there where it was last
        assert eventually(lambda: where() == {here})
    assert netns_identity(ns)[0] != here


@pytest.mark.parametrize("threads", [1, 2, 16, 1000])
def test_several_namespaces_at_a_time_give_the_same(threads):
    fds = [new_netns() for _ in range(20)]
    try:
        before = Census.take()
        tour = Tour(20)
        visits = [tour.visit(fd) for fd in fds]
        for i, visit in enumerate(visits):
            visit.change(i, 1, up=True)
            visit.address(i, 1 if i % 5 else 99, Address(f"10.0.{i}.1/32"))
        tour.run(threads)
        assert before.leaks() == []
        assert [p.item for p in tour.problems()] == [0, 5, 10, 15]
        assert [addresses(fd) for fd in fds] == [{f"10.0.{i}.1/32"} if i % 5 else set() for i in range(20)]
    finally:
        for fd in fds:
            os.close(fd)


def test_a_cookie_tells_namespaces_apart(ns, host):
    if not host.features.cookie:
        pytest.skip("this kernel has no SO_NETNS_COOKIE")
    other = new_netns()
    tour = Tour(1)
    visits = [tour.visit(fd, asks=True) for fd in (ns, other, ns)]
    for visit in visits:
        visit.get_link(0, 1)
    tour.run()
    os.close(other)
    assert visits[0].cookie == visits[2].cookie != visits[1].cookie


GIL = """
import os, sys, threading
from fastnl._nl import Tour, new_netns
folder = sys.argv[1]
tour = Tour(1)
visit = tour.visit(new_netns())
# a file that is written before the messages, here a pipe: its open waits for a reader
visit.no_ipv6(0, "../../../../../.." + folder)
runner = threading.Thread(target=tour.run)
runner.start()
with open(folder + "/disable_ipv6", "rb") as pipe:
    assert pipe.read() == b"1"
runner.join()
assert visit.file_errors == 0
print("both went on")
"""


def test_the_gil_is_released_while_a_tour_runs(tmp_path):
    # deterministic: the tour cannot end before another Python thread has done its part
    os.mkfifo(tmp_path / "disable_ipv6")
    done = subprocess.run(
        [sys.executable, "-c", GIL, str(tmp_path)], check=True, capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert done.stdout == "both went on\n"


# -- on whose thread -------------------------------------------------------------------------------

libc = ctypes.CDLL(None, use_errno=True)


def on_a_thread(do: Callable[[], None]) -> None:
    """Does it on a thread that is not the main one; raises what it raises."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(do).result()


def here() -> int:
    """The calling thread's namespace."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def whereabouts() -> dict[int, int]:
    """The namespace of each thread, and under 0 that of /proc/self."""
    out = {0: os.stat("/proc/self/ns/net").st_ino}
    for tid in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            out[int(tid)] = os.stat(f"/proc/self/task/{tid}/ns/net").st_ino
    return out


def halfway(tour: Tour, fd: int, folder: Path, look: Callable[[], Any], *, may: bool = True) -> Any:
    """Makes a tour on the calling thread, with one more visit; gives what `look` sees while it is in there."""
    # a file that is written before the messages, here a pipe: its open waits for a reader
    os.mkfifo(folder / "disable_ipv6")
    tour.visit(fd).no_ipv6(0, f"../../../../../..{folder}")
    seen = []

    def spy() -> None:
        if eventually(lambda: os.fstat(fd).st_ino in whereabouts().values()):
            seen.append(look())
        (folder / "disable_ipv6").read_bytes()

    with ThreadPoolExecutor(1) as pool:
        spied = pool.submit(spy)
        tour.run(here=may)
        spied.result()
    assert seen, "no thread was in the namespace"
    return seen[0]


def test_a_tour_that_may_be_made_here_is_made_on_the_thread_that_asks_which_is_back_then(ns, tmp_path):
    home = here()

    def work() -> None:
        threads = set(whereabouts())
        seen = halfway(Tour(1), ns, tmp_path, whereabouts)
        tid = threading.get_native_id()
        assert seen.pop(tid) == os.fstat(ns).st_ino
        assert set(seen.values()) == {home}
        assert len(set(seen) - threads) == 1  # the spy
        assert here() == home

    on_a_thread(work)


def test_a_tour_is_made_on_a_thread_of_its_own_otherwise(ns, tmp_path):
    def work() -> None:
        seen = halfway(Tour(1), ns, tmp_path, whereabouts, may=False)
        assert seen[threading.get_native_id()] == here() != os.fstat(ns).st_ino

    on_a_thread(work)


def test_a_tour_that_the_main_thread_asks_for_is_made_on_another(ns, tmp_path):
    """/proc/self and /proc/net, which every thread may look at, are the main thread's."""
    assert threading.get_native_id() == os.getpid()
    home = here()
    seen = halfway(Tour(1), ns, tmp_path, whereabouts)
    assert seen[0] == seen[os.getpid()] == home
    assert list(seen.values()).count(os.fstat(ns).st_ino) == 1
    assert here() == home


def test_the_process_is_never_seen_away_from_home_while_its_main_thread_makes_tours(ns):
    home, over = os.readlink("/proc/self/ns/net"), threading.Event()
    seen: set[str] = set()

    def watch() -> int:
        looks = 0
        while not over.is_set():
            seen.add(os.readlink("/proc/self/ns/net"))
            looks += 1
        return looks

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            for n in range(300):
                tour = Tour(50)
                visit = tour.visit(ns)
                for i, address in enumerate(some(50)):
                    visit.address(i, 100 + n % 2, address)
                tour.run(here=True)
        finally:
            over.set()
        assert watching.result() > 300
    assert seen == {home}


def test_a_thread_that_lives_elsewhere_is_brought_back_there(ns):
    elsewhere = new_netns()

    def work() -> None:
        assert libc.setns(elsewhere, 0) == 0
        tour = Tour(1)
        visit = tour.visit(ns, asks=True)
        visit.dump_links()
        tour.run(here=True)
        assert {row.ifname for row in visit.rows()} == {"lo", "e0", "e1"}
        assert here() == os.fstat(elsewhere).st_ino != os.fstat(ns).st_ino

    with ThreadPoolExecutor(1) as pool:  # which ends with it
        pool.submit(work).result()
    os.close(elsewhere)


@pytest.mark.parametrize("bad", [[0], [1], [2], [0, 1, 2]])
@pytest.mark.parametrize("kind", ["closed", "no namespace"])
def test_a_thread_is_back_whatever_became_of_the_visits(ns, bad, kind):
    def work() -> None:
        home = here()
        null = os.open("/dev/null", os.O_RDONLY)
        closed = fcntl.fcntl(null, fcntl.F_DUPFD, 900)  # a number that nothing else gets meanwhile
        os.close(closed)
        tour = Tour(3)
        for i, address in enumerate(some(3)):
            fd = {"closed": closed, "no namespace": null}[kind] if i in bad else ns
            tour.visit(fd).address(i, 100, address)
        tour.run(here=True)
        os.close(null)
        number = {"closed": errno.EBADF, "no namespace": errno.EINVAL}[kind]
        assert [(p.item, p.errno) for p in tour.problems()] == [(i, number) for i in bad]
        assert here() == home
        assert addresses(ns) == {a.text for i, a in enumerate(some(3)) if i not in bad}

    on_a_thread(work)


def test_a_thread_is_back_from_a_namespace_that_nobody_else_holds(ns):
    def work() -> None:
        home = here()
        for _ in range(20):
            fd = new_netns()
            tour = Tour(1)
            tour.visit(fd).change(0, 1, up=True)
            tour.run(here=True)
            os.close(fd)
            assert (tour.problems(), here()) == ([], home)

    on_a_thread(work)


def signals_blocked(tid: int) -> int:
    [mask] = [row.split()[1] for row in Path(f"/proc/self/task/{tid}/status").read_text().splitlines()
              if row.startswith("SigBlk")]  # fmt: skip
    return int(mask, 16)


@pytest.mark.parametrize("mine", [set(), {signal.SIGUSR1}, {signal.SIGUSR1, signal.SIGTERM}])
def test_no_signal_is_handled_away_from_home_and_afterwards_those_that_were(ns, tmp_path, mine):
    def work() -> None:
        tid = threading.get_native_id()
        before = signal.pthread_sigmask(signal.SIG_SETMASK, mine)
        during = halfway(Tour(1), ns, tmp_path, lambda: signals_blocked(tid))
        after = signal.pthread_sigmask(signal.SIG_SETMASK, before)
        # all but those that cannot be, and two that are the C library's own
        cannot = {signal.SIGKILL, signal.SIGSTOP}
        assert all(during >> number - 1 & 1 for number in signal.valid_signals() - cannot)
        assert after == mine

    on_a_thread(work)


def test_several_threads_make_tours_at_once_and_each_is_back():
    places = [new_netns() for _ in range(8)]

    def work(n: int) -> None:
        home = here()
        for i in range(30):
            fd = places[(n + i) % len(places)]
            tour = Tour(1)
            tour.visit(fd).address(0, 1, Address(f"10.{n}.{i}.1/32"))
            tour.run(here=True)
            assert (tour.problems(), here()) == ([], home)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, n) for n in range(8)]:
            done.result()
    assert [len(addresses(fd)) for fd in places] == [30] * 8
    assert len(set().union(*map(addresses, places))) == 240
    for fd in places:
        os.close(fd)


NO_WAY_BACK = """
import ctypes, os, sys, threading
from fastnl import Address
from fastnl._nl import Tour, new_netns
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER = 0x10000000
if libc.unshare(CLONE_NEWUSER) != 0:
    print("none:", os.strerror(ctypes.get_errno()))
    sys.exit()
fd = new_netns()  # belongs to the new user namespace; that of the process does not

def work():
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert libc.setns(home, 0) != 0, "it may go back"
    tour = Tour(1)
    visit = tour.visit(fd)
    visit.change(0, 1, up=True)
    visit.address(0, 1, Address("10.0.0.1/32"))
    mask = open("/proc/thread-self/status").read().partition("SigBlk:")[2].split()[0]
    tour.run(here=True)
    assert tour.problems() == []
    assert os.stat("/proc/thread-self/ns/net").st_ino == os.fstat(home).st_ino
    assert open("/proc/thread-self/status").read().partition("SigBlk:")[2].split()[0] == mask
    asking = Tour(1)
    visit = asking.visit(fd, asks=True)
    visit.dump_addresses()
    asking.run(here=True)
    print([row.address for row in visit.rows() if row.address.startswith("10.")], end="")
    os.close(home)

fds = len(os.listdir("/proc/self/fd"))
worker = threading.Thread(target=work)
worker.start()
worker.join()
assert len(os.listdir("/proc/self/fd")) == fds
"""


def test_a_thread_that_could_not_come_back_does_not_go(ns):
    """Without CAP_SYS_ADMIN over its own namespace, but over the one that is visited."""
    done = subprocess.run([sys.executable, "-c", NO_WAY_BACK], check=False, capture_output=True, text=True, timeout=60)
    if done.stdout.startswith("none:"):
        pytest.skip(f"no user namespaces here: {done.stdout}")
    assert (done.returncode, done.stdout) == (0, "['10.0.0.1/32']"), done.stderr


def test_one_host_serves_several_threads(host, netns):
    names = netns.many(4)
    errors = []

    def work(n: int) -> None:
        for i in range(5):
            made = host.connect(
                [Veth(End(names[n], f"t{n}-{i}-{k}"), End(names[n - 1], f"t{n}-{i}-{k}")) for k in range(10)]
            )
            errors.extend(r.error for r in made if r.error)
            errors.extend(r for r in host.disconnect([r.wired for r in made if r.wired]) if not r.changed)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert errors == []
    assert [len(ip_json(name, "link", "show")) for name in names] == [1] * 4


def test_indexes_are_handed_out_once(host):
    taken = [host.take_indexes(2) for _ in range(100)]
    assert all(after[0] == before[1] + 1 for before, after in pairwise(taken))
    host._next_index = (1 << 31) - 1025
    last = host.take_indexes(2)
    assert last[1] < 1 << 31
    assert host.take_indexes(1) == (1 << 20,)


# -- questions -------------------------------------------------------------------------------------


def test_a_rule_is_added_and_removed(ns):
    rules = [
        Rule(table=1000, source="10.0.0.0/8", priority=77, fwmark=5, iif="e0"),
        Rule(table=300, to="fd00::/8", priority=78),
    ]
    for add in (True, False):
        tour = Tour(1)
        visit = tour.visit(ns)
        for rule in rules:
            visit.rule(0, rule, add)
        tour.run()
        assert tour.problems() == []
        found = {
            (r.family, r.priority, r.table, r.source, r.to, r.iif)
            for r in ask(ns, "dump_rules")
            if r.priority in (77, 78)
        }
        assert found == ({(2, 77, 1000, "10.0.0.0/8", "", "e0"), (10, 78, 300, "", "fd00::/8", "")} if add else set())


def test_an_interface_is_asked_for_by_index_and_by_name(ns):
    tour = Tour(4)
    visit = tour.visit(ns, asks=True)
    visit.get_link(0, 100)
    visit.get_link(1, name="e1")
    visit.get_link(2, name="nosuch")
    visit.get_link(3, 9999)
    tour.run()
    assert [(row.ifindex, row.ifname) for row in visit.rows()] == [(100, "e0"), (101, "e1")]
    assert [(p.item, p.errno) for p in tour.problems()] == [(2, errno.ENODEV), (3, errno.ENODEV)]


def test_answers_to_a_question_that_are_lost_are_asked_for_again_and_what_came_is_used(ns):
    # the answer fits, its acknowledgement does not
    tour = Tour(1, rcvbuf=1)
    visit = tour.visit(ns, asks=True)
    visit.get_link(0, 100)
    tour.run()
    assert [row.ifname for row in visit.rows()] == ["e0"]
    assert tour.problems() == []


def test_an_interface_is_deleted_by_index_and_by_name(ns):
    tour = Tour(1)
    visit = tour.visit(ns)
    visit.veth(0, Veth(End("", "x0"), End("", "x1")), ns, 200, ns, 201)
    visit.delete(0, 200)
    visit.delete_name(0, "e1")
    tour.run()
    assert tour.problems() == []
    assert [row.ifname for row in ask(ns, "dump_links")] == ["lo"]


def test_counters_count(host, netns):
    blue, red = netns.make("blue"), netns.make("red")
    host.connect([Veth(End(blue, "e0", ["10.0.0.1/24"]), End(red, "e0", ["10.0.0.2/24"]))])
    assert ping(blue, "10.0.0.2", count=3)
    [row] = [row for row in host.links(blue, stats=True) if row.ifname == "e0"]
    assert row.stats["tx_packets"] >= 3
    assert row.stats["rx_bytes"] >= 3 * 84
    [counted] = ip_json(blue, "-s", "link", "show", "e0")
    assert counted["stats64"]["tx"]["packets"] >= row.stats["tx_packets"]


def test_a_dump_under_churn_still_holds_everything_that_stays(host, netns):
    blue, red = netns.make("blue"), netns.make("red")
    stay = {f"stay{i}" for i in range(150)}
    assert all(r.ok for r in host.connect([Veth(End(blue, name), End(red, name)) for name in stay]))
    stop = threading.Event()

    def churn() -> None:
        other = Host("churn")
        while not stop.is_set():
            made = other.connect([Veth(End(blue, f"c{i}"), End(red, f"c{i}")) for i in range(20)])
            other.disconnect([r.wired for r in made])

    worker = threading.Thread(target=churn)
    worker.start()
    try:
        for _ in range(40):
            tour = Tour(1)
            with open("/run/netns/blue") as f:
                visit = tour.visit(f.fileno(), asks=True)
                visit.dump_links()
                tour.run()
            assert tour.problems() == []
            names = [row.ifname for row in visit.rows()]
            # a dump that stayed inconsistent through every try says so, and only then may miss any
            assert visit.interrupted or (stay <= set(names) and len(names) == len(set(names)))
    finally:
        stop.set()
        worker.join()


def test_files_are_written_inside_the_namespace(ns):
    tour = Tour(1)
    visit = tour.visit(ns)
    visit.no_ipv6(0, "e0")
    visit.no_ipv6(0, "nosuch")
    tour.run()
    assert visit.files() == [(0, f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6") for name in ("e0", "nosuch")]
    assert visit.file_errors == 1
    assert not Path("/proc/sys/net/ipv6/conf/e0").exists()
    # IPv6 is off on e0 and on for e1
    more = Tour(2)
    visit = more.visit(ns)
    visit.address(0, 100, Address("fd00::1/64"))
    visit.address(1, 101, Address("fd00::2/64"))
    more.run()
    assert [(p.item, p.errno) for p in more.problems()] == [(0, errno.EACCES)]


def test_a_file_that_says_what_is_so_for_new_interfaces_is_not_written(ns):
    # e0 was made before, which shows that nothing is written
    default = Tour(1)
    default.visit(ns).allow_ipv6(0, 0, "e0")
    default.visit(ns).no_ipv6(0, "default")
    default.run()
    assert read_settings(ns, [f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6" for name in ("default", "e0")]) == [
        "1",
        "0",
    ]
    tour = Tour(1)
    visit = tour.visit(ns)
    visit.no_ipv6(0, "e0")
    visit.route_localnet(0, 0, "e0")
    tour.run()
    assert visit.file_errors == 0
    assert read_settings(
        ns, ["/proc/sys/net/ipv6/conf/e0/disable_ipv6", "/proc/sys/net/ipv4/conf/e0/route_localnet"]
    ) == ["0", "1"]  # fmt: skip

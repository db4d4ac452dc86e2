"""Descriptors of namespaces that come along on a Unix socket, and the relay that receives them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import subprocess
import threading
import time

import grpc
import pytest

from fastnl._nl import new_netns
from fastnl.netns import handle_reference, open_reference
from fastnl.testing import PATIENCE, eventually, ping
from fastnl_engine.adapters.nsm import inodes
from fastnl_engine.adapters.nsm import relay as relays
from fastnl_engine.adapters.nsm.inodes import Inodes
from fastnl_engine.adapters.nsm.pb import connection_pb2
from fastnl_engine.adapters.nsm.pb.connection_pb2 import MonitorScopeSelector
from fastnl_engine.adapters.nsm.pb.crossconnect_pb2 import CrossConnect
from fastnl_engine.adapters.nsm.relay import Relay
from fastnl_engine.adapters.nsm.testing import Events, Forwarder, Manager, Passing, addresses, kernel, request

ADDRESSES = ("172.16.1.1/32", "172.16.1.2/32")


class Hidden:
    """A namespace that has neither a name nor a process, just a descriptor in the process of the tests."""

    def __init__(self):
        self.fd = new_netns()
        self.reference = handle_reference(self.fd)
        if self.reference is None:
            self.close()
            pytest.skip("this kernel has no handles of namespaces")
        self.url = f"inode://{os.fstat(self.fd).st_dev}/{os.fstat(self.fd).st_ino}"
        self.path = f"../../proc/{os.getpid()}/fd/{self.fd}"  # for what expects a name in /run/netns

    def links(self):
        command = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self.fd}", "ip", "-j", "link"]
        return {
            row["ifname"]: row for row in json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        }

    def is_there(self):
        try:
            os.close(open_reference(self.reference))
        except Exception:
            return False
        return True

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


@pytest.fixture
def hidden(nothing_left):
    hidden = Hidden()
    yield hidden
    hidden.close()


@pytest.fixture
def manager(tmp_path):
    with Manager(f"unix:{tmp_path}/manager.sock") as manager:
        yield manager


@pytest.fixture
def forwarder(make_forwarder, manager, red):
    manager.endpoint = kernel("nse0", f"file:///run/netns/{red}", generation=2)
    manager.context = addresses(*ADDRESSES)
    forwarder = make_forwarder(env={"NSM_CONNECT_TO": manager.address.replace("unix:", "unix://"), "NSM_NAME": "fwd"})
    return forwarder.start()


@pytest.fixture
def passing(forwarder, tmp_path):
    """A client that can pass descriptors."""
    with Passing(f"{tmp_path}/client.sock", forwarder.target) as passing:
        yield passing


def test_a_namespace_that_only_a_descriptor_shows(forwarder, manager, passing, hidden, red, links):
    asked = request("c1", kernel("nsm0", hidden.url, generation=2))
    with Forwarder(passing.target) as nsm:
        with pytest.raises(grpc.RpcError) as caught:
            nsm.service.Request(asked, timeout=PATIENCE)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND and "descriptor" in caught.value.details()

        passing.send(hidden.fd)
        made = nsm.service.Request(asked, timeout=PATIENCE)
        # the client's own words, and not what they were taken for
        assert made.mechanism.parameters["inodeURL"] == hidden.url
        assert ping(hidden.path, "172.16.1.2") and ping(red, "172.16.1.1")
        index = hidden.links()["nsm0"]["ifindex"]

        nsm.service.Request(asked, timeout=PATIENCE)
        assert hidden.links()["nsm0"]["ifindex"] == index
    # what the engine was told outlives it, so nothing has to be passed again
    forwarder.hang_up()
    forwarder.kill()
    forwarder.start().resumed()
    forwarder.face().service.Request(asked, timeout=PATIENCE)
    assert hidden.links()["nsm0"]["ifindex"] == index
    assert forwarder.client().info()["totals"]["updated"] == 0
    forwarder.face().service.Close(made, timeout=PATIENCE)
    assert set(hidden.links()) == set(links(red)) == {"lo"}


def test_nobody_holds_what_was_passed(forwarder, passing, hidden, red, links):
    with Forwarder(passing.target) as nsm:
        passing.send(hidden.fd)
        nsm.service.Request(request("c1", kernel("nsm0", hidden.url, generation=2)), timeout=PATIENCE)
        with Events(nsm.monitor.MonitorConnections(MonitorScopeSelector())) as events:
            assert events.next().type == connection_pb2.INITIAL_STATE_TRANSFER
            hidden.close()
            [connection] = events.next().connections.values()
            assert connection.state == connection_pb2.DOWN
        assert not hidden.is_there()
    assert eventually(lambda: set(links(red)) == {"lo"})
    assert eventually(lambda: list(forwarder.client().list()) == [])


def test_a_descriptor_that_only_looks(forwarder, passing, hidden, red):
    """Clients open their namespace with O_PATH, which cannot be entered."""
    look = os.open(f"/proc/self/fd/{hidden.fd}", os.O_PATH)
    passing.send(look)
    os.close(look)
    with Forwarder(passing.target) as nsm:
        nsm.service.Request(request("c1", kernel("nsm0", hidden.url, generation=2)), timeout=PATIENCE)
    assert ping(hidden.path, "172.16.1.2")


def test_a_descriptor_that_comes_late(hidden, monkeypatch):
    monkeypatch.setattr(inodes, "LATE", PATIENCE)
    other = Hidden()
    number = os.fstat(hidden.fd).st_ino

    async def run():
        known = Inodes()
        assert await known.reference(number, may_be_passed=True) is None  # at once: nobody ever passed one
        known.passed(other.fd)
        looked_for = asyncio.create_task(known.reference(number, may_be_passed=True))
        await asyncio.sleep(0.1)
        known.passed(other.fd)
        known.passed(hidden.fd)
        assert await looked_for == hidden.reference

    asyncio.run(run())
    other.close()


def test_what_was_passed_is_not_looked_for(hidden, blue, monkeypatch):
    """Also where it has a name: no walk through /proc is needed."""
    walks = []
    monkeypatch.setattr(inodes, "walk", lambda: walks.append(1) or {})
    fd = os.open(f"/run/netns/{blue}", os.O_RDONLY)

    async def run():
        known, number = Inodes(), os.fstat(fd).st_ino
        known.passed(fd)
        assert await known.reference(number) == handle_reference(fd) and not walks
        # what a connection has already stays what it is called
        known.learn(number, f"name:{blue}")
        known.passed(fd)
        assert await known.reference(number) == f"name:{blue}" and not walks

    asyncio.run(run())
    os.close(fd)


def test_of_many_that_are_passed_some_are_remembered(hidden, monkeypatch):
    monkeypatch.setattr(inodes, "PASSED", 3)
    others = [Hidden() for _ in range(3)]

    async def run():
        known = Inodes()
        for one in (hidden, *others):
            known.passed(one.fd)
        assert await known.reference(os.fstat(hidden.fd).st_ino) is None
        assert await known.reference(os.fstat(others[0].fd).st_ino) == others[0].reference

    asyncio.run(run())
    for one in others:
        one.close()


def test_the_endpoints_descriptor_comes_with_the_answer(make_forwarder, tmp_path, hidden, blue):
    with (
        Manager(f"unix:{tmp_path}/m.sock") as manager,
        Returning(f"{tmp_path}/next.sock", manager.address, hidden.fd) as way,
    ):
        manager.endpoint = kernel("nse0", hidden.url, generation=2)
        manager.context = addresses(*ADDRESSES)
        forwarder = make_forwarder(env={"NSM_CONNECT_TO": way.target.replace("unix:", "unix://")}).start()
        asked = request("c1", kernel("nsm0", f"file:///run/netns/{blue}", generation=2))
        made = forwarder.face().service.Request(asked, timeout=PATIENCE)
        assert ping(blue, "172.16.1.2") and ping(hidden.path, "172.16.1.1")
        # and goes back with what refers to it, as the next hop would wait for it
        assert hidden.reference not in way.came
        asked.connection.CopyFrom(made)
        forwarder.face().service.Request(asked, timeout=PATIENCE)
        assert eventually(lambda: way.came.count(hidden.reference) == 1)
        forwarder.face().service.Close(made, timeout=PATIENCE)
        assert eventually(lambda: way.came.count(hidden.reference) == 2)
        assert forwarder.stop() == 0


def test_what_cannot_be_passed_on_is_not_held(forwarder, manager, passing, hidden, blue):
    """The next hop is away, and descriptors for it would wait until it is there again."""
    manager.endpoint = kernel("nse0", hidden.url, generation=2)
    asked = request("c1", kernel("nsm0", f"file:///run/netns/{blue}", generation=2))
    with Forwarder(passing.target) as nsm:
        passing.send(hidden.fd)
        asked.connection.CopyFrom(nsm.service.Request(asked, timeout=PATIENCE))
        manager.stop()
        with pytest.raises(grpc.RpcError) as caught:
            nsm.service.Request(asked, timeout=PATIENCE)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    hidden.close()
    assert eventually(lambda: not hidden.is_there())


class Returning:
    """Before a manager: sends a descriptor along with everything that goes back to who asks."""

    def __init__(self, place, target, fd):
        self.target = f"unix:{place}"
        self.came = []
        self._to = target.removeprefix("unix:")
        self._fd = fd
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(place)
        self._listening.listen()
        self._sockets = [self._listening]
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *_):
        for one in list(self._sockets):
            _shut(one)
        for thread in list(self._threads):
            thread.join()
        for one in self._sockets:
            one.close()

    def _accept(self):
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._to)
            self._sockets += [near, far]
            for pump in (self._there, self._back):
                self._threads.append(threading.Thread(target=pump, args=(near, far)))
                self._threads[-1].start()

    def _there(self, near, far):
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(near, 65536, 16)
            except OSError:
                break
            for fd in fds:
                self.came.append(handle_reference(fd))
                os.close(fd)
            if not data:
                break
            far.sendall(data)
        _shut(far)

    def _back(self, near, far):
        try:
            while data := far.recv(65536):
                socket.send_fds(near, [data[:1]], [self._fd])
                near.sendall(data[1:])
        except OSError:
            pass
        _shut(near)


def _shut(one):
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


def test_a_client_whose_connection_breaks_leaves_nothing(forwarder, manager, tmp_path, blue, red, links):
    manager.delay = 1.0
    asked = request("c1", kernel("nsm0", f"file:///run/netns/{blue}", generation=2))
    with Passing(f"{tmp_path}/breaks.sock", forwarder.target) as way, Forwarder(way.target) as nsm:
        call = nsm.service.Request.future(asked, timeout=PATIENCE)
        assert eventually(lambda: manager.asked)
        way.cut()
        assert call.exception(timeout=PATIENCE).code() == grpc.StatusCode.UNAVAILABLE
    assert eventually(lambda: manager.closed)
    assert eventually(lambda: list(forwarder.client().list()) == [])
    assert set(links(blue)) == set(links(red)) == {"lo"}


def test_descriptors_that_are_none_of_our_business_are_closed(forwarder, manager, red):
    forwarder.face().cross.Close(CrossConnect(id="none"), timeout=PATIENCE)
    assert eventually(lambda: manager.endpoints)  # its connection to the registry is there, too
    before = forwarder.held()
    with socket.socket(socket.AF_UNIX) as client, open("/dev/null") as null:
        client.connect(forwarder.target.removeprefix("unix:"))
        reading, writing = os.pipe()
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        for _ in range(200):
            socket.send_fds(client, [b"\0"], [null.fileno(), reading, writing] * 20)
        os.close(reading)
        os.close(writing)
        assert eventually(lambda: forwarder.held() <= before + 3), (
            forwarder.held(),
            before,
        )  # of the connection itself
    assert eventually(lambda: forwarder.held() <= before)


# -- the relay by itself -----------------------------------------------------------------------------


def relayed(tmp_path, serve, test):
    """Runs `test(path)` on a thread against a relay whose target is served by `serve(socket)`, on another one each."""

    async def run():
        target, place = f"{tmp_path}/target", f"{tmp_path}/relay"
        with socket.socket(socket.AF_UNIX) as far, socket.socket(socket.AF_UNIX) as near:
            far.bind(target)
            far.listen()
            near.bind(place)
            near.listen()
            relay = Relay(near, target, lambda fd: None)

            def accept():
                one, _ = far.accept()
                with one:
                    serve(one)

            served = asyncio.create_task(asyncio.to_thread(accept))
            await asyncio.to_thread(test, place)
            await served
            for _ in range(500):
                if not relay._lines:
                    break
                await asyncio.sleep(0.01)
            assert not relay._lines
            relay.close()

    asyncio.run(run())


def test_a_slow_reader_keeps_the_other_side_from_writing(tmp_path):
    size = 20 << 20
    written = 0

    def serve(one):
        nonlocal written
        one.settimeout(0.5)
        with pytest.raises(TimeoutError):
            while True:
                written += one.send(b"x" * 65536)
        one.settimeout(PATIENCE)
        while written < size:
            written += one.send(b"x" * min(65536, size - written))

    def test(place):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(place)
            client.send(b"?")
            time.sleep(1)
            assert written < size // 4  # the kernel's buffers and one chunk
            assert sum(len(data) for data in iter(lambda: client.recv(1 << 20), b"")) == size

    relayed(tmp_path, serve, test)


def test_an_end_of_one_direction_leaves_the_other(tmp_path):
    def serve(one):
        everything = b"".join(iter(lambda: one.recv(65536), b""))
        time.sleep(0.1)
        one.sendall(everything[::-1])

    def test(place):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(place)
            client.sendall(bytes(range(256)) * 4000)
            client.shutdown(socket.SHUT_WR)
            assert b"".join(iter(lambda: client.recv(65536), b""))[::-1] == bytes(range(256)) * 4000

    relayed(tmp_path, serve, test)


def test_those_who_say_nothing_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr(relays, "LINES", 50)

    def serve(one):
        one.sendall(one.recv(10))

    def test(place):
        silent = [socket.socket(socket.AF_UNIX) for _ in range(200)]
        for one in silent:
            one.connect(place)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(place)
            client.send(b"hello")
            assert client.recv(10) == b"hello"
        for one in silent:
            one.close()

    relayed(tmp_path, serve, test)


@pytest.mark.parametrize("descriptors", [True, False], ids=["away", "no descriptors"])
def test_a_target_that_cannot_be_reached_ends_the_client(tmp_path, descriptors):
    async def run():
        with socket.socket(socket.AF_UNIX) as near:
            near.bind(f"{tmp_path}/relay")
            near.listen()
            relay = Relay(near, f"{tmp_path}/nothing", lambda fd: None)

            def test():
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(PATIENCE)
                    client.connect(f"{tmp_path}/relay")
                    assert eventually(lambda: relay._lines)
                    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft if descriptors else 3, hard))
                    try:
                        client.send(b"?")
                        with contextlib.suppress(ConnectionResetError):  # of what was not read
                            assert client.recv(1) == b""
                    finally:
                        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

            await asyncio.to_thread(test)
            assert not relay._lines
            relay.close()

    asyncio.run(run())

"""Clients that open far more than they use: whoever means it is served, and nothing is left of the others."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from fastnl.testing import PATIENCE, eventually, ping
from fastnl_engine.adapters.nsm.inodes import inode_of
from fastnl_engine.adapters.nsm.relay import LINES
from fastnl_engine.adapters.nsm.testing import addresses, cross_connect, kernel

MANY = 10_000
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4  # kinds of frames, RFC 9113
END_HEADERS = 4


def pair(blue, red):
    sides = [kernel("nsm0", inode_of(f"name:{room}")) for room in (blue, red)]
    return cross_connect("1", *sides, addresses("172.16.1.1/30", "172.16.1.2/30"))


def serves(forwarder, blue, red):
    asked, nsm = pair(blue, red), forwarder.face()
    nsm.cross.Request(asked, timeout=PATIENCE, wait_for_ready=True)
    assert ping(blue, "172.16.1.2")
    nsm.cross.Close(asked, timeout=PATIENCE)


@pytest.mark.parametrize("words", [b"", b"PRI"])
def test_connections_that_say_nothing_or_too_little(forwarder, blue, red, words):
    serves(forwarder, blue, red)
    forwarder.hang_up()
    before = forwarder.held()
    place = forwarder.target.removeprefix("unix:")
    with contextlib.ExitStack() as stack:
        for _ in range(MANY):
            one = stack.enter_context(socket.socket(socket.AF_UNIX))
            one.connect(place)
            one.settimeout(PATIENCE)
            with contextlib.suppress(OSError):  # it may have been one too many
                one.send(words)
        assert forwarder.held() < before + 5000
        serves(forwarder, blue, red)
        forwarder.hang_up()
    assert eventually(lambda: forwarder.held() <= before), (forwarder.held(), before)


def test_as_many_as_there_may_be_that_begin_and_say_no_more(forwarder, blue, red):
    serves(forwarder, blue, red)
    forwarder.hang_up()
    before = forwarder.held()
    place = forwarder.target.removeprefix("unix:")
    with contextlib.ExitStack() as stack:
        for n in range(1, LINES + 1):
            one = stack.enter_context(socket.socket(socket.AF_UNIX))
            one.connect(place)
            one.send(b"PRI")
            if n % 64 == 0:  # each is worth a connection to gRPC by now, so none can be closed as a silent one
                assert eventually(lambda n=n: forwarder.held() >= 3 * n)
        serves(forwarder, blue, red)  # as soon as gRPC has had enough of them
        forwarder.hang_up()
    assert eventually(lambda: forwarder.held() <= before), (forwarder.held(), before)


def frame(kind, flags, stream, payload=b""):
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


def block(**fields):
    """Header fields, each as it is (RFC 7541, 6.2.2)."""
    out = b""
    for name, value in fields.items():
        text = [name.lstrip("_").replace("_", "-").encode(), value.encode()]
        text[0] = b":" + text[0] if name.startswith("_") else text[0]
        out += b"\0" + b"".join(bytes([len(t)]) + t for t in text)
    return out


@pytest.mark.parametrize(
    "path", ["/forwarder.Forwarder/Request", "/crossconnect.MonitorCrossConnect/MonitorCrossConnects"]
)
def test_streams_that_are_half_open(forwarder, blue, red, path):
    serves(forwarder, blue, red)
    forwarder.hang_up()
    before = forwarder.held()
    headers = block(
        _method="POST", _scheme="http", _path=path, _authority="localhost", content_type="application/grpc",
        te="trailers",
    )  # fmt: skip
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(forwarder.target.removeprefix("unix:"))
        client.sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, 1, 0))
        for first in range(0, MANY, 100):
            # headers, and half of a message
            some = b"".join(
                frame(HEADERS, END_HEADERS, 2 * n + 1, headers) + frame(DATA, 0, 2 * n + 1, b"\0\0\0\0\x50half")
                for n in range(first, first + 100)
            )
            with contextlib.suppress(OSError):  # it has had enough of us
                client.sendall(some)
        serves(forwarder, blue, red)
        forwarder.hang_up()
    assert eventually(lambda: forwarder.held() <= before), (forwarder.held(), before)
    serves(forwarder, blue, red)


def test_more_calls_than_one_client_may_have(forwarder, blue, red):
    nsm = forwarder.face()
    calls = [nsm.cross_monitor.MonitorCrossConnects(Empty()) for _ in range(2000)]
    serves(forwarder, blue, red)
    for call in calls:
        call.cancel()

    def is_served() -> bool:
        try:
            nsm.cross.Close(pair(blue, red), timeout=PATIENCE)
        except grpc.RpcError as e:
            # gRPC refuses a stream as long as its server has not let go of enough that the client has given up
            assert e.code() == grpc.StatusCode.UNAVAILABLE, e
            return False
        return True

    assert eventually(is_served)


def test_garbage(forwarder, blue, red):
    serves(forwarder, blue, red)
    forwarder.hang_up()
    before = forwarder.held()
    for words in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(100_000), PREFACE + os.urandom(100_000), b"\0" * 1_000_000):
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.settimeout(PATIENCE)
            client.connect(forwarder.target.removeprefix("unix:"))
            client.sendall(words)
            client.recv(1000)
    serves(forwarder, blue, red)
    forwarder.hang_up()
    assert eventually(lambda: forwarder.held() <= before), (forwarder.held(), before)


def test_messages_that_are_none(forwarder, blue, red):
    nsm = forwarder.face()
    for words in (b"\xff" * 50, b"\x0a\xff\xff\xff\xff\x0f", os.urandom(1000)):
        for method in ("/forwarder.Forwarder/Request", "/networkservice.NetworkService/Request"):
            with pytest.raises(grpc.RpcError) as caught:
                nsm.channel.unary_unary(method)(words, timeout=PATIENCE)
            assert caught.value.code() != grpc.StatusCode.OK and caught.value.details()
    with pytest.raises(grpc.RpcError) as caught:
        nsm.channel.unary_unary("/forwarder.Forwarder/Nothing")(b"", timeout=PATIENCE)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    serves(forwarder, blue, red)

"""Replies that a client has not read when the engine stops."""

from __future__ import annotations

import threading

import pytest
import zmq

from fastnl.testing import PATIENCE
from fastnl_engine.peers import HIGH_WATER, Peers

MANY = 3 * HIGH_WATER


@pytest.fixture
def ends():
    """A ROUTER with its peers, and a client that takes one reply at a time."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as client:
        lost = []
        Peers.prepare(router)
        client.setsockopt(zmq.RCVHWM, 1)
        for socket in (router, client):
            socket.setsockopt(zmq.LINGER, 0)
        router.bind("inproc://engine")
        client.connect("inproc://engine")
        yield router, Peers(lambda: lost.append(1)), client, lost


def answer_all(router, peers, client):
    for n in range(MANY):
        client.send(b"%d" % n)
        route, asked = router.recv_multipart()
        peers.send(peers.asks(router, route), [route], asked)


def test_a_stop_waits_for_who_reads_slowly(ends):
    router, peers, client, lost = ends
    answer_all(router, peers, client)
    finished = threading.Event()

    def finish():
        peers.finish(PATIENCE)
        finished.set()

    thread = threading.Thread(target=finish)
    thread.start()
    assert not finished.wait(0.1)  # ZeroMQ cannot have taken all of them
    got = []
    for _ in range(MANY):
        assert client.poll(PATIENCE * 1000)
        got.append(int(client.recv()))
    thread.join(PATIENCE)
    assert finished.is_set()
    assert got == list(range(MANY))
    assert not lost


def test_a_stop_does_not_wait_long_for_who_does_not_read(ends):
    router, peers, client, lost = ends
    answer_all(router, peers, client)
    peers.finish(0.01)
    assert 0 < len(lost) < MANY  # what ZeroMQ had taken is not among them

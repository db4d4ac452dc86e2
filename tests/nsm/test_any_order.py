"""Requests, updates, Closes, namespaces that die and restarts, in any order: nothing is left, and nothing is wrong."""

from __future__ import annotations

import os
import random

import grpc
import pytest

from fastnl.testing import PATIENCE, eventually
from fastnl_engine.adapters.nsm.inodes import inode_of
from fastnl_engine.adapters.nsm.pb.crossconnect_pb2 import CrossConnect
from fastnl_engine.adapters.nsm.testing import Manager, addresses, cross_connect, kernel, request

STEPS = int(os.environ.get("FASTNL_NSM_STEPS", "40"))
ROOMS = ("blue", "red", "green", "grey")
# what may come of a name or a namespace that another one has, or that has just gone
EXPECTED = {"ALREADY_EXISTS", "NOT_FOUND", "ABORTED", "FAILED_PRECONDITION"}


class Mesh:
    """What a generation asks for, and with which id the engine then has it."""

    def __init__(self, forwarder, manager, generation):
        self.forwarder = forwarder
        self.manager = manager
        self.generation = generation
        self.made = {}

    def ask(self, id_, ends, mtu):
        names = [kernel(name, inode_of(f"name:{room}"), generation=self.generation) for room, name in ends]
        context = addresses("172.16.1.1/30", "172.16.1.2/30")
        context.mtu = mtu
        face = self.forwarder.face()
        if self.generation == 1:
            face.cross.Request(cross_connect(id_, *names, context), timeout=PATIENCE)
            return
        self.manager.endpoint, self.manager.context = names[1], context
        asked = request(id_, names[0])
        if id_ in self.made:
            asked.connection.CopyFrom(self.made[id_])
            asked.connection.mechanism.CopyFrom(names[0])
            asked.connection.context.CopyFrom(context)
        self.made[id_] = face.service.Request(asked, timeout=PATIENCE)

    def close(self, id_):
        face = self.forwarder.face()
        if self.generation == 1:
            face.cross.Close(CrossConnect(id=id_), timeout=PATIENCE)
        else:
            face.service.Close(self.made.get(id_) or request(id_, kernel("x", 1)).connection, timeout=PATIENCE)


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize("seed", [1, 2])
def test_any_order(make_forwarder, netns, links, tmp_path, generation, seed):
    chance = random.Random(seed * 10 + generation)
    rooms = [netns.make(room) for room in ROOMS]
    with Manager(f"unix:{tmp_path}/m.sock") as manager:
        env = {"NSM_CONNECT_TO": manager.address.replace("unix:", "unix://")} if generation == 2 else {}
        forwarder = make_forwarder(env=env).start()
        mesh, history = Mesh(forwarder, manager, generation), []

        def agree():
            """What the engine has and what there is, as somebody else reads it."""
            wanted = {room: {"lo"} for room in rooms}
            for row in forwarder.client().list():
                assert row["state"] == "up", row
                for end in (row["a"], row["b"]):
                    wanted[end["netns"].removeprefix("name:")].add(end["ifname"])
            return wanted == {room: set(links(room)) for room in rooms}

        def settled():
            try:
                return agree()
            except AssertionError:
                return False

        for _ in range(STEPS):
            id_ = str(chance.randrange(5))
            what = chance.choices(["ask", "close", "kill", "restart"], [10, 5, 2, 1])[0]
            history.append((what, id_))
            try:
                if what == "ask":
                    ends = [(chance.choice(rooms), f"{side}{chance.randrange(4)}") for side in "ab"]
                    history[-1] += tuple(ends)
                    mesh.ask(id_, ends, chance.choice([0, 1400]))
                elif what == "close":
                    mesh.close(id_)
                elif what == "kill":
                    room = chance.choice(rooms)
                    netns.let_go(room)
                    netns.make(room)
                else:
                    forwarder.hang_up()
                    forwarder.kill()
                    forwarder.start().resumed()
            except grpc.RpcError as e:
                assert e.code().name in EXPECTED, (history, e)
            if what in ("kill", "restart"):
                assert eventually(settled), (history, list(forwarder.client().list()))
        assert eventually(settled), (history, list(forwarder.client().list()))
        for id_ in map(str, range(5)):
            mesh.close(id_)
        assert list(forwarder.client().list()) == [], history
        assert {room: set(links(room)) for room in rooms} == {room: {"lo"} for room in rooms}, history
        assert forwarder.stop() == 0
        assert "please report this" not in forwarder.log

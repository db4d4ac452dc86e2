"""gRPC in a process of its own: what happens to either of the two is not the other's end, and nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import grpc
import grpc.aio
import pytest

from fastnl.testing import PATIENCE, eventually, ping
from fastnl_engine.adapters.nsm.frames import LENGTH, Word, encode
from fastnl_engine.adapters.nsm.gate import Call, Gate
from fastnl_engine.adapters.nsm.inodes import inode_of
from fastnl_engine.adapters.nsm.speaker import CAP_NET_BIND_SERVICE
from fastnl_engine.adapters.nsm.testing import addresses, cross_connect, kernel

SIZE = 50_000  # bytes of a message


def runs(pid):
    return Path(f"/proc/{pid}").exists()


def pair(blue, red):
    sides = [kernel("nsm0", inode_of(f"name:{room}")) for room in (blue, red)]
    return cross_connect("1", *sides, addresses("172.16.1.1/30", "172.16.1.2/30"))


def test_its_end_is_a_new_beginning(forwarder, blue, red):
    forwarder.broken = True  # as what ended is a part of it
    nsm, asked = forwarder.face(), pair(blue, red)
    nsm.cross.Request(asked, timeout=PATIENCE)
    first = forwarder.speaker
    os.kill(first, signal.SIGKILL)
    assert eventually(lambda: forwarder.log.count("forwarding for the mesh") == 2), forwarder.log
    assert ping(blue, "172.16.1.2") and forwarder.speaker != first
    nsm.cross.Request(asked, timeout=PATIENCE, wait_for_ready=True)
    nsm.cross.Close(asked, timeout=PATIENCE)
    assert forwarder.running


def test_signals_are_for_the_engine(forwarder):
    speaker = forwarder.speaker
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(speaker, signum)
    forwarder.face().cross.Close(cross_connect("none", kernel("a", 1), kernel("b", 1)), timeout=PATIENCE)
    assert forwarder.speaker == speaker
    assert forwarder.stop() == 0 and not runs(speaker)


def test_strangers_talk_to_a_process_without_capabilities(forwarder, blue, red):
    tasks = list(Path(f"/proc/{forwarder.speaker}/task").iterdir())
    assert len(tasks) > 1
    for task in tasks:
        told = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())
        assert int(told["CapEff"], 16) | int(told["CapPrm"], 16) == 1 << CAP_NET_BIND_SERVICE
        assert told["NoNewPrivs"] == "1"
    asked = pair(blue, red)
    forwarder.face().cross.Request(asked, timeout=PATIENCE, wait_for_ready=True)
    assert ping(blue, "172.16.1.2")
    forwarder.face().cross.Close(asked, timeout=PATIENCE)


def test_it_ends_with_the_engine(forwarder):
    speaker = forwarder.speaker
    forwarder.kill()
    assert eventually(lambda: not runs(speaker))


class Served:
    """Handlers of calls without any service behind them."""

    def __init__(self):
        self.sent = 0
        self.asked = asyncio.Event()
        self.gone = asyncio.Event()
        self.remaining = None

    async def flood(self, request, context: Call):
        while True:
            self.sent += 1
            yield b"x" * SIZE

    async def three(self, request, context: Call):
        for n in range(3):
            yield bytes([n])

    async def wait(self, request, context: Call):
        self.remaining = context.time_remaining()
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.gone.set()

    async def refuse(self, request, context: Call):
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing", (("more-bin", b"\0\xff"),))

    async def defect(self, request, context: Call):
        raise RuntimeError("a defect")

    async def cancelled(self, request, context: Call):
        raise asyncio.CancelledError  # as of something that it has waited for

    def add_to(self, gate):
        single, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        make = {"flood": stream, "three": stream}
        make |= dict.fromkeys(("wait", "refuse", "defect", "cancelled"), single)
        handlers = {name: kind(getattr(self, name), bytes, bytes) for name, kind in make.items()}
        gate.add_registered_method_handlers("test", handlers)


def over_gate(tmp_path, check):
    async def run():
        broken = []
        gate = Gate(f"unix:{tmp_path}/served", None, [])
        try:
            served = Served()
            served.add_to(gate)
            await gate.start(broken.append)
            async with grpc.aio.insecure_channel(f"unix:{tmp_path}/served") as channel, asyncio.timeout(PATIENCE):
                await check(served, channel, gate)
                await done_with(gate)
            await gate.stop(0.1)
        finally:
            gate.close()
        assert not broken

    asyncio.run(run())


async def done_with(gate):
    while gate._calls:  # noqa: ASYNC110  it has no event for that, and the time is limited
        await asyncio.sleep(0.02)


def test_nothing_piles_up_for_who_reads_slowly(tmp_path):
    async def check(served, channel, gate):
        call = channel.unary_stream("/test/flood")(b"")
        assert len(await call.read()) == SIZE
        before = -1
        while served.sent > before:  # until it waits
            before = served.sent
            await asyncio.sleep(1)
        assert served.sent < 1000  # some are on their way: windows of HTTP/2, buffers of sockets
        for _ in range(before + 10):
            assert len(await call.read()) == SIZE
        assert served.sent > before
        call.cancel()

    over_gate(tmp_path, check)


def test_streams_end_and_calls_do(tmp_path):
    async def check(served, channel, gate):
        assert [message async for message in channel.unary_stream("/test/three")(b"")] == [b"\0", b"\1", b"\2"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/test/refuse")(b"")
        assert (caught.value.code().name, caught.value.details()) == ("NOT_FOUND", "no such thing")
        assert dict(caught.value.trailing_metadata())["more-bin"] == b"\0\xff"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/test/defect")(b"")
        assert caught.value.code().name == "INTERNAL" and "a defect" in caught.value.details()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/test/cancelled")(b"")
        assert caught.value.code().name == "CANCELLED"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/test/none")(b"")
        assert caught.value.code().name == "UNIMPLEMENTED"

    over_gate(tmp_path, check)


def test_whoever_waits_no_more_is_heard_of(tmp_path):
    async def check(served, channel, gate):
        call = channel.unary_unary("/test/wait")(b"", timeout=PATIENCE)
        await served.asked.wait()
        assert 0 < served.remaining <= PATIENCE
        call.cancel()
        await served.gone.wait()

    over_gate(tmp_path, check)


def test_a_call_that_is_over_before_it_began(tmp_path):
    async def check(served, channel, gate):
        frames = [encode(frame) for frame in ((Word.CALL, 77, "/test/wait", b"", None), (Word.GONE, 77))]
        gate._frames.data_received(b"".join(LENGTH.pack(len(frame)) + frame for frame in frames))
        await done_with(gate)
        assert not served.asked.is_set()

    over_gate(tmp_path, check)


def test_calls_that_do_not_stay_do_not_pile_up_for_an_engine_that_is_behind(tmp_path):
    async def check(served, channel, gate):
        def resident():
            return int(Path(f"/proc/{gate._process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

        before, message = resident(), bytes(3 << 20)
        gate._frames._transport.pause_reading()
        for _ in range(60):
            call = channel.unary_unary("/test/wait")(message)
            await asyncio.sleep(0.03)
            call.cancel()
        assert resident() - before < 100 << 20
        gate._frames._transport.resume_reading()
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary("/test/refuse")(b"")

    over_gate(tmp_path, check)


def test_a_process_that_hears_nothing_any_more(tmp_path):
    async def run():
        gate = Gate(f"unix:{tmp_path}/served", None, [])
        await gate.start(lambda e: None)
        os.kill(gate._process.pid, signal.SIGSTOP)
        for n in range(100):
            gate._frames.say(Word.ANSWER, n, bytes(SIZE))
        await gate.stop(0.1)
        gate.close()
        assert not runs(gate._process.pid)
        await asyncio.sleep(0)
        # the loop goes on, and has the descriptor's number for something else
        for end in (ends := socket.socketpair()):
            asyncio.get_running_loop().add_reader(end, print)
            asyncio.get_running_loop().remove_reader(end)
        for end in ends:
            end.close()

    asyncio.run(run())


def test_modules_of_the_folder_that_it_is_started_in_are_not_its(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("grpc.py").write_text("open('hole', 'w')")
    Gate(f"unix:{tmp_path}/served", None, []).close()
    assert not Path("hole").exists()


def test_calls_that_are_under_way_at_a_stop(tmp_path):
    async def run():
        gate, served = Gate(f"unix:{tmp_path}/served", None, []), Served()
        try:
            served.add_to(gate)
            await gate.start(lambda e: None)
            async with grpc.aio.insecure_channel(f"unix:{tmp_path}/served") as channel, asyncio.timeout(PATIENCE):
                call = channel.unary_unary("/test/wait")(b"")
                await served.asked.wait()
                await gate.stop(0.1)
                assert served.gone.is_set()
                with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
                    await call
        finally:
            gate.close()
        assert not runs(gate._process.pid)

    asyncio.run(run())


def test_an_address_that_cannot_be_had(tmp_path):
    with pytest.raises(OSError):
        Gate("192.0.2.77:1", None, [])
    with pytest.raises(OSError):
        Gate(f"unix:{tmp_path}/nowhere/served", None, [])

"""Writes down what a Host does, for bench/floor/floor.c to replay.

    host.trace = recorder = Recorder()
    recorder.begin()                # before each call of the host: a batch
    host.connect(...)
    recorder.write(path)

A recording is made of 32-bit numbers in this machine's byte order.  `list(x)` is a number and so many x;
`bytes` is a length and so many bytes, padded to four; a path ends in NUL:

    recording  magic, list(batch)
    batch      list(descriptor, path), list(tour)           namespaces in ascending order of descriptors
    tour       threads, list(visit)
    visit      descriptor, list(path of a file under FILES), list(bytes of a datagram)
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from fastnl._nl import Tour, Visit
from fastnl.netns import RUN_NETNS

MAGIC = 0x31524C46
FILES = "/proc/sys/net/ipv6/conf/"
NLM_F_ACK = 4


class Recorder:
    """Takes the place of Host.trace.  Knows the namespaces that are there when it is made, by their inodes.

    Only what went well can be replayed: a message that failed raises ValueError.
    """

    def __init__(self) -> None:
        self.messages = 0
        self.datagrams = 0
        self._batches: list[_Batch] = []
        own = f"/proc/{os.getpid()}/ns/net"
        self._paths = {entry.stat().st_ino: str(entry) for entry in Path(RUN_NETNS).iterdir()}
        self._paths[os.stat(own).st_ino] = own

    def begin(self) -> None:
        """From here on it is another batch: descriptors may mean other namespaces."""
        self._batches.append(_Batch())

    def __call__(self, tour: Tour, threads: int) -> None:
        visits = []
        for visit in tour.visits:
            self._batches[-1].spaces[visit.ns_fd] = self._paths[os.fstat(visit.ns_fd).st_ino]
            visits.append(self._visit(visit))
        self._batches[-1].tours.append(_number(min(threads, len(visits))) + _list(visits))

    def _visit(self, visit: Visit) -> bytes:
        if visit.failure or visit.file_errors or any(err for _, _, err in visit.states()):
            raise ValueError("a run with errors cannot be replayed")
        files = [_path(path.removeprefix(FILES)) for _, path in visit.files()]
        datagrams = [b""]
        for message, (_, sent, _) in zip(visit.messages(), visit.states(), strict=True):
            if not sent:
                continue
            datagrams[-1] += message
            self.messages += 1
            if struct.unpack_from("=HH", message, 4)[1] & NLM_F_ACK:
                datagrams.append(b"")
        if datagrams.pop():
            raise ValueError("a visit whose last message asks for no acknowledgement cannot be replayed")
        self.datagrams += len(datagrams)
        return _number(visit.ns_fd) + _list(files) + _list([_bytes(d) for d in datagrams])

    def write(self, path: Path) -> None:
        path.write_bytes(_number(MAGIC) + _list([batch.as_bytes() for batch in self._batches]))


class _Batch:
    def __init__(self) -> None:
        self.spaces: dict[int, str] = {}
        self.tours: list[bytes] = []

    def as_bytes(self) -> bytes:
        spaces = [_number(fd) + _path(path) for fd, path in sorted(self.spaces.items())]
        return _list(spaces) + _list(self.tours)


def _number(value: int) -> bytes:
    return struct.pack("=I", value)


def _list(parts: list[bytes]) -> bytes:
    return _number(len(parts)) + b"".join(parts)


def _bytes(value: bytes) -> bytes:
    return _number(len(value)) + value + bytes(-len(value) % 4)


def _path(path: str) -> bytes:
    return _bytes(os.fsencode(path) + b"\0")

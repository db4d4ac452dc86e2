"""Calls of gRPC over a Unix socket at little cost, so that a measurement shows the server and not its client.

HTTP/2 as far as that takes (RFC 9113): header fields go as they are, and those of replies are not read.  A call that
succeeds has a message in its reply; one that fails has trailers only.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS = 4
WINDOW = 65_535  # bytes of all streams that may be on their way until the other side says more
MOST = (1 << 31) - 1 - WINDOW
HEAD = 9


def unary(path: str, method: str, messages: Sequence[bytes], in_flight: int, wait: float) -> float:
    """Sends all, so many at a time; seconds until the last reply.  Raises RuntimeError for a call that failed."""
    fields = {
        ":method": "POST", ":scheme": "http", ":path": method, ":authority": "localhost",
        "content-type": "application/grpc", "te": "trailers",
    }  # fmt: skip
    headers = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(wait)
        server.connect(path)
        server.sendall(PREFACE + _frame(SETTINGS, 0, 0) + _frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", MOST)))
        began = time.perf_counter()
        _exchange(server, headers, messages, in_flight)
        return time.perf_counter() - began


def _exchange(server: socket.socket, headers: bytes, messages: Sequence[bytes], in_flight: int) -> None:
    sent = done = 0
    window = WINDOW
    answered: set[int] = set()
    got = b""
    while done < len(messages):
        out = b""
        while sent < len(messages) and sent - done < in_flight and window >= len(messages[sent]) + 5:
            body = struct.pack("!BI", 0, len(messages[sent])) + messages[sent]
            stream = 2 * sent + 1
            out += _frame(HEADERS, END_HEADERS, stream, headers) + _frame(DATA, END_STREAM, stream, body)
            window -= len(body)
            sent += 1
        if out:
            server.sendall(out)
        more = server.recv(1 << 16)
        if not more:
            raise RuntimeError("the server has hung up")
        got += more
        at = 0
        while len(got) >= at + HEAD and len(got) >= at + HEAD + (size := int.from_bytes(got[at : at + 3], "big")):
            kind, flags, stream = got[at + 3], got[at + 4], int.from_bytes(got[at + 5 : at + 9], "big")
            payload = got[at + HEAD : at + HEAD + size]
            at += HEAD + size
            if kind == DATA and payload:
                answered.add(stream)
            elif kind == WINDOW_UPDATE and stream == 0:
                window += int.from_bytes(payload, "big")
            elif kind in (SETTINGS, PING) and not flags & ACK:
                server.sendall(_frame(kind, ACK, 0, payload if kind == PING else b""))
            elif kind in (RST_STREAM, GOAWAY):
                raise RuntimeError(f"the server gave up: frame {kind}, {payload!r}")
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                if stream not in answered:
                    raise RuntimeError(f"call {stream // 2} failed: {payload!r}")
                done += 1
        got = got[at:]


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!IBI", len(payload) << 8 | kind, flags, stream) + payload


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()

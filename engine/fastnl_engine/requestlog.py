"""One line of the log for each request, and one for each failure.

There may be ten thousand requests a second, and the gateway's thread has other things to do: lines are put
together here, gathered, and written a few at a time.  The log of a stopped journal must not stop the engine, so
nothing is written that would have to wait; what finds no room is counted and told later.
"""

from __future__ import annotations

import json
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

FAILURES = 10  # of one request that get a line each; the others are counted
WARNINGS = 1000  # lines a second about what failed or was refused; beyond, they are counted
KEPT = 1 << 20  # bytes that wait for a log that does not take them
CHUNK = 4096  # bytes that a pipe takes at once or not at all, PIPE_BUF of include/uapi/linux/limits.h
TEXT = 1000  # characters of a message

QUESTIONS = ("list", "verify", "stats", "events", "info", "kv.get", "kv.range", "kv.watch")


class Asked:
    """A request as the log tells of it: what for, by whom, and since when (time.perf_counter)."""

    __slots__ = ("began", "op", "who")

    def __init__(self, op: str, who: str) -> None:
        self.op = op
        self.who = who
        self.began = time.perf_counter()


class RequestLog:
    """Lines as structlog's LogfmtRenderer writes them, on a file descriptor."""

    def __init__(self, level: str, fd: int = 2) -> None:
        self.level: int = getattr(logging, level.upper())
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._lock = threading.Lock()
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._lost = 0
        self._second = 0
        self._stamp = ""
        self._warnings = 0
        self._left_out = 0

    def done(self, asked: Asked, request: Any, results: Sequence[dict[str, Any]]) -> dict[str, int]:
        """A request has all its results; gives how many there are of each, by "ok" or the error's code."""
        failures = [r for r in results if not r["ok"]]
        if failures and self.level <= logging.WARNING:
            self._failed(asked, request, failures)
        # questions come every second from whoever watches the engine: they are for the curious
        if self.level <= (logging.DEBUG if asked.op in QUESTIONS else logging.INFO):
            self._put(
                f"op={asked.op} request={_value(request)} {asked.who} items={len(results)} failed={len(failures)} "
                f"ms={(time.perf_counter() - asked.began) * 1e3:.3f} event=request",
                "debug" if asked.op in QUESTIONS else "info",
            )
        counts = {"ok": len(results) - len(failures)} if len(failures) < len(results) else {}
        for result in failures:
            code = result["error"]["code"]
            counts[code] = counts.get(code, 0) + 1
        return counts

    def refused(self, asked: Asked, request: Any, code: str, message: str) -> None:
        """A request was refused as a whole."""
        self._warn(
            f"op={asked.op} request={_value(request)} {asked.who} code={code} message={_value(message)} event=refused"
        )

    def connection_failed(self, id_: str, error: dict[str, Any]) -> None:
        """A connection that should be up could not be made or mended."""
        self._warn(f"id={_value(id_)} {_words(error)} event={_value('connection failed')}")

    def _failed(self, asked: Asked, request: Any, failures: Sequence[dict[str, Any]]) -> None:
        bound = f"op={asked.op} request={_value(request)} {asked.who}"
        for result in failures[:FAILURES]:
            words = _words(result["error"])
            self._warn(f"id={_value(result.get('id'))} {words} {bound} event={_value('item failed')}")
        if len(failures) > FAILURES:
            self._warn(f"count={len(failures) - FAILURES} {bound} event={_value('more items failed')}")

    def _warn(self, line: str) -> None:
        if self.level > logging.WARNING:
            return
        if int(time.time()) != self._second:
            self._warnings = 0
        self._warnings += 1
        if self._warnings <= WARNINGS:
            if self._left_out:
                left_out, self._left_out = self._left_out, 0
                self._put(f"count={left_out} event={_value('more lines were left out')}", "warning")
            self._put(line, "warning")
        else:
            self._left_out += 1

    def _put(self, line: str, level: str) -> None:
        now = time.time()
        with self._lock:
            if int(now) != self._second:
                self._second = int(now)
                self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
            text = f"{line} level={level} timestamp={self._stamp}.{int(now % 1 * 1e6):06d}Z\n".encode()
            if self._bytes + len(text) > KEPT:
                self._lost += 1
            else:
                self._lines.append(text)
                self._bytes += len(text)

    def flush(self) -> None:
        """Writes what can be written without waiting."""
        while self._lines and self._poll.poll(0):
            with self._lock:
                chunk = self._chunk()
            try:
                os.write(self._fd, b"".join(chunk))
            except OSError:
                self._lost += len(chunk)  # a full disk, a reader that is gone: nothing that jobs should suffer for
        if self._lost and not self._lines:
            lost, self._lost = self._lost, 0
            self._put(f"count={lost} event={_value('lines of this log are lost')}", "warning")

    def _chunk(self) -> list[bytes]:
        """The next lines that go together; at least one."""
        chunk = [self._lines.popleft()]
        size = len(chunk[0])
        while self._lines and size + len(self._lines[0]) <= CHUNK:
            chunk.append(self._lines.popleft())
            size += len(chunk[-1])
        self._bytes -= size
        return chunk


def who_is(uid: int, pid: int) -> str:
    """A client on this host, for Asked."""
    return f"uid={uid} pid={pid}"


def _words(error: dict[str, Any]) -> str:
    words = f"code={error.get('code')} message={_value(error.get('message', ''))}"
    return words + (f" errno={error['errno']}" if "errno" in error else "")


def _value(value: Any) -> str:
    """As logfmt has it; nothing that a client sends may begin a line of its own or colour a terminal."""
    if isinstance(value, int) or value is None:
        return str(value)
    text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
    if len(text) > TEXT:
        text = text[: TEXT - 1] + "…"
    if text.isidentifier():
        return text
    if text.isprintable() and text and not any(c in text for c in ' "=\\'):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())

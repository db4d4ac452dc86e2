"""Questions that are answered on the event loop of another thread, in any order."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from fastnl_engine import wire
from fastnl_engine.kv.base import Compacted, Denied, KVError

log = structlog.get_logger()

Rows = list[dict[str, Any]]
Answer = tuple[Rows, dict[str, Any]]  # the results of a reply, and what stands next to them
Question = Callable[[], Coroutine[Any, Any, Answer]]


class LoopLane:
    """For the gateway's thread, beside its lanes.

    loop                     runs for longer than this
    answered(ticket, reply)  is called on the loop's thread
    trouble                  code of the error where the store did not do what it was asked for
    waiting                  asked and not sent back yet; kept by whoever sends
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, answered: Callable[[Any, bytes], None], trouble: str) -> None:
        self._loop = loop
        self._answered = answered
        self._trouble = trouble
        self._lock = threading.Lock()
        self._asked: dict[Any, concurrent.futures.Future[bytes]] = {}
        self.waiting = 0

    def put(self, ticket: Any, question: Question) -> None:
        work = self._reply(ticket.id, question)
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # the loop has ended
            work.close()
            self._answered(ticket, self._failed("the store is closed", ticket.id))
            return
        with self._lock:
            self._asked[ticket] = future
        future.add_done_callback(lambda done: self._done(ticket, done))

    def stop(self) -> list[Any]:
        """Gives up what has no answer yet; gives the tickets."""
        with self._lock:
            left, self._asked = self._asked, {}
        for future in left.values():
            future.cancel()
        return list(left)

    def _done(self, ticket: Any, future: concurrent.futures.Future[bytes]) -> None:
        with self._lock:
            if self._asked.pop(ticket, None) is None:
                return  # it was given up
        # a loop that ends cancels what runs in it
        closed = future.cancelled()
        self._answered(ticket, self._failed("the store was closed", ticket.id) if closed else future.result())

    async def _reply(self, id_: wire.RequestId, question: Question) -> bytes:
        try:
            rows, more = await question()
            return wire.reply(id_, rows, **more)
        except wire.ProtocolError as e:
            e.id = id_
            return wire.refuse(e)
        except Compacted as e:
            return wire.refuse(wire.ProtocolError("compacted", str(e), id_, "since"))
        except Denied as e:
            return wire.refuse(wire.ProtocolError("forbidden", str(e), id_))
        except KVError as e:
            return self._failed(str(e), id_)
        except Exception as e:
            log.exception("question failed")
            error = wire.ProtocolError("internal", f"{type(e).__name__}: {e}; please report this", id_)
            return wire.refuse(error)

    def _failed(self, problem: str, id_: wire.RequestId) -> bytes:
        return wire.refuse(wire.ProtocolError(self._trouble, problem, id_))

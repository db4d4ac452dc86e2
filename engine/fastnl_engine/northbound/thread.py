"""A northbound's thread: a loop of its own, on which it lives until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

AGAIN = 1.0  # seconds until a northbound begins anew after a defect

log = structlog.get_logger()

Life = Callable[[], Awaitable[None]]
Open = Callable[[contextlib.AsyncExitStack], Awaitable[Life]]


class Northbound:
    """Opens what a northbound needs, and lives, anew after each defect, until `stop`.

    open_  is called once, on the loop; it gives the life, and to the stack what is to be closed at the end
    Raises what `open_` raises.
    """

    def __init__(self, name: str, open_: Open) -> None:
        self._open = open_
        self._stopping: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._problem: Exception | None = None
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()
        self._opened.wait()
        if self._problem is not None:
            self._thread.join()
            raise self._problem

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(Seldom())) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(tell)
        try:
            async with contextlib.AsyncExitStack() as stack:
                try:
                    life = await self._open(stack)
                except Exception as e:
                    self._problem = e
                    return
                finally:
                    self._opened.set()
                running = asyncio.create_task(keep_running(life))
                await self._stopping.wait()
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running
        except Exception:
            log.exception("northbound has ended", name=threading.current_thread().name)

    def stop(self, seconds: float = 3.0) -> None:
        """Has it end, and waits for that no longer than so many seconds."""
        assert self._loop is not None and self._stopping is not None
        with contextlib.suppress(RuntimeError):  # its loop has ended by itself
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(seconds)


async def keep_running(life: Life) -> None:
    """Until cancelled.  What is up stays up while a northbound begins anew, as that is the engine's."""
    while True:
        try:
            await life()
        except* Exception:
            name = threading.current_thread().name
            log.exception(f"the {name} northbound has failed and begins anew; please report this")
        await asyncio.sleep(AGAIN)


def tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a loop tells of exceptions that nobody caught, but for two of gRPC's that are none.

    It has one queue of events for all loops of a process, each of which is woken for those of the others: another one
    was there first (BlockingIOError, https://github.com/grpc/grpc/issues/25364), or the one that it is for has ended.
    """
    known = (BlockingIOError, RuntimeError)  # the latter: Event loop is closed
    if "PollerCompletionQueue" in context["message"] and isinstance(context.get("exception"), known):
        return
    loop.default_exception_handler(context)


class Seldom(selectors.EpollSelector):
    """Looks at sockets every so many turns of a loop that has other things to do.

    Each look gives the interpreter's lock away, and threads that compute are slow to give it back.
    """

    TURNS = 8

    def __init__(self) -> None:
        super().__init__()
        self._left = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout == 0 and self._left > 0:
            self._left -= 1
            return []
        self._left = self.TURNS
        return super().select(timeout)

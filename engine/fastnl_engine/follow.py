"""Every event once and in order, though the subscription loses some.

    for event in follow():
        print(event["of"], event["event"])

What is published comes through a SUB socket, which drops what a slow reader does not take; the numbers of the
events show it, and the engine's log has what is missing.  When nothing comes for a while the log is asked as
well: the last event before a silence may be the one that was lost, and an engine that began anew may have
nothing to tell.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgpack
import zmq

from fastnl_engine.client import Client, NoEngine
from fastnl_engine.curve import reach

Event = dict[str, Any]

SILENCE = 1.0  # seconds without an event until the log is asked
PATIENCE = 5.0  # seconds for an answer until the engine counts as away
PAGE = 1000  # events of one request


class OtherEngine(Exception):
    """The events are those of another engine than the one that answers."""


def follow(endpoint: str | None = None, events: str | None = None, *, since: int | None = None) -> Iterator[Event]:
    """Events for ever, each once, in the order of their numbers; for one thread, `close` ends it.

    endpoint  of the engine's jobs, as for Client
    events    where it publishes; None: where it says
    since     begin after this number, with what the log still has; None: with what comes from now on

    What concerns the following itself comes as an event of "follower", which has no number:

        lost       events `first` to `last` are gone for good: the log is bounded
        away       the engine does not answer; the following goes on when it does
        restarted  the engine is another one, `run`; its numbers begin at 1.  What happened last in the one
                   before may be missing

    Raises NoEngine when nobody answers at first, EngineError for who may not ask, OtherEngine.
    """
    follower = _Follower(endpoint, events)
    try:
        yield from follower.begin(since)
        while True:
            yield from follower.step()
    finally:
        follower.close()


class _Follower:
    """run, last  which engine's events, and the number up to which they have been given out"""

    def __init__(self, endpoint: str | None, events: str | None) -> None:
        self._client = Client(endpoint, timeout=PATIENCE)
        self._endpoint = self._client.endpoint
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._events = events
        self._former: set[str] = set()
        self._away = False
        self.run = ""
        self.last = 0

    def close(self) -> None:
        self._socket.close()
        self._context.term()
        self._client.close()

    def begin(self, since: int | None) -> Iterator[Event]:
        self._socket.subscribe(b"")
        reach(self._socket, self._events or self._client.info()["events"], None)
        # what happens before the subscription has arrived at the engine is found by its number
        reply = self._client.events(since=since or 0, limit=1)
        self.run = reply["run"]
        self.last = reply["newest"] if since is None else since
        if self.last > reply["newest"]:
            # the number is of an engine before this one
            self.last = 0
            yield self._note("restarted", run=self.run, was=None)
        yield from self._catch_up(None)

    def step(self) -> Iterator[Event]:
        """The next event and what was lost before it, or what the log has after a silence."""
        if not self._socket.poll(int(SILENCE * 1000)):
            yield from self._catch_up(None)
            return
        event = self._receive()
        if event["run"] in self._former:
            return
        if event["run"] == self.run and event["n"] <= self.last:
            return  # the log had it already
        if event["run"] == self.run and event["n"] == self.last + 1:
            self.last += 1
            yield event
            return
        yield from self._catch_up(event)
        if not self._away and event["run"] != self.run and event["run"] not in self._former:
            raise OtherEngine(f"{self._endpoint} belongs to another engine than the events; give both endpoints of one")

    def _receive(self) -> Event:
        event: Event = msgpack.unpackb(self._socket.recv_multipart()[1])
        return event

    def _catch_up(self, event: Event | None) -> Iterator[Event]:
        """What the log has after the last event; `event` has just arrived and is in the log, unless that is gone."""
        while True:
            try:
                reply = self._client.events(since=self.last, limit=PAGE)
            except NoEngine:
                yield from self._lose_sight()
                return
            self._away = False
            if reply["run"] != self.run:
                yield from self._rest(event)
                yield self._note("restarted", run=reply["run"], was=self.run)
                self._former.add(self.run)
                self.run, self.last = reply["run"], 0
                continue  # asked with a number of the engine before
            yield from self._skip_to(reply["oldest"])
            for found in reply["events"]:
                self.last = found["n"]
                yield found
            if self.last >= reply["newest"]:
                return

    def _rest(self, event: Event | None) -> Iterator[Event]:
        """What was still on its way when the engine ended and took its log along."""
        while event is not None:
            if event["run"] == self.run and event["n"] > self.last:
                yield from self._skip_to(event["n"])
                self.last = event["n"]
                yield event
            event = self._receive() if self._socket.poll(0) else None

    def _skip_to(self, number: int) -> Iterator[Event]:
        if number > self.last + 1:
            yield self._note("lost", first=self.last + 1, last=number - 1)
            self.last = number - 1

    def _lose_sight(self) -> Iterator[Event]:
        # what was asked would all arrive at the next engine together
        self._client.close()
        self._client = Client(self._endpoint, timeout=PATIENCE)
        if not self._away:
            self._away = True
            yield self._note("away")

    def _note(self, event: str, **fields: Any) -> Event:
        return {"of": "follower", "event": event, "time": time.time(), **fields}

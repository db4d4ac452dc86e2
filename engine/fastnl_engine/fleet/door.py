"""The way from the thread that serves clients to the fleet's, and back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import fastnl
from fastnl_engine import wire
from fastnl_engine.engine import Engine
from fastnl_engine.fleet.desk import new_token
from fastnl_engine.fleet.local import OURS, PREFIX, fits
from fastnl_engine.fleet.plan import Job as FleetJob
from fastnl_engine.kv.base import KVError
from fastnl_engine.looplane import Answer, LoopLane, Question
from fastnl_engine.planner import Job
from fastnl_engine.queries import row_of

if TYPE_CHECKING:
    from fastnl_engine.fleet.start import Service

Result = Callable[[Any, int, dict[str, Any]], None]
Answered = Callable[[Any, bytes], None]


class Door(LoopLane):
    """Every method but `submit`'s end is for the thread that serves clients.

    Jobs of the fleet go through the engine's backlog first, like any other: so what one client asks for one id stays
    in order, and the engine can say whether it knows the id.

    load     jobs that are with the fleet
    service  of now; another one after a defect
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, engine: Engine, result: Result, answered: Answered, patience: float
    ) -> None:
        super().__init__(loop, answered, "unavailable")
        self._engine = engine
        self._result = result
        self._patience = patience
        self._numbers = itertools.count()
        self._open: dict[int, tuple[Job, Any, int]] = {}
        self.service: Service | None = None

    @property
    def load(self) -> int:
        return len(self._open)

    @property
    def info(self) -> dict[str, Any]:
        """How this host stands in the fleet."""
        assert self.service is not None
        here = self.service.membership
        return {"host": here.name, "joined": here.registered, "reason": here.trouble}

    def route(self, job: Job) -> Job:
        """The job as the engine shall have it, so that what is the fleet's comes here.

        Raises Conflict for a connection of this host alone with the id of one that the fleet has here, InvalidValue
        for one that would change what the fleet has here while the fleet still takes it for what it was.
        """
        named = job.id
        if job.op == "connect" and named.startswith(PREFIX):
            raise fastnl.InvalidValue("id", OURS)
        if job.op == "connect" and PREFIX + named in self._engine.records:
            raise fastnl.Conflict(f"id: {named!r} is a connection of the fleet, {PREFIX}{named} here", field="id")
        if job.op in ("disconnect", "move") and not fits(named.removeprefix(PREFIX)):
            return job  # the fleet has none of that id, and etcd need not be asked with it
        if job.op in ("disconnect", "move") and named.startswith(PREFIX):
            # its half, as `list` shows it, stands for the whole
            passing = Job("pass", named.removeprefix(PREFIX), move=job.move, client=job.client)
            passing.place, passing.ticket = job.place, self._hand_over(job, job.ticket, passing.id)
            return passing
        if job.op in ("pass", "disconnect", "move"):
            job.ticket = self._hand_over(job, job.ticket, job.id)
        return job

    def _hand_over(self, job: Job, ticket: Any, id_: str) -> Callable[[int, dict[str, Any]], None]:
        def passed(place: int, result: dict[str, Any]) -> None:
            if job.op == "disconnect":
                ours = id_ != job.id or (result["ok"] and not result["changed"])
            elif job.op == "move":
                ours = id_ != job.id or (not result["ok"] and result["error"]["code"] == "unknown_id")
            else:
                ours = result["ok"]
            if ours:
                self._submit(job, ticket, place, id_)
            else:
                self._result(ticket, place, result)

        return passed

    def _submit(self, job: Job, ticket: Any, place: int, id_: str) -> None:
        number = next(self._numbers)
        self._open[number] = job, ticket, place

        def reply(result: dict[str, Any]) -> None:  # on the loop's thread
            self._engine.soon(lambda: self._reply_to(number, result))

        def submit() -> None:  # there, too
            op: Any = "connect" if job.op == "pass" else job.op
            deadline = self._loop.time() + self._patience
            assert self.service is not None
            wanted = FleetJob(op, id_, reply, new_token(), deadline, job.connection, job.move, job.wait)
            self.service.desk.submit(wanted)

        try:
            self._loop.call_soon_threadsafe(submit)
        except RuntimeError:  # the loop has ended
            error = {"code": "shutting_down", "message": "the engine is being stopped; nothing was done"}
            self._reply_to(number, {"ok": False, "error": error})

    def _reply_to(self, number: int, result: dict[str, Any]) -> None:
        found = self._open.pop(number, None)
        if found is None:
            return
        job, ticket, place = found
        if job.op == "disconnect" and job.id.startswith(PREFIX) and result["ok"] and not result["changed"]:
            # the fleet knows nothing of what is here: a stray
            self._engine.submit(Job("disconnect", job.id, ticket=ticket, place=place, client=job.client))
        else:
            self._result(ticket, place, {**result, "id": job.id})

    def give_up(self) -> None:
        """Answers every job that has no answer yet, at a stop."""
        message = "the engine is being stopped; whether it was done is not known: ask another engine of the fleet"
        for number in list(self._open):
            self._reply_to(number, {"ok": False, "error": {"code": "shutting_down", "message": message}})

    # -- questions -------------------------------------------------------------------------------------

    def prepare(self, request: wire.Fleet) -> Question:
        """Raises ProtocolError for fields that do not go with the action."""
        if (request.action == "remove") != (request.host is not None):
            problem = "host: remove needs it" if request.host is None else f"host: does not go with {request.action}"
            raise wire.ProtocolError("bad_request", problem, request.id, "host")
        return lambda: self._ask(request)

    async def _ask(self, request: wire.Fleet) -> Answer:
        assert self.service is not None
        members = self.service.membership
        try:
            await asyncio.wait_for(members.known.wait(), self._patience)
        except TimeoutError:
            problem = f"nothing is known of the fleet yet; {members.trouble or 'etcd does not answer'}"
            raise wire.ProtocolError("unavailable", problem) from None
        match request.action:
            case "hosts":
                return await self.service.show.hosts(request.limit, request.after)
            case "connections":
                return await self.service.show.connections(request.limit, request.after)
            case "vnis":
                return await self.service.show.vnis(request.limit, request.after)
        assert request.host is not None
        return [await self.service.removal.remove(request.host, force=request.force)], {}

    def prepare_list(self, request: wire.List, missing: Sequence[str], here: Callable[[], Answer]) -> Question:
        """Connections by their ids, of which the engine itself has some.  Of the others, while etcd is away, what is
        here of them is told."""
        missing = [id_ for id_ in missing if fits(id_)]
        halves = {id_: self._engine.records[PREFIX + id_] for id_ in missing if PREFIX + id_ in self._engine.records}

        async def ask() -> Answer:
            rows, more = here()
            assert self.service is not None
            try:
                found = await self.service.show.of(missing)
            except KVError as e:
                if len(halves) < len(missing):
                    raise
                found = [
                    {**row_of(half), "id": id_, "state": "degraded", "reason": str(e)} for id_, half in halves.items()
                ]
            return (rows + [row for row in found if request.state in (None, row["state"])])[: request.limit], more

        return ask

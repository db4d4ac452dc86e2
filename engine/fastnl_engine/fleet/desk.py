"""Jobs that were submitted to this host: each becomes part of a transaction, and has its answer when the hosts have
done it.

A crash at any point leaves either nothing or a whole connection: all its keys come in one transaction.  One that was
written and not answered is realised all the same, and whoever asks again, here or elsewhere, hears how it stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import structlog

from fastnl_engine.fleet import plan
from fastnl_engine.fleet.answers import ends_of, error_of, state_of
from fastnl_engine.fleet.keys import Keys
from fastnl_engine.fleet.membership import Membership
from fastnl_engine.fleet.plan import Job, Refused, Step, View, decide
from fastnl_engine.fleet.records import Agreed, Half, decode, encode
from fastnl_engine.fleet.reports import read
from fastnl_engine.fleet.vnis import CROWDED, NoneLeft, Vnis
from fastnl_engine.fleet.waits import Wait, Waits
from fastnl_engine.kv import base
from fastnl_engine.kv.base import KV, OPS, Compare, KVError, Op, OutcomeUnknown, Put

TOGETHER = 24  # jobs that are looked at together and, as far as they fit, share transactions
FLYING = 8  # such groups at once
AGAIN = 0.1  # seconds until what others were changing is looked at again
ATTEMPTS = 50

log = structlog.get_logger()


class Desk:
    def __init__(
        self, kv: KV, keys: Keys, membership: Membership, waits: Waits, vnis: Vnis, port: int, patience: float
    ) -> None:
        self._kv = kv
        self._keys = keys
        self._membership = membership
        self._waits = waits
        self._vnis = vnis
        self._patience = patience
        self.view = View(keys, membership.name, port, membership.hosts, membership.alive, vnis.pick)
        self._of: dict[str, deque[Job]] = {}  # of one id one job after the other
        self._ready: deque[Job] = deque()
        self._news = asyncio.Event()

    def submit(self, job: Job) -> None:
        queue = self._of.get(job.id)
        if queue is None:
            self._of[job.id] = deque([job])
            self._ready.append(job)
            self._news.set()
        else:
            queue.append(job)

    async def run(self) -> None:
        flying = asyncio.Semaphore(FLYING)
        async with asyncio.TaskGroup() as group:
            while True:
                await self._news.wait()
                await flying.acquire()
                jobs = [self._ready.popleft() for _ in range(min(TOGETHER, len(self._ready)))]
                if not self._ready:
                    self._news.clear()
                group.create_task(self._group(jobs, group)).add_done_callback(lambda _: flying.release())

    def give_up(self, message: str) -> None:
        """Answers everything that has no answer yet."""
        for job in [job for queue in self._of.values() for job in queue]:
            job.reply({"id": job.id, "ok": False, "error": {"code": "internal", "message": message}})
        self._of.clear()

    def _done(self, job: Job, result: dict[str, Any]) -> None:
        job.reply({"id": job.id, **result})
        queue = self._of.get(job.id)
        assert queue is not None and queue[0] is job
        queue.popleft()
        if queue:
            self._ready.append(queue[0])
            self._news.set()
        else:
            del self._of[job.id]

    def _refuse(self, job: Job, code: str, message: str, **more: Any) -> None:
        self._done(job, {"ok": False, "error": {"code": code, "message": message, **more}})

    def _unavailable(self, job: Job, why: str) -> None:
        done = "whether it was done is not known, ask again" if job.unknown else "nothing was done"
        self._refuse(job, "unavailable", f"{why}; {done}")

    # -- agreeing --------------------------------------------------------------------------------------

    async def _group(self, jobs: list[Job], tasks: asyncio.TaskGroup) -> None:
        """Has jobs agreed on with the fleet, and answered by tasks of their own."""
        loop = asyncio.get_running_loop()
        members = self._membership
        if not members.refused:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(members.ready.wait(), max(0.0, jobs[0].deadline - loop.time()))
        if not members.ready.is_set():
            for job in jobs:
                self._refuse(job, "unavailable", f"this host is not registered in the fleet; {self._trouble()}")
            return
        share = True
        while jobs:
            for job in [j for j in jobs if loop.time() > j.deadline or j.attempts > ATTEMPTS]:
                self._unavailable(job, self._trouble())
                jobs.remove(job)
            try:
                steps = await self._decide(jobs)
            except KVError as e:
                log.debug("not looked at", reason=str(e))
                await asyncio.sleep(AGAIN)
                continue
            jobs = []
            for part in _parts(steps) if share else [[step] for step in steps]:
                try:
                    if await self._send(part, tasks):
                        continue
                except KVError as e:
                    log.debug("not agreed on", reason=str(e))
                    if isinstance(e, base.Refused) and len(part) == 1:  # it would say that of it for ever
                        self._unavailable(part[0][0], str(e))
                        continue
                    for job, _ in part:
                        job.unknown |= isinstance(e, OutcomeUnknown)
                # what was done in spite of an error is seen by its token
                jobs += [job for job, _ in part]
            share = False  # one of those that are left is not as it was; the others shall not wait for it
            if any(job.attempts > 2 for job in jobs):
                await asyncio.sleep(AGAIN)

    def _trouble(self) -> str:
        return self._membership.trouble or "etcd was busy with others"

    async def _decide(self, jobs: Sequence[Job]) -> list[tuple[Job, Step]]:
        """What to do for each job; those that cannot be are answered.  Raises KVError: nothing can be decided now."""
        found = await self.look([job.id for job in jobs])
        named = {end.host for job in jobs if job.spec for end in (job.spec.a, job.spec.b) if end and end.host}
        if strange := [host for host in named if host not in self.view.hosts or host not in self.view.alive][
            : OPS // 2
        ]:
            # it may just have come, and whoever asks may know it from elsewhere
            await self._membership.catch_up(strange)
        if any(job.guesses >= CROWDED for job in jobs):
            await self._vnis.look()
        if not self._membership.ready.is_set():
            # its lease ran out meanwhile: it would take itself for a host that is away
            raise base.Unavailable("this host is not registered in the fleet just now")
        steps = []
        for job in jobs:
            job.attempts += 1
            try:
                step = decide(self.view, job, *found[job.id])
            except Refused as e:
                self._done(job, {"ok": False, "error": e.error})
            except NoneLeft as e:
                self._refuse(job, "vni_in_use", str(e), field="vxlan.vni")
            else:
                job.guesses += bool(step.vni)
                steps.append((job, step))
        return steps

    async def look(self, ids: Sequence[str]) -> dict[str, tuple[Agreed | None, int, set[str]]]:
        """Connections with the revisions of their keys, and the hosts that still have a half and are no end."""
        entries = await read(self._kv, [self._keys.connection(id_) for id_ in ids])
        found: dict[str, tuple[Agreed | None, int, set[str]]] = {}
        asked: list[tuple[str, str]] = []
        for id_, entry in zip(ids, entries, strict=True):
            agreed = decode(Agreed, entry)  # what is none of ours is written over
            found[id_] = agreed, entry.mod_revision if entry is not None else 0, set()
            if agreed is not None:
                asked += [(id_, host) for host in agreed.hosts if host not in agreed.ends.values()]
        halves = await read(self._kv, [self._keys.half(host, id_) for id_, host in asked])
        for (id_, host), half in zip(asked, halves, strict=True):
            if half is not None:
                found[id_][2].add(host)
        return found

    async def there(self, id_: str, hosts: Sequence[str]) -> dict[str, bool]:
        """Which hosts have a half of a connection."""
        halves = await read(self._kv, [self._keys.half(host, id_) for host in hosts])
        return {host: half is not None for host, half in zip(hosts, halves, strict=True)}

    async def _send(self, part: Sequence[tuple[Job, Step]], tasks: asyncio.TaskGroup) -> bool:
        """One transaction for some jobs; False if something was not as it was decided on."""
        waits = []
        for job, step in part:
            wait = None
            if step.agreed is not None:
                wait = Wait(job.id, step.agreed, impatient=not job.wait and job.op != "disconnect")
                self._waits.put(wait)
            waits.append(wait)
        compares: dict[Compare, None] = {}
        ops: list[Op] = []
        for _, step in part:
            compares |= dict.fromkeys(step.compares if step.ops else ())
            ops += step.ops
        done = False
        try:
            done = not ops or (await self._kv.txn(list(compares), ops)).succeeded
        finally:
            if not done:
                for wait in filter(None, waits):
                    self._waits.drop(wait)
        if done:
            for (job, step), wait in zip(part, waits, strict=True):
                tasks.create_task(self._answer(job, step, wait))
        return done

    # -- answering -------------------------------------------------------------------------------------

    async def _answer(self, job: Job, step: Step, wait: Wait | None) -> None:
        # what it wrote has its token, also when the answer to that was lost; nothing tells of what it deleted
        changed = bool(step.ops) or (job.unknown if step.agreed is None else step.agreed.token == job.token)
        if wait is None:
            self._done(job, {"ok": True, "changed": changed})
            return
        wait.made = True
        if not step.ops:
            self._waits.look_now([job.id])
        loop = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(wait.done.wait(), max(0.0, job.deadline - loop.time()))
        except TimeoutError:
            pass
        finally:
            self._waits.drop(wait)
        agreed = wait.agreed
        if agreed.removing:
            result: dict[str, Any] = {"ok": True, "changed": changed}
            if not (wait.gone or wait.other or all(_is_gone(wait, host) for host in agreed.hosts)):
                result["state"], reason, _ = state_of(agreed, wait.outcomes, self._membership.alive)
                result["reason"] = reason or "its hosts are at work on it"
            self._done(job, result)
            return
        if wait.other:
            self._refuse(job, "conflict", f"id: {job.id!r} was changed by somebody else meanwhile", field="id")
            return
        if wait.gone:
            # a disconnect that came before this was done, or another one's work that was taken back
            self._again(job)
            return
        state, reason, error = state_of(agreed, wait.outcomes, self._membership.alive)
        if state == "pending" and not job.wait:
            error = self._why(agreed, wait)
        if error is not None:
            if changed:
                error["message"] += await self._take_back(job, agreed)
            self._done(job, {"ok": False, "error": error})
            return
        if state == "pending" and not changed and not await self._vouch(job, agreed):
            self._again(job)
            return
        result = {"ok": True, "state": state, "changed": changed, **ends_of(agreed, wait.outcomes)}
        if reason:
            result["reason"] = reason
        if agreed.vni and len(set(agreed.ends.values())) > 1:
            result["vni"] = agreed.vni
        self._done(job, result)

    def _again(self, job: Job) -> None:
        job.looked, job.seen, job.unknown = False, None, False
        self._ready.append(job)
        self._news.set()

    async def _vouch(self, job: Job, agreed: Agreed) -> bool:
        """Makes what somebody else wrote this job's own; false: it is not there any more.

        It is not up, so its maker may be about to take it back, and this job's client is told that it stays.
        """
        try:
            now, revision, _ = (await self.look([job.id]))[job.id]
            if now is None or now.wanted != agreed.wanted:
                return False
            key = self._keys.connection(job.id)
            mine = msgspec.structs.replace(now, token=job.token)
            return (
                await self._kv.txn([Compare(key, "mod_revision", "=", revision)], [Put(key, encode(mine))])
            ).succeeded
        except KVError as e:
            log.debug("not vouched for yet", id=job.id, reason=str(e))
            return False

    def _why(self, agreed: Agreed, wait: Wait) -> dict[str, Any]:
        """The error of a connection that is not up, and may not wait."""
        silent = ("", "")
        for end, host in agreed.ends.items():
            outcome = wait.outcomes.get(host)
            if outcome is None or outcome.generation != agreed.generation:
                if silent[1] in self._membership.alive or not silent[1]:
                    silent = end, host  # rather one that is away
            elif outcome.state != "up":
                return error_of(agreed, end, outcome)
        end, host = silent
        if host in self._membership.alive:
            message = f"{end}: host {host} did not answer within {self._patience:g} s"
            return {"code": "unavailable", "message": message, "field": end, "host": host}
        message = f"{end}.host: the engine of {host} does not answer"
        return {"code": "host_away", "message": message, "field": f"{end}.host", "host": host}

    async def _take_back(self, job: Job, agreed: Agreed) -> str:
        """What was not acknowledged does not stay: the connection is what it was before, or is not.

        Whoever has changed it since wants it so: then it is left alone.
        """
        view = self.view
        try:
            for _ in range(5):
                now, revision, leftovers = (await self.look([job.id]))[job.id]
                if now is None or now.wanted != agreed.wanted or now.token != job.token:
                    return ""
                if job.seen is None or job.seen.removing:
                    step = plan.disconnect(view, job.id, job.token, now, revision, leftovers)
                else:
                    step = plan.connect(view, job.id, job.token, job.seen.spec, now, revision, leftovers, wait=True)
                if (await self._kv.txn(step.compares, step.ops)).succeeded:
                    return ""
        except (KVError, Refused) as e:
            return f"; it stays asked for, as it could not be taken back: {e}"
        return "; it stays asked for"

    async def take_other_vni(self, id_: str, half: Half) -> bool:
        """The kernel of this host has the number of a tunnel for something else; false: there is no other one."""
        try:
            for attempt in range(2 * CROWDED):
                agreed, revision, leftovers = (await self.look([id_]))[id_]
                if agreed is None or agreed.generation != half.generation:
                    return True  # it is another one by now
                if attempt >= CROWDED:
                    await self._vnis.look()
                view = replace(self.view, home=half.home)  # whoever waits for it still wants to hear
                step = plan.other_vni(view, id_, agreed.token, agreed, revision, leftovers)
                if (await self._kv.txn(step.compares, step.ops)).succeeded:
                    log.warning("number in use by something else", id=id_, vni=half.vni, now=step.vni)
                    return True
        except (KVError, Refused, NoneLeft) as e:
            log.warning("number in use by something else", id=id_, vni=half.vni, reason=f"no other yet: {e}")
        return False


def _is_gone(wait: Wait, host: str) -> bool:
    outcome = wait.outcomes.get(host)
    return outcome is not None and outcome.state == "gone" and outcome.generation == wait.agreed.generation


def _parts(steps: Sequence[tuple[Job, Step]]) -> Iterator[list[tuple[Job, Step]]]:
    """As many together as one transaction takes."""
    part: list[tuple[Job, Step]] = []
    size = 0
    for job, step in steps:
        weight = max(len(step.ops), len(step.compares))
        if part and size + weight > OPS:
            yield part
            part, size = [], 0
        part.append((job, step))
        size += weight
    if part:
        yield part


def new_token() -> str:
    return uuid.uuid4().hex[:16]

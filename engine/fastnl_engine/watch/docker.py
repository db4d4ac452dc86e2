"""Containers that are microservices, followed through Docker's events.

A microservice is a running container that carries a label: the Docker label `fastnl.microservice` or, without it,
the environment variable MICROSERVICE_LABEL.  Its namespace is that of the container's first process.

An event says which container to look at, never what to believe: every look asks Docker for the container as it
is now.  So events may come twice, late or not at all, as long as a look follows.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:  # 0.15 s to import, which are spared where nobody uses Docker
    import aiodocker

SOCKET = "/var/run/docker.sock"
DOCKER_LABEL = "fastnl.microservice"
VARIABLE = "MICROSERVICE_LABEL"

FIRST, LAST = 0.1, 2.0  # seconds until Docker is tried again: after a lost stream, and at most
PATIENCE = 10.0  # seconds that Docker gets for one answer
AUDIT = 5.0  # seconds between lists while the stream is up: Docker drops events that are not read fast enough
AT_ONCE = 8  # containers that are asked for together

# stop, kill and restart show as these too; asking for no others spares the three events of each health check
EVENTS = json.dumps({"type": ["container"], "event": ["start", "die", "destroy", "rename"]})

NONSENSE = (LookupError, TypeError, ValueError, AttributeError)  # what reading an odd answer raises

Change = Callable[[str, int | None], None]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Container:
    """One that runs and carries a label."""

    id: str
    name: str
    label: str
    created: datetime
    pid: int
    started: int  # its process, in clock ticks since boot: a pid is given again, both together are not


class Microservices:
    """Knows the process of each microservice and tells when it changes.

    on_change      on_change(label, pid) when a microservice has another process from now on; None: it runs no more.
                   Comes from a thread of this class, one call at a time, so it should be quick (a queue and a
                   wake-up, say) and must not call `close`.  What it raises is logged
    socket         Docker's Unix socket; it need not be there yet
    docker_label   name of the Docker label, which counts before the environment
    variable       name of the environment variable

    `start` and `close` are for one thread; `pid_of`, `listed` and `wait_listed` for any, also inside on_change.

    Where several containers carry one label, the one that was created last counts; when it ends, the others take
    over.  While Docker is away, what is known stays known until its process ends.  Process ids are those of
    Docker's PID namespace, in which the caller has to live.

    Raises ImportError when aiodocker is not installed.
    """

    def __init__(
        self,
        on_change: Change,
        *,
        socket: str = SOCKET,
        docker_label: str = DOCKER_LABEL,
        variable: str = VARIABLE,
    ) -> None:
        try:
            import aiodocker
        except ImportError as e:
            raise ImportError(f"microservices are followed with aiodocker: pip install 'fastnl[docker]' ({e})") from e
        self._library = aiodocker
        self._on_change = on_change
        self._socket = socket
        self._docker_label = docker_label
        self._variable = variable
        self._known: dict[str, Container | None] = {}  # what runs, by id; None: it is no microservice
        self._carriers: dict[str, dict[str, Container]] = {}  # label -> id -> container
        self._counts: dict[str, Container] = {}  # label -> the one that counts; other threads read it
        self._looks: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()  # something happened to them while they were looked at
        self._listed = threading.Event()
        self._away = False
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to follow; returns at once, whether Docker is there or not."""
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._follow())
        self._thread = threading.Thread(target=self._run, name="docker", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; no on_change comes any more when this returns."""
        if self._thread is None:
            return
        self._closing = True
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
        self._thread = None

    def pid_of(self, label: str) -> int | None:
        """The first process of a microservice; None: none is known to run, see `listed`."""
        container = self._counts.get(label)
        return None if container is None else container.pid

    @property
    def listed(self) -> bool:
        """Whether all containers have been looked at once; until then None from `pid_of` says nothing."""
        return self._listed.is_set()

    def wait_listed(self, seconds: float) -> bool:
        """Waits for `listed`; false when it did not come within that time."""
        return self._listed.wait(seconds)

    # -- a connection to Docker, again and again; from here on all is the thread's ---------------------

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    async def _follow(self) -> None:
        wait = FIRST
        # not by cancelling alone: a TaskGroup that fails at that very moment swallows it (CPython before 3.13)
        while not self._closing:
            began = self._loop.time()
            try:
                async with self._library.Docker(url=f"unix://{self._socket}", api_version="auto") as docker:
                    await self._session(docker)
            except* Exception as e:
                self._lost(_first(e))
            if self._loop.time() - began > LAST:
                wait = FIRST
            if not self._closing:
                # with some chance in it, so that all who follow one Docker do not come back at once
                await asyncio.sleep(wait * random.uniform(0.75, 1.25))
            wait = min(LAST, wait * 2)
            for container in self._ended():
                self._set(container.id, None)

    async def _session(self, docker: aiodocker.Docker) -> None:
        """From the begin of a stream of events to its loss, which raises."""
        self._looks.clear()
        self._again.clear()
        few = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            events = docker.events.subscribe(create_task=False)
            stream = group.create_task(docker.events.run(filters=EVENTS))
            async with asyncio.timeout(PATIENCE):
                # subscribe first, list after: what happens in between is seen twice, not missed
                while docker.events.json_stream is None and not stream.done():  # noqa: ASYNC110, the library has no event
                    await asyncio.sleep(0.001)
            group.create_task(self._audit(docker, group))
            while (event := await events.get()) is not None:
                self._look(docker, group, event["Actor"]["ID"], few)
            raise ConnectionResetError("the stream of events has ended")

    async def _audit(self, docker: aiodocker.Docker, group: asyncio.TaskGroup) -> None:
        """Looks at what no event told of: everything at first, then what was missed."""
        few = asyncio.Semaphore(AT_ONCE)  # one of its own: what has just started shall not wait for a long list
        while True:
            async with asyncio.timeout(PATIENCE):
                running = {container.id for container in await docker.containers.list()}
            due = (running ^ self._known.keys()) | {container.id for container in self._ended()}
            if due:
                await asyncio.wait([self._look(docker, group, id_, few) for id_ in due])
            if self._away or not self.listed:
                log.info("docker is followed", socket=self._socket, microservices=len(self._counts))
            self._away = False
            self._listed.set()
            await asyncio.sleep(AUDIT)

    def _lost(self, reason: BaseException) -> None:
        if not self._away:  # said once, however often it is tried
            what = f"{type(reason).__name__}: {reason}"
            log.warning("docker is away", socket=self._socket, reason=what, microservices_kept=len(self._counts))
        self._away = True

    # -- looking at one container ---------------------------------------------------------------------

    def _look(
        self, docker: aiodocker.Docker, group: asyncio.TaskGroup, id_: str, few: asyncio.Semaphore
    ) -> asyncio.Task[None]:
        """Asks for a container, and once more where the answer that is under way may be too old."""
        if id_ in self._looks:
            self._again.add(id_)
        else:
            self._looks[id_] = group.create_task(self._ask(docker, id_, few))
        return self._looks[id_]

    async def _ask(self, docker: aiodocker.Docker, id_: str, few: asyncio.Semaphore) -> None:
        try:
            async with few:
                while True:
                    self._again.discard(id_)
                    async with asyncio.timeout(PATIENCE):
                        found = await self._inspect(docker, id_)
                    if id_ not in self._again:
                        break
            self._set(id_, found)
        except (TimeoutError, self._library.DockerError, *NONSENSE) as e:
            if getattr(e, "status", 0) >= 600:  # the library's own number for a connection that failed
                raise
            # a lock of Docker's that somebody holds, or one broken container; the next list looks again
            log.warning("docker does not tell of a container", container=id_, reason=repr(e))
        finally:
            del self._looks[id_]

    async def _inspect(self, docker: aiodocker.Docker, id_: str) -> dict[str, Any] | None:
        """What Docker tells of a container; None: it is gone."""
        try:
            return await docker.containers.container(id_).show()
        except self._library.DockerError as e:
            if e.status == 404:
                return None
            raise

    # -- what is known --------------------------------------------------------------------------------

    def _set(self, id_: str, found: dict[str, Any] | None) -> None:
        """A container is from now on what Docker tells of it; None: it is gone."""
        runs = found is not None and found["State"]["Pid"]  # 0 also between two runs of one that restarts by itself
        new = self._microservice(id_, found) if found is not None and runs else None
        old = self._known.pop(id_, None)
        if runs:
            self._known[id_] = new
        if old is not None:
            del self._carriers[old.label][id_]
        if new is not None:
            carriers = self._carriers.setdefault(new.label, {})
            carriers[id_] = new
            if old is None and len(carriers) > 1:
                names = [c.name for c in sorted(carriers.values(), key=_age, reverse=True)]
                log.warning("several containers carry one label", label=new.label, counts=names[0], others=names[1:])
        for label in {container.label for container in (old, new) if container is not None}:
            self._settle(label)

    def _microservice(self, id_: str, found: dict[str, Any]) -> Container | None:
        """A running container as a microservice; None: it is none, or not one that can be used."""
        name = found["Name"].lstrip("/")
        label = (found["Config"].get("Labels") or {}).get(self._docker_label) or next(
            (
                value
                for variable, _, value in (entry.partition("=") for entry in found["Config"].get("Env") or [])
                if variable == self._variable
            ),
            "",
        )
        if not label:
            return None
        if not label.isprintable():
            log.warning("a container's label holds characters that cannot be printed", container=name, label=label)
            return None
        pid = found["State"]["Pid"]
        started = _started(pid)
        if started is None:
            log.warning(
                "a container's process cannot be seen: it has just ended, or Docker's PID namespace is not this one",
                container=name, label=label, pid=pid,
            )  # fmt: skip
            return None
        return Container(id_, name, label, datetime.fromisoformat(found["Created"]), pid, started)

    def _settle(self, label: str) -> None:
        """Finds the container that counts, and tells when that means another process."""
        before = self._counts.get(label)
        now = max(self._carriers[label].values(), key=_age, default=None)
        if now is None:
            del self._carriers[label]
            self._counts.pop(label, None)
        else:
            self._counts[label] = now
        if _process(now) != _process(before):
            try:
                self._on_change(label, now.pid if now is not None else None)
            except Exception:
                log.exception("a change of a microservice was not taken", label=label)

    def _ended(self) -> list[Container]:
        """Microservices whose process is not there any more, whatever Docker has told."""
        return [c for c in self._known.values() if c is not None and _started(c.pid) != c.started]


def _age(container: Container) -> tuple[datetime, str]:
    return container.created, container.id


def _process(container: Container | None) -> tuple[int, int] | None:
    return None if container is None else (container.pid, container.started)


def _started(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot; None: it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *more = stat[stat.rindex(")") + 2 :].split()  # the name before it may hold spaces and brackets
    return None if state in "ZX" else int(more[18])  # fields 3 and 22 of proc(5)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

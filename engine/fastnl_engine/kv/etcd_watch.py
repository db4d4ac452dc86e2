"""A watch that no break ends: of the stream, of a member, of the leader, of etcd's memory of what was."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import grpc
import structlog

from fastnl_engine.kv.base import Batch, Compacted, Denied, Entry, Event, KVError, Snapshot, decode, prefix_range
from fastnl_engine.kv.endpoints import Cluster, Delay
from fastnl_engine.kv.pb import etcd_pb2 as pb

log = structlog.get_logger()

HEARTBEAT = 5.0  # seconds
ALONE = 12  # heartbeats after which a watch asks for itself, whatever else comes over its connection


class Watcher:
    """One prefix, followed from a snapshot or from what is there at first.

    It remembers the revision of every key that it told of, so that after a gap it can tell the difference.
    """

    def __init__(
        self,
        cluster: Cluster,
        read: Callable[[str], Awaitable[Snapshot]],
        prefix: str,
        since: Snapshot | None,
        heartbeat: float,
    ) -> None:
        self._cluster = cluster
        self._read = read
        self._prefix = prefix
        self._heartbeat = heartbeat
        self._behind = since is None  # everything has to be read
        self._revision = since.revision if since else 0
        self._known = {e.key: e.mod_revision for e in since.entries.values()} if since else {}
        # which etcd it is, and how far it was
        self._cluster_id = self._term = 0

    async def batches(self) -> AsyncGenerator[Batch, None]:
        delay = Delay()
        while not self._cluster.closed:
            try:
                if self._behind:
                    yield self._difference(await self._read(self._prefix))
                    self._behind = False
                async with contextlib.aclosing(self._stream()) as stream:
                    async for response in stream:
                        delay.reset()
                        if response.events:
                            yield self._batch(response)
            except Compacted:
                log.info("etcd has forgotten what was since the last look; reading all of it", prefix=self._prefix)
                self._behind = True
            except Denied:
                raise
            except KVError as e:
                if self._cluster.closed:
                    return
                self._cluster.note(str(e))
                log.debug("watch broken", prefix=self._prefix, error=str(e))
                await delay.pause()

    # -- one stream ----------------------------------------------------------------------------------

    async def _stream(self) -> AsyncGenerator[pb.WatchResponse, None]:
        """From the revision after the last one, until it breaks.  Raises KVError when it does."""
        await self._check_place()
        endpoint = await self._cluster.connected()
        try:
            metadata = await self._cluster.metadata(endpoint)
            call = endpoint.watch.Watch(metadata=metadata)
        except grpc.aio.AioRpcError as e:
            raise self._cluster.fail(endpoint, str(e.details())) from e
        reading: asyncio.Task[Any] | None = None
        try:
            start, end = prefix_range(self._prefix)
            create = pb.WatchCreateRequest(key=start, range_end=end, start_revision=self._revision + 1)
            await self._write(call, pb.WatchRequest(create_request=create))
            asked = False
            loop = asyncio.get_running_loop()
            heard = loop.time()
            while True:
                # an answer to somebody else, such as to the keeper of a lease, tells that the member is there, too
                alone = heard + (ALONE - 1) * self._heartbeat
                last = max(heard, min(endpoint.heard, alone))
                wait = self._heartbeat if asked else max(0.0, last + self._heartbeat - loop.time())
                # not wait_for: a read that is cancelled cancels the stream
                reading = reading or asyncio.ensure_future(call.read())
                done, _ = await asyncio.wait({reading}, timeout=wait)
                if not done:
                    if asked:
                        raise TimeoutError
                    if endpoint.heard > last and last < alone:
                        continue
                    asked = True
                    await self._write(call, pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
                    continue
                asked, heard = False, loop.time()
                if reading.cancelled():  # not by us: the connection was closed, to be dialled anew
                    raise self._cluster.fail(endpoint, "the connection was closed")
                response, reading = reading.result(), None
                if response is grpc.aio.EOF:
                    raise self._cluster.fail(endpoint, "ended the watch")
                if response.compact_revision:
                    raise Compacted(f"etcd at {endpoint.url}: revision {self._revision + 1} is compacted")
                if response.canceled:
                    # the prefix could be read a moment ago, so this is about the token, if it is not in passing
                    self._cluster.forget_token(metadata)
                    raise self._cluster.fail(endpoint, f"cancelled the watch ({response.cancel_reason})")
                self._cluster.well(endpoint)
                yield response
        except TimeoutError as e:
            raise self._cluster.fail(endpoint, f"was silent for {2 * self._heartbeat:.0f} s") from e
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError) as e:
            details = e.details() if isinstance(e, grpc.aio.AioRpcError) else e
            raise self._cluster.fail(endpoint, str(details)) from e
        finally:
            call.cancel()
            if reading is not None:
                await asyncio.wait({reading})
                if not reading.cancelled():
                    reading.exception()  # seen

    async def _write(self, call: Any, request: pb.WatchRequest) -> None:
        async with asyncio.timeout(self._heartbeat):
            await call.write(request)

    async def _check_place(self) -> None:
        """Whether there is an etcd that answers for a majority, and the one that we know.

        One that lost its data, or was put back to an older copy, counts from a smaller number: a watch from a
        revision that is yet to come would wait in silence.  Raises Compacted for that.
        """
        start, end = prefix_range(self._prefix)
        request = pb.RangeRequest(key=start, range_end=end, count_only=True)
        response: pb.RangeResponse = await self._cluster.call(lambda e: e.kv.Range, request, write=False)
        header = response.header
        other = self._cluster_id not in (0, header.cluster_id)
        self._cluster_id = header.cluster_id
        back = header.revision < self._revision or header.raft_term < self._term
        self._term = header.raft_term
        if other or back:
            # its numbers say nothing about the values that we know
            self._known = dict.fromkeys(self._known, -1)
            raise Compacted("this is another etcd, or an older copy of it")

    # -- what came of it -----------------------------------------------------------------------------

    def _batch(self, response: pb.WatchResponse) -> Batch:
        events = []
        for event in response.events:
            kv = event.kv
            # a member that was far behind may begin before where we asked it to
            if kv.mod_revision <= self._revision:
                continue
            key = decode(kv.key)
            if event.type == pb.Event.DELETE:
                self._known.pop(key, None)
                events.append(Event(key, None, kv.mod_revision))
            else:
                self._known[key] = kv.mod_revision
                entry = Entry(key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)
                events.append(Event(key, entry, kv.mod_revision))
        if events:
            self._revision = events[-1].revision
        return Batch(self._revision, events)

    def _difference(self, snapshot: Snapshot) -> Batch:
        events = [Event(key, None, snapshot.revision) for key in self._known if key not in snapshot.entries]
        events += [
            Event(e.key, e, e.mod_revision)
            for e in snapshot.entries.values()
            if self._known.get(e.key) != e.mod_revision
        ]
        self._known = {e.key: e.mod_revision for e in snapshot.entries.values()}
        self._revision = snapshot.revision
        return Batch(snapshot.revision, events, reread=True)

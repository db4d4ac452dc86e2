"""A client of etcd's v3 API for asyncio, on gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import grpc

from fastnl_engine.kv.base import (
    KV,
    Batch,
    Compacted,
    Compare,
    Delete,
    DeletePrefix,
    Entry,
    Get,
    OnGrant,
    Op,
    OpResult,
    Put,
    Snapshot,
    TxnResult,
    check_key,
    check_ops,
    decode,
    encode,
    prefix_range,
)
from fastnl_engine.kv.endpoints import Cluster, Down, Tls
from fastnl_engine.kv.etcd_lease import EtcdLease
from fastnl_engine.kv.etcd_watch import HEARTBEAT, Watcher
from fastnl_engine.kv.pb import etcd_pb2 as pb

TIMEOUT = 6.0  # seconds
FIRST_PAGE, LARGEST_PAGE = 100, 10_000  # keys
PAGE_BYTES = 2 << 20  # that a page of a long answer shall have about
RESTARTS = 5  # of reading a prefix while it is compacted again and again

TARGETS: dict[str, Any] = {
    "version": pb.Compare.VERSION,
    "create_revision": pb.Compare.CREATE,
    "mod_revision": pb.Compare.MOD,
    "value": pb.Compare.VALUE,
    "lease": pb.Compare.LEASE,
}
RELATIONS: dict[str, Any] = {
    "=": pb.Compare.EQUAL,
    "!=": pb.Compare.NOT_EQUAL,
    "<": pb.Compare.LESS,
    ">": pb.Compare.GREATER,
}


@dataclass(frozen=True, slots=True)
class Member:
    """One endpoint as it sees itself; error: why nothing else is known of it, or what it complains about."""

    url: str
    version: str = ""
    leader: bool = False
    db_size: int = 0
    error: str = ""


class EtcdKV:
    """KV in etcd.  Nothing is connected until it is needed.

    endpoints   http://HOST:PORT or https://HOST:PORT of the members; without a scheme it is https if `tls` is given
    tls         for https: who may sign the members' certificates, and our own
    user        with `password`, where etcd asks for one
    timeout     seconds for a request, over all endpoints
    heartbeat   seconds of silence, of the member and not only of the watch, after which a watch asks whether anybody is
                there; after twice that it goes elsewhere

    Raises KVError for what cannot be right.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        tls: Tls | None = None,
        user: str = "",
        password: str = "",
        timeout: float = TIMEOUT,
        heartbeat: float = HEARTBEAT,
    ) -> None:
        self._cluster = Cluster(endpoints, tls, user, password, timeout)
        self._heartbeat = heartbeat
        self._leases: set[EtcdLease] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def trouble(self) -> str:
        return self._cluster.trouble

    @property
    def endpoint(self) -> str:
        """The member that is asked next."""
        return self._cluster.endpoint.url

    async def close(self) -> None:
        for lease in list(self._leases):
            await lease.close()
        await self._cluster.close()

    # -- reading -------------------------------------------------------------------------------------

    async def _range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        response: pb.RangeResponse = await self._cluster.call(lambda e: e.kv.Range, request, write=False)
        return response

    async def get(self, key: str, *, revision: int = 0) -> Entry | None:
        check_key(key)
        response = await self._range(pb.RangeRequest(key=encode(key), revision=revision))
        return entry(response.kvs[0]) if response.kvs else None

    async def get_prefix(self, prefix: str, *, revision: int = 0) -> Snapshot:
        for attempt in range(RESTARTS):
            try:
                return await self._pages(prefix, revision)
            except Compacted:
                # of the moment that we read, between two pages of it
                if revision or attempt == RESTARTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def _pages(self, prefix: str, revision: int) -> Snapshot:
        start, end = prefix_range(prefix)
        limit = FIRST_PAGE
        entries: dict[str, Entry] = {}
        while True:
            page = await self._range(pb.RangeRequest(key=start, range_end=end, limit=limit, revision=revision))
            for kv in page.kvs:
                one = entry(kv)
                entries[one.key] = one
            revision = revision or page.header.revision
            if not page.more:
                return Snapshot(prefix, revision, entries)
            start = page.kvs[-1].key + b"\0"  # the key that comes next, whatever it is
            limit = max(1, min(LARGEST_PAGE, PAGE_BYTES * len(page.kvs) // page.ByteSize()))

    async def page(self, prefix: str, *, after: str = "", limit: int) -> tuple[list[Entry], bool]:
        """At most so many keys under a prefix that come after a key, as they are now, and whether there are more."""
        start, end = prefix_range(prefix)
        start = max(start, encode(after) + b"\0") if after else start
        response = await self._range(pb.RangeRequest(key=start, range_end=end, limit=limit))
        return [entry(kv) for kv in response.kvs], response.more

    async def count(self, prefix: str) -> int:
        """How many keys there are under a prefix."""
        start, end = prefix_range(prefix)
        return (await self._range(pb.RangeRequest(key=start, range_end=end, count_only=True))).count

    # -- writing -------------------------------------------------------------------------------------

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        check_key(key)
        request = pb.PutRequest(key=encode(key), value=value, lease=lease)
        response: pb.PutResponse = await self._cluster.call(lambda e: e.kv.Put, request, write=True)
        return response.header.revision

    async def delete(self, key: str) -> bool:
        check_key(key)
        return await self._delete(pb.DeleteRangeRequest(key=encode(key))) > 0

    async def delete_prefix(self, prefix: str) -> int:
        start, end = prefix_range(prefix)
        return await self._delete(pb.DeleteRangeRequest(key=start, range_end=end))

    async def _delete(self, request: pb.DeleteRangeRequest) -> int:
        response: pb.DeleteRangeResponse = await self._cluster.call(lambda e: e.kv.DeleteRange, request, write=True)
        return response.deleted

    async def txn(self, compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        check_ops(then)
        check_ops(otherwise)
        request = pb.TxnRequest(
            compare=[_compare(c) for c in compares],
            success=[_request_op(op) for op in then],
            failure=[_request_op(op) for op in otherwise],
        )
        # a transaction that only reads may be repeated
        write = not all(isinstance(op, Get) for op in (*then, *otherwise))
        response: pb.TxnResponse = await self._cluster.call(lambda e: e.kv.Txn, request, write=write)
        results = [_result(r) for r in response.responses]
        return TxnResult(response.succeeded, response.header.revision, results)

    async def compact(self, revision: int) -> None:
        """Makes etcd forget what was before a revision; it is done when this returns.  Raises Compacted if it had."""
        await self._cluster.call(
            lambda e: e.kv.Compact, pb.CompactionRequest(revision=revision, physical=True), write=False
        )

    # -- in the background ---------------------------------------------------------------------------

    def watch(self, prefix: str, *, since: Snapshot | None = None) -> AsyncGenerator[Batch, None]:
        return Watcher(self._cluster, self.get_prefix, prefix, since, self._heartbeat).batches()

    def lease(self, ttl: int, on_grant: OnGrant | None = None) -> EtcdLease:
        lease = EtcdLease(self._cluster, ttl, on_grant, self._leases.discard)
        self._leases.add(lease)
        return lease

    async def members(self) -> list[Member]:
        """Every endpoint that was given, in the order of their addresses."""
        asked = sorted(self._cluster.endpoints, key=lambda e: e.url)
        return list(await asyncio.gather(*(self._member(e) for e in asked)))

    async def _member(self, endpoint: Any) -> Member:
        try:
            await endpoint.connect(self._cluster.share)
            metadata = await self._cluster.metadata(endpoint)
            response: pb.StatusResponse = await endpoint.maintenance.Status(
                pb.StatusRequest(), timeout=self._cluster.share, metadata=metadata
            )
        except Down as e:
            return Member(endpoint.url, error=str(e))
        except grpc.aio.AioRpcError as e:
            return Member(endpoint.url, error=str(e.details()))
        leader = response.leader == response.header.member_id
        return Member(endpoint.url, response.version, leader, response.dbSize, "; ".join(response.errors))


def entry(kv: pb.KeyValue) -> Entry:
    return Entry(decode(kv.key), kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


def _compare(c: Compare) -> pb.Compare:
    operand: dict[str, Any] = {c.target: c.operand}
    return pb.Compare(key=encode(c.key), target=TARGETS[c.target], result=RELATIONS[c.relation], **operand)


def _request_op(op: Op) -> pb.RequestOp:
    match op:
        case Get(key):
            return pb.RequestOp(request_range=pb.RangeRequest(key=encode(key)))
        case Put(key, value, lease):
            return pb.RequestOp(request_put=pb.PutRequest(key=encode(key), value=value, lease=lease))
        case Delete(key):
            return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=encode(key)))
        case DeletePrefix(prefix):
            start, end = prefix_range(prefix)
            return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=start, range_end=end))


def _result(response: pb.ResponseOp) -> OpResult:
    match response.WhichOneof("response"):
        case "response_range":
            kvs = response.response_range.kvs
            return entry(kvs[0]) if kvs else None
        case "response_delete_range":
            return response.response_delete_range.deleted
    return None


def _is_a_kv(kv: EtcdKV) -> KV:  # for mypy to check
    return kv

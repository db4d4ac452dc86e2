"""A lease that is there as long as its owner: kept alive, and granted anew when it was lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Self

import grpc
import structlog

from fastnl_engine.kv.base import KVError, OnGrant
from fastnl_engine.kv.endpoints import Cluster, Delay, Endpoint, Invoke, Metadata
from fastnl_engine.kv.pb import etcd_pb2 as pb

log = structlog.get_logger()


class EtcdLease:
    """Lease in etcd.  Made by EtcdKV.lease, in a running loop."""

    def __init__(
        self, cluster: Cluster, ttl: int, on_grant: OnGrant | None, on_close: Callable[[EtcdLease], None]
    ) -> None:
        if ttl < 1:
            raise KVError(f"a lease of {ttl} seconds; the least is 1")
        self.ttl = ttl
        self.id = 0
        self._cluster = cluster
        self._on_grant = on_grant
        self._on_close = on_close
        self._announced = False
        self._until = 0.0  # when it runs out, by the clock of the loop
        self._keeper = asyncio.create_task(self._keep(), name="lease")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def alive(self) -> bool:
        return self.id != 0 and asyncio.get_running_loop().time() < self._until

    async def close(self) -> None:
        self._on_close(self)
        self._keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._keeper
        if self.id:
            revoked, self.id = self.id, 0
            with contextlib.suppress(KVError):  # it has gone, or goes with its time
                await self._cluster.call(lambda e: e.lease.LeaseRevoke, pb.LeaseRevokeRequest(ID=revoked), write=False)

    async def _keep(self) -> None:
        delay = Delay(last=max(0.2, min(5.0, self.ttl / 3)))
        while True:
            try:
                if not await self._renew():
                    await self._grant()
                if not self._announced and self._on_grant is not None:
                    await self._on_grant(self.id)
                self._announced = True
            except KVError as e:
                self._cluster.note(str(e))
                log.debug("lease not kept", lease=self.id, error=str(e))
                await delay.pause()
            except Exception:  # of on_grant: its mistake shall not end the lease
                log.exception("keys of a lease not put", lease=self.id)
                await delay.pause()
            else:
                delay.reset()
                await asyncio.sleep(self.ttl / 3)

    async def _grant(self) -> None:
        asked = asyncio.get_running_loop().time()
        request = pb.LeaseGrantRequest(TTL=self.ttl)
        # one that nobody knows of, if it has to be asked for twice, goes with its time
        response: pb.LeaseGrantResponse = await self._cluster.call(lambda e: e.lease.LeaseGrant, request, write=False)
        if self.id:
            log.warning("lease lost, another one is granted", lost=self.id, granted=response.ID)
        self.id = response.ID
        self._announced = False
        self._until = asked + response.TTL

    async def _renew(self) -> bool:
        """False if it is gone."""
        if not self.id:
            return False
        asked = asyncio.get_running_loop().time()
        response: pb.LeaseKeepAliveResponse = await self._cluster.call(
            _keep_alive, pb.LeaseKeepAliveRequest(ID=self.id), write=False
        )
        if response.TTL <= 0:
            return False
        self._until = asked + response.TTL
        return True


def _keep_alive(endpoint: Endpoint) -> Invoke[pb.LeaseKeepAliveResponse]:
    """One question and one answer over what is a stream in etcd's API, so that it is a request like any other."""

    async def invoke(request: pb.LeaseKeepAliveRequest, *, timeout: float, metadata: Metadata) -> Any:  # noqa: ASYNC109
        call = endpoint.lease.LeaseKeepAlive(timeout=timeout, metadata=metadata)
        try:
            await call.write(request)
            response = await call.read()
            if response is grpc.aio.EOF:
                raise grpc.aio.AioRpcError(
                    await call.code(),
                    await call.initial_metadata(),
                    await call.trailing_metadata(),
                    await call.details(),
                )
            return response
        finally:
            call.cancel()

    return invoke

"""What the mesh is told when something cannot be: a gRPC status with the engine's code and message."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import grpc
import grpc.aio
import structlog

from fastnl_engine.adapters.nsm.gate import Call

STATUS = {
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "unsupported": grpc.StatusCode.UNIMPLEMENTED,
    "conflict": grpc.StatusCode.ALREADY_EXISTS,
    "ifname_in_use": grpc.StatusCode.ALREADY_EXISTS,
    "vni_in_use": grpc.StatusCode.ALREADY_EXISTS,
    "netns_not_found": grpc.StatusCode.NOT_FOUND,
    "ifname_not_found": grpc.StatusCode.NOT_FOUND,
    "netns_gone": grpc.StatusCode.ABORTED,
    "no_permission": grpc.StatusCode.PERMISSION_DENIED,
    "kernel": grpc.StatusCode.FAILED_PRECONDITION,
    "no_manager": grpc.StatusCode.FAILED_PRECONDITION,
    "expired": grpc.StatusCode.DEADLINE_EXCEEDED,
    "slow": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "shutting_down": grpc.StatusCode.UNAVAILABLE,
    "internal": grpc.StatusCode.INTERNAL,
}


LONGEST = 400  # characters of what is told: headers of more than 8 KiB may be refused by who reads them

log = structlog.get_logger()


class Refused(Exception):
    """Nothing was done; `error` is one of the engine's, or looks like it."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.error = error


def refuse(code: str, field: str, problem: str) -> Refused:
    return Refused({"code": code, "message": f"{field}: {problem}" if field else problem, "field": field})


@contextlib.asynccontextmanager
async def answering(context: Call, ended: Callable[[str], None]) -> AsyncIterator[None]:
    """Around what answers a call: whatever is wrong becomes a status with a message.

    ended  called with the name of the status
    """
    status = "CANCELLED"
    try:
        yield
        status = "OK"
    except Refused as e:
        status = status_of(e).name
        await abort(context, e)
    except grpc.aio.AioRpcError as e:  # of the next hop, whose words are for whoever asked
        status = e.code().name
        await context.abort(e.code(), (e.details() or "")[:LONGEST])
    except Exception as e:
        status = "INTERNAL"
        log.exception("a call has failed; please report this")
        await abort(context, Refused({"code": "internal", "message": f"{type(e).__name__}: {e}"}))
    finally:
        ended(status)


def status_of(refused: Refused) -> grpc.StatusCode:
    return STATUS.get(refused.error["code"], grpc.StatusCode.UNKNOWN)


async def abort(context: Call, refused: Refused) -> NoReturn:
    """Ends a call: the status by the code, code and message as its details, all fields as trailing metadata."""
    error = refused.error
    more = tuple(
        (f"fastnl-{name.replace('_', '-')}-bin", str(value)[:LONGEST].encode())
        for name, value in error.items()
        if value != ""
    )
    await context.abort(status_of(refused), str(refused)[:LONGEST], more)
    raise AssertionError("abort returns never")

"""fastnl-engine: the service."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import structlog

import fastnl
from fastnl.fence import fence_files
from fastnl_engine import flush as flushing
from fastnl_engine.audit import Audit
from fastnl_engine.auth import RoleError, Roles
from fastnl_engine.config import Config, ConfigError, load
from fastnl_engine.curve import KeyProblem
from fastnl_engine.engine import Engine
from fastnl_engine.gateway import Gateway, InUse, lock
from fastnl_engine.instance import claim
from fastnl_engine.kv.base import KVError
from fastnl_engine.microservices import Containers
from fastnl_engine.model import Record
from fastnl_engine.northbound.thread import Northbound
from fastnl_engine.reload import Reload
from fastnl_engine.resume import Resume, as_known, boot_id
from fastnl_engine.store.base import Intent, Outcome, Store, StoreError
from fastnl_engine.store.sqlite import SqliteStore

log = structlog.get_logger()

# why an engine does not begin
CANNOT = (
    ConfigError, InUse, StoreError, KVError, OSError, ImportError, RoleError, KeyProblem, fastnl.FastnlError,
)  # fmt: skip


@click.command()
@click.option("--endpoint", help="ZeroMQ endpoint for jobs.")
@click.option("--events", help="ZeroMQ endpoint for events.")
@click.option("--state-dir", help="Folder of the state file.")
@click.option("--instance", help="Name of this engine in the mark of its interfaces.")
@click.option("--config", "config_file", type=click.Path(dir_okay=False), help="TOML file with settings.")
@click.option("--http", help="HOST:PORT for /metrics, /livez and /readyz.")
@click.option("--durable/--no-durable", default=None, help="Wait for the disk before each reply (default: yes).")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default=None)
@click.option("--nsm", help="unix:PATH or HOST:PORT for the API of a Network Service Mesh; or `default`.")
@click.option("--flush", is_flag=True, help="Remove every interface and record of this instance, and end.")
@click.version_option(fastnl.__version__)
def main(config_file: str | None, flush: bool, **flags: Any) -> None:
    """Wires network namespaces together as clients ask over ZeroMQ, and keeps them so."""

    def read() -> Config:
        return load(config_file, os.environ, flags)

    try:
        config = read()
    except ConfigError as e:
        raise click.UsageError(str(e)) from None
    _set_up_log(config.log_level)
    try:
        if flush:
            sys.exit(0 if run_flush(config) else 1)
        run(config, read)
    except fastnl.InvalidValue as e:
        raise click.UsageError(str(e)) from None
    except CANNOT as e:
        log.error("cannot flush" if flush else "cannot start", reason=str(e))
        sys.exit(1)


def run(config: Config, read: Callable[[], Config]) -> None:
    """Serves until SIGTERM or SIGINT; `read` gives changed settings on SIGHUP.

    Raises InUse, StoreError, InvalidValue or OSError when it cannot begin.
    """

    def apply(new: Config) -> None:
        roles = Roles.parse(new.roles)
        fence_files(new.file_prefixes)
        gateway.take_settings(new, roles)
        _set_up_log(new.log_level)
        audit.set_pace(new.audit)

    reload = Reload(config, read, apply)
    signal.signal(signal.SIGHUP, lambda *_: reload.ask())  # it would end the process
    # the default of 5 ms would make the kernel thread wait for the gateway's Python
    sys.setswitchinterval(0.0005)
    # a full collection stops every thread while it looks at all that is known, 0.1 s of 5,000 connections, and what a
    # job leaves behind is seldom more than one of young objects finds
    gc.set_threshold(5_000, 10, 20)
    host, held, store = _own(config)
    containers = held.enter_context(contextlib.closing(Containers(config)))
    records, intents = store.load()

    def make_engine(gateway: Gateway) -> Engine:
        return Engine(host, store, gateway.result, gateway.tell, queue=config.queue, strict=config.strict)

    # before anything is touched it has to be certain that no other engine has the endpoint
    gateway = Gateway(config, make_engine)
    gateway.each_turn, reload.wake = reload.turn, gateway.engine.pipeline.wake
    audit = Audit(host, gateway.engine.ledger, gateway.engine.broken)
    containers.engine = gateway.engine
    northbound = forwarder = fleet = None
    try:
        _resume(gateway.engine, store, records, intents, recreate=config.resync == "recreate")
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: gateway.stop())
        northbound = _configured(config, gateway)
        forwarder = _forwarder(config, gateway)
        fleet = _join_fleet(config, gateway)
        log.info("serving", endpoint=config.endpoint)
        audit.set_pace(config.audit)
        gc.freeze()  # modules and the records of the last run: nothing of that is ever garbage in cycles
        gateway.serve()
    finally:
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, signal.SIG_IGN)  # it is stopping as it is
        audit.stop()
        gateway.close()
        if fleet is not None:
            fleet.stop()
        if forwarder is not None:
            forwarder.stop()
        if northbound is not None:
            northbound.stop()  # after the gateway, whose clients use its store
    store.close()
    held.close()
    log.info("stopped")


def _configured(config: Config, gateway: Gateway) -> Northbound | None:
    """What brings configuration in, if that is wanted.  Raises KVError."""
    if not config.ligato:
        return None
    from fastnl_engine.northbound.ligato.start import start

    return start(config, gateway.engine, gateway.offer_keys, gateway.grounds)


def _forwarder(config: Config, gateway: Gateway) -> Northbound | None:
    """What serves a Network Service Mesh, if that is wanted.  Raises SettingsError, OSError, ImportError."""
    if not config.nsm:
        return None
    try:
        from fastnl_engine.adapters.nsm import settings
        from fastnl_engine.adapters.nsm.start import start
    except ImportError as e:
        raise ImportError(f"nsm needs grpcio and protobuf ({e}); install them with: pip install 'fastnl[nsm]'") from e
    return start(settings.read(config.nsm, os.environ), gateway.engine, Path(config.state_dir) / "nsm")


def _join_fleet(config: Config, gateway: Gateway) -> Northbound | None:
    """This host's part in a fleet, if it is in one.  Raises KVError, ConfigError."""
    if not config.fleet:
        return None
    from fastnl_engine.fleet.start import start

    northbound, gateway.fleet = start(config, gateway.engine, gateway.result, gateway.answered)
    return northbound


def run_flush(config: Config) -> bool:
    """Removes everything of the instance; whether nothing was left.  Raises what `run` does."""
    host, held, store = _own(config)
    with held, contextlib.closing(Containers(config)), contextlib.closing(store):
        return flushing.flush(host, store)


def _own(config: Config) -> tuple[fastnl.Host, contextlib.ExitStack, SqliteStore]:
    """The kernel, the locks of state folder and instance, and the state.  Raises InUse, StoreError, OSError."""
    # a batch holds a descriptor for each of its namespaces
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.umask(0o007)  # the sockets are for the engine's user and group
    fence_files(config.file_prefixes)
    host = fastnl.Host(config.instance, visit_itself=True)
    _probe(host)
    Path(config.state_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    held = contextlib.ExitStack()
    held.callback(os.close, lock(Path(config.state_dir) / "lock", f"the state folder {config.state_dir}"))
    held.enter_context(claim(config.instance))
    return host, held, SqliteStore(config.state_file, durable=config.durable)


def _probe(host: fastnl.Host) -> None:
    """Finds out what the kernel can, now, so that a missing capability stops the start and not the first job."""
    try:
        host.features  # noqa: B018
    except PermissionError as e:
        raise PermissionError(
            f"{e.strerror}: CAP_SYS_ADMIN and CAP_NET_ADMIN are needed, to enter namespaces and to make interfaces"
        ) from e


def _resume(engine: Engine, store: Store, records: list[Record], intents: Sequence[Intent], *, recreate: bool) -> None:
    """Takes up where the last engine of this state stopped; most of it is done while jobs are served."""
    began = time.monotonic()
    before, records = records, as_known(store, records, intents)
    resume = Resume(engine.host, records, intents, before=before, recreate=recreate)
    known = {record.id: record for record in records}
    store.settle([Outcome(intent.id, known.get(intent.id)) for intent in intents])
    store.meta("boot", boot_id())
    for id_, reason in resume.anew.items():
        log.warning("made again", id=id_, reason=reason)

    def resumed() -> None:
        found = {
            "adopted": resume.adopted - resume.mended, "mended": resume.mended, "made_again": len(resume.anew),
            "orphans_removed": resume.orphans, "seconds": round(time.monotonic() - began, 3),
        }  # fmt: skip
        log.info("resumed", **found)
        engine.tell("resumed", **found)

    engine.take_over(records, resume, resumed)


class _Log:
    """Standard error for structlog.  A log that cannot be written, as on a full disk, must not stop the engine."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(2, text.encode(errors="backslashreplace"))

    def flush(self) -> None:
        pass


def _set_up_log(level: str) -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
            if sys.stderr.isatty()
            else structlog.processors.LogfmtRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(_Log()),  # type: ignore[arg-type]
    )


if __name__ == "__main__":
    main()

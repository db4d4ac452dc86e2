"""fastnl-engine: the service."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import structlog

import fastnl
from fastnl_engine import reconcile
from fastnl_engine.audit import Audit
from fastnl_engine.auth import RoleError
from fastnl_engine.config import Config, ConfigError, load
from fastnl_engine.engine import Engine
from fastnl_engine.gateway import Gateway, InUse, lock
from fastnl_engine.instance import claim
from fastnl_engine.model import Record
from fastnl_engine.store.base import Intent, Outcome, Store, StoreError
from fastnl_engine.store.sqlite import SqliteStore

log = structlog.get_logger()


@click.command()
@click.option("--endpoint", help="ZeroMQ endpoint for jobs.")
@click.option("--events", help="ZeroMQ endpoint for events.")
@click.option("--state-dir", help="Folder of the state file.")
@click.option("--instance", help="Name of this engine in the mark of its interfaces.")
@click.option("--config", "config_file", type=click.Path(dir_okay=False), help="TOML file with settings.")
@click.option("--http", help="HOST:PORT for /metrics, /livez and /readyz.")
@click.option("--durable/--no-durable", default=None, help="Wait for the disk before each reply (default: yes).")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default=None)
@click.version_option(fastnl.__version__)
def main(config_file: str | None, **flags: Any) -> None:
    """Wires network namespaces together as clients ask over ZeroMQ, and keeps them so."""
    try:
        config = load(config_file, os.environ, flags)
    except ConfigError as e:
        raise click.UsageError(str(e)) from None
    _set_up_log(config.log_level)
    try:
        run(config)
    except fastnl.InvalidValue as e:
        raise click.UsageError(str(e)) from None
    except (InUse, StoreError, OSError, RoleError, fastnl.FastnlError) as e:
        log.error("cannot start", reason=str(e))
        sys.exit(1)


def run(config: Config) -> None:
    """Serves until SIGTERM or SIGINT.  Raises InUse, StoreError, InvalidValue or OSError when it cannot begin."""
    # the default of 5 ms would make the kernel thread wait for the gateway's Python
    sys.setswitchinterval(0.0005)
    # a batch holds a descriptor for each of its namespaces
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.umask(0o007)  # the sockets are for the engine's user and group
    host = fastnl.Host(config.instance)
    _probe(host)
    Path(config.state_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    state_lock = lock(Path(config.state_dir) / "lock", f"the state folder {config.state_dir}")
    instance = claim(config.instance)
    store = SqliteStore(config.state_file, durable=config.durable)
    records, intents = store.load()

    def make_engine(gateway: Gateway) -> Engine:
        return Engine(host, store, gateway.result, gateway.events.publish, queue=config.queue)

    # before anything is touched it has to be certain that no other engine has the endpoint
    gateway = Gateway(config, make_engine)
    audit = None
    try:
        _resume(gateway.engine, store, records, intents, recreate=config.resync == "recreate")
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: gateway.stop())
        log.info("serving", endpoint=config.endpoint)
        audit = Audit(host, gateway.engine.ledger, config.audit, gateway.engine.broken) if config.audit else None
        gateway.serve()
    finally:
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, signal.SIG_IGN)  # it is stopping as it is
        if audit is not None:
            audit.stop()
        gateway.close()
    store.close()
    instance.close()
    os.close(state_lock)
    log.info("stopped")


def _probe(host: fastnl.Host) -> None:
    """Finds out what the kernel can, now, so that a missing capability stops the start and not the first job."""
    try:
        host.features  # noqa: B018
    except PermissionError as e:
        raise PermissionError(
            f"{e.strerror}: CAP_SYS_ADMIN and CAP_NET_ADMIN are needed, to enter namespaces and to make interfaces"
        ) from e


def _resume(
    engine: Engine, store: Store, records: Sequence[Record], intents: Sequence[Intent], *, recreate: bool
) -> None:
    """Takes up where the last engine of this state stopped."""
    findings = reconcile.resume(engine.host, records, intents, recreate=recreate)
    known = {record.id: record for record in records}
    store.settle([Outcome(intent.id, known.get(intent.id)) for intent in intents])
    lost = {record.id: reason for record, reason in findings.lost}
    for record in records:
        if record.id in lost:
            log.warning("made again", id=record.id, reason=lost[record.id])
            engine.restore(record, lost[record.id])
        else:
            engine.adopt(record)
    log.info("resumed", adopted=len(findings.adopted), made_again=len(findings.lost), orphans_removed=findings.orphans)


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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    main()

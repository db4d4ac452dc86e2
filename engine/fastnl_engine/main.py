"""fastnl-engine: the service."""

from __future__ import annotations

import logging
import os
import signal
import sys
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
from fastnl_engine.store.base import Outcome, StoreError
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
    except (InUse, StoreError, PermissionError, RoleError) as e:
        log.error("cannot start", reason=str(e))
        sys.exit(1)


def run(config: Config) -> None:
    """Serves until SIGTERM or SIGINT.  Raises InUse, StoreError or PermissionError when it cannot begin."""
    # the default of 5 ms would make the kernel thread wait for the gateway's Python
    sys.setswitchinterval(0.0005)
    os.umask(0o007)  # the sockets are for the engine's user and group
    Path(config.state_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    state_lock = lock(Path(config.state_dir) / "lock", f"the state folder {config.state_dir}")
    host = fastnl.Host(config.instance)
    host.features  # noqa: B018  probes now, so that a missing capability stops the start and not the first job
    store = SqliteStore(config.state_file, durable=config.durable)
    records, intents = store.load()
    findings = reconcile.resume(host, records, intents)
    known = {record.id: record for record in records}
    store.settle([Outcome(intent.id, known.get(intent.id)) for intent in intents])

    def make_engine(gateway: Gateway) -> Engine:
        return Engine(host, store, gateway.result, gateway.events.publish, queue=config.queue)

    gateway = Gateway(config, make_engine)
    engine = gateway.engine
    lost = {record.id: reason for record, reason in findings.lost}
    for record in records:
        if record.id in lost:
            log.warning("made again", id=record.id, reason=lost[record.id])
            engine.restore(record, lost[record.id])
        else:
            engine.adopt(record)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: gateway.stop())
    log.info(
        "serving",
        endpoint=config.endpoint,
        adopted=len(findings.adopted),
        made_again=len(findings.lost),
        orphans_removed=findings.orphans,
    )
    engine.ledger.strict = config.strict
    audit = Audit(host, engine.ledger, config.audit, engine.broken) if config.audit else None
    gateway.serve()
    if audit is not None:
        audit.stop()
    gateway.close()
    store.close()
    os.close(state_lock)
    log.info("stopped")


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

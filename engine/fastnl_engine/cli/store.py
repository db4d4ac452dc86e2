"""Where `fastnl ctl` finds the keys: options, and a store whose troubles are messages and exit codes."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import click

from fastnl_engine.cli import talk
from fastnl_engine.cli.options import F, Settings
from fastnl_engine.config import client_endpoint
from fastnl_engine.kv.access import EtcdSettings
from fastnl_engine.kv.base import Batch, Entry, KVError, Snapshot, Unavailable
from fastnl_engine.kv.etcd_yaml import of_environment, read, split


class Store(Protocol):
    """The part of fastnl_engine.kv.base.KV that both etcd and an engine have."""

    async def get(self, key: str) -> Entry | None: ...
    async def get_prefix(self, prefix: str) -> Snapshot: ...
    async def put(self, key: str, value: bytes) -> int: ...
    async def delete(self, key: str) -> bool: ...
    async def delete_prefix(self, prefix: str) -> int: ...
    def watch(self, prefix: str) -> AsyncGenerator[Batch, None]: ...


@dataclass(slots=True)
class Access:
    """What the options say; None: nothing."""

    etcd: str | None = None
    etcd_config: str | None = None
    etcd_ca: str | None = None
    etcd_cert: str | None = None
    etcd_key: str | None = None
    etcd_user: str | None = None
    etcd_password_file: str | None = None
    embedded: bool | None = None
    label: str | None = None

    @property
    def agent(self) -> str:
        """The microservice label that short keys belong to."""
        return self.label or os.environ.get("MICROSERVICE_LABEL") or "vpp1"

    def settings(self) -> EtcdSettings | None:
        """How to reach etcd; None: ask the engine.  Raises KVError, UsageError."""
        about_etcd = [f"--{name.replace('_', '-')}" for name in _ETCD if getattr(self, name)]
        if self.embedded:
            if about_etcd:
                raise click.UsageError(f"{about_etcd[0]} does not go with --embedded")
            return None
        # what the environment says of etcd as a whole, the command line says part by part
        settings = read(self.etcd_config) if self.etcd_config else of_environment(os.environ)
        if settings is None and not self.etcd:
            if about_etcd:
                raise click.UsageError(f"{about_etcd[0]} needs --etcd, or ETCD_ENDPOINTS")
            return None
        settings = settings or EtcdSettings()
        if self.etcd:
            settings = replace(settings, endpoints=split(self.etcd))
        if self.etcd_ca or self.etcd_cert or self.etcd_key:
            settings = replace(
                settings, tls=True, ca=self.etcd_ca or settings.ca, cert=self.etcd_cert or settings.cert,
                key=self.etcd_key or settings.key,
            )  # fmt: skip
        user = self.etcd_user or os.environ.get("ETCD_USER", "")
        return replace(settings, user=user, password=self._password() if user else "")

    def _password(self) -> str:
        if self.etcd_password_file is None:
            return os.environ.get("ETCD_PASSWORD", "")
        try:
            return Path(self.etcd_password_file).read_text().rstrip("\n")
        except (OSError, UnicodeDecodeError) as e:
            raise click.UsageError(f"{self.etcd_password_file}: {e}") from None


_ETCD = [name for name in Access.__slots__ if name.startswith("etcd")]


class StoreTrouble(click.ClickException):
    """The store was asked and did not do it, or nobody knows."""


class NoStore(StoreTrouble):
    """There is none, or nobody reaches it."""

    exit_code = 2


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None:
        setattr(access_of(ctx), str(param.name), value)


def access_of(ctx: click.Context) -> Access:
    found: Access = ctx.meta.setdefault(__name__, Access())
    return found


def _option(name: str, metavar: str | None, help: str, **more: Any) -> Callable[[F], F]:
    return click.option(name, metavar=metavar, help=help, expose_value=False, callback=_remember, **more)


def reaches_store(command: F) -> F:
    """--etcd and what belongs to it, --embedded and --label; before or after the command's name."""
    for option in (
        _option(
            "--label", "LABEL",
            "Agent that keys without /vnf-agent/LABEL/ belong to; else MICROSERVICE_LABEL, else vpp1.",
        ),
        _option(
            "--embedded", None, "The engine's own store; so it is when no etcd is named.",
            flag_value=True, type=bool, default=None,
        ),
        _option("--etcd-password-file", "FILE", "File with the password; else ETCD_PASSWORD."),
        _option("--etcd-user", "NAME", "User of etcd; else ETCD_USER."),
        _option("--etcd-key", "FILE", "Secret key that goes with it (PEM)."),
        _option("--etcd-cert", "FILE", "Our own certificate (PEM)."),
        _option("--etcd-ca", "FILE", "Who signs etcd's certificates (PEM); means https."),
        _option("--etcd-config", "FILE", "etcd.yaml as cn-infra reads it; else ETCD_CONFIG."),
        _option("--etcd", "ENDPOINT[,…]", "Where etcd is, HOST:PORT or a URL; else ETCD_ENDPOINTS."),
    ):  # fmt: skip
        command = option(command)
    return command


@contextlib.asynccontextmanager
async def store(settings: Settings, access: Access, *, tell_trouble: bool = False) -> AsyncIterator[Store]:
    """etcd or the engine.  tell_trouble: on stderr while it lasts, for who waits until it is over."""
    _quiet(tell_trouble)
    try:
        etcd = access.settings()
        if etcd is not None:
            async with etcd.open(settings.timeout) as kv:
                yield kv
        else:
            async with _engine(settings) as kv_of_engine:
                yield kv_of_engine
    except KVError as e:
        missing = isinstance(e, Unavailable) or type(e) is KVError
        raise (NoStore if missing else StoreTrouble)(str(e)) from None


@contextlib.asynccontextmanager
async def _engine(settings: Settings) -> AsyncIterator[Store]:
    import zmq

    from fastnl_engine.client import AsyncClient
    from fastnl_engine.curve import KeyProblem
    from fastnl_engine.kv.remote import EngineKV

    endpoint = client_endpoint(settings.endpoint)
    try:
        talk.knock(endpoint)
    except OSError as e:
        raise talk.NoAnswer(endpoint, talk.reason(e)) from None
    try:
        client = await AsyncClient(endpoint, timeout=settings.timeout).__aenter__()
    except zmq.ZMQError as e:
        raise click.UsageError(f"{endpoint} is no endpoint: {e}") from None
    except KeyProblem as e:
        raise click.UsageError(str(e)) from None
    try:
        yield EngineKV(client)
    finally:
        await client.__aexit__()


def _quiet(tell_trouble: bool) -> None:
    """The log of the client of etcd is not for standard output; what matters of it is in the errors."""
    import structlog

    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer(key_order=["event"])],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO if tell_trouble else logging.CRITICAL),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )

"""Where etcd is and as whom we come to it: one way from settings, whoever has them, to a client."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastnl_engine.kv import open_etcd
from fastnl_engine.kv.base import KVError

if TYPE_CHECKING:
    from fastnl_engine.config import Fleet, Ligato
    from fastnl_engine.kv.etcd import EtcdKV

DEFAULT = "127.0.0.1:2379"
TIMEOUT = 6.0  # seconds of a request, over all members


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """endpoints: "" of a scheme means https if `tls`, else http; ca, cert, key: files in PEM."""

    endpoints: tuple[str, ...] = ()
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    password: str = ""

    def open(self, timeout: float = TIMEOUT) -> EtcdKV:
        """Raises KVError for what cannot be right; nothing is connected yet."""
        tls = None
        if self.tls or any(e.startswith("https://") for e in self.endpoints):
            from fastnl_engine.kv.endpoints import Tls

            tls = Tls(self.ca, self.cert, self.key)
        endpoints = self.endpoints or (DEFAULT,)
        if not self.tls:
            endpoints = tuple(e if "://" in e else f"http://{e}" for e in endpoints)
        return open_etcd(endpoints, tls=tls, user=self.user, password=self.password, timeout=timeout)


def of_config(settings: Ligato | Fleet, table: str) -> EtcdSettings:
    """From a table of the engine's configuration.  Raises KVError when the password cannot be read."""
    password = ""
    if settings.password_file:
        try:
            password = Path(settings.password_file).read_text().partition("\n")[0]
        except (OSError, UnicodeDecodeError) as e:
            raise KVError(f"{table}.password_file {settings.password_file}: {e}") from e
    tls = bool(settings.ca or settings.cert)
    access = (settings.ca, settings.cert, settings.key, settings.user, password)
    return EtcdSettings(tuple(settings.endpoints), tls, *access)

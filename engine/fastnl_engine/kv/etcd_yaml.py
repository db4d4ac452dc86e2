"""Where etcd is and how to reach it, from the etcd.yaml (etcd.conf) that Ligato's cn-infra reads.

Of that file the endpoints and what belongs to TLS count; times and reconnecting are this client's own business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastnl_engine.kv.access import EtcdSettings
from fastnl_engine.kv.base import KVError

ENDPOINTS = ("ETCD_ENDPOINTS", "ETCDV3_ENDPOINTS")  # in the environment, as cn-infra has them
CONFIG = ("ETCD_CONFIG", "ETCDV3_CONFIG")


def split(endpoints: str) -> tuple[str, ...]:
    """Endpoints as they are written on a command line, with commas between them."""
    return tuple(e for e in (part.strip() for part in endpoints.split(",")) if e)


def of_environment(environ: Mapping[str, str]) -> EtcdSettings | None:
    """What the environment says, None if nothing.  Raises KVError."""
    path = next((environ[name] for name in CONFIG if environ.get(name)), "")
    endpoints = next((environ[name] for name in ENDPOINTS if environ.get(name)), "")
    if not path and not endpoints:
        return None
    settings = read(path) if path else EtcdSettings()
    return replace(settings, endpoints=split(endpoints)) if endpoints else settings


def read(path: str) -> EtcdSettings:
    """An etcd.yaml.  Raises KVError."""
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_bytes())
    except OSError as e:
        raise KVError(f"{path}: {e.strerror}") from None
    except (yaml.YAMLError, ValueError) as e:
        raise KVError(f"{path}: {e}") from None
    if not isinstance(found, dict):
        raise KVError(f"{path}: must have endpoints: [HOST:PORT, …]")
    endpoints = found.get("endpoints") or []
    endpoints = [endpoints] if isinstance(endpoints, str) else endpoints
    if not isinstance(endpoints, list) or not all(isinstance(e, str) for e in endpoints):
        raise KVError(f"{path}: endpoints must be a list of HOST:PORT")
    if _flag(found, "insecure-transport", path):
        return EtcdSettings(tuple(endpoints))
    if _flag(found, "insecure-skip-tls-verify", path):
        raise KVError(
            f"{path}: insecure-skip-tls-verify is not possible here; name the file of who signs the certificates "
            "of etcd in ca-file"
        )
    ca, cert, key = (_text(found, name, path) for name in ("ca-file", "cert-file", "key-file"))
    return EtcdSettings(tuple(endpoints), True, ca, cert, key)


def _flag(found: dict[Any, Any], name: str, path: str) -> bool:
    value = found.get(name) or False
    if not isinstance(value, bool):
        raise KVError(f"{path}: {name} must be true or false, not {value!r}")
    return value


def _text(found: dict[Any, Any], name: str, path: str) -> str:
    value = found.get(name) or ""
    if not isinstance(value, str):
        raise KVError(f"{path}: {name} must be the path of a file, not {value!r}")
    return value

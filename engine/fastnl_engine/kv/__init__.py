"""Keys and values with revisions, watches and leases: etcd, or the same on one machine without it.

base       what both are (KV), and the values and errors of that face
mirror     the contents of a prefix, kept up to date
embedded   in a SQLite file of the engine's own
etcd       the client; the only module that imports grpc, which starts threads and must not be forked
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fastnl_engine.kv.base import KVError

if TYPE_CHECKING:
    from fastnl_engine.kv.etcd import EtcdKV

# gRPC reads these when it is imported, so they are here, where every import of the client comes past.
# Its handlers of fork() start threads in the child, which then may die before it can execute its program
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# its own complaints would go to stderr beside the log; what matters of them is in our errors
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def open_etcd(*args: Any, **options: Any) -> EtcdKV:
    """EtcdKV(...), imported now and not before.  Raises KVError where grpcio or protobuf is not installed."""
    try:
        from fastnl_engine.kv.etcd import EtcdKV
    except ImportError as e:
        raise KVError(f"etcd needs grpcio and protobuf ({e}); install them with: pip install 'fastnl[etcd]'") from e
    return EtcdKV(*args, **options)

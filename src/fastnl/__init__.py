"""fastnl wires Linux network namespaces together: many veth pairs and VXLANs in one go, each with its own result.

A pair between two named namespaces, made at once:

    from fastnl import End, Host, Veth

    host = Host()
    [result] = host.connect([Veth(End("blue", "eth0", ["10.0.0.1/24"]), End("red", "eth0", ["10.0.0.2/24"]))])
"""

from fastnl._version import __version__

try:
    import fastnl._nl  # noqa: F401
except ImportError as e:
    raise ImportError(
        f"fastnl's compiled part could not be loaded ({e}). From a checkout, build it with "
        "`pip install -e .`; it needs gcc, Python's headers and those of the kernel (linux-libc-dev)."
    ) from e

from fastnl.batch import Host
from fastnl.errors import (
    CallerError,
    Conflict,
    FastnlError,
    IfnameNotFound,
    InternalError,
    InvalidValue,
    KernelError,
    NameInUse,
    NetnsGone,
    NetnsNotFound,
    NoPermission,
    VniInUse,
)
from fastnl.links import Address, Connection, Device, End, Neighbour, Route, Rule, Veth, Vxlan
from fastnl.wired import Move, Place, Result, Wired

__all__ = [
    "Address",
    "CallerError",
    "Conflict",
    "Connection",
    "Device",
    "End",
    "FastnlError",
    "Host",
    "IfnameNotFound",
    "InternalError",
    "InvalidValue",
    "KernelError",
    "Move",
    "NameInUse",
    "Neighbour",
    "NetnsGone",
    "NetnsNotFound",
    "NoPermission",
    "Place",
    "Result",
    "Route",
    "Rule",
    "Veth",
    "VniInUse",
    "Vxlan",
    "Wired",
    "__version__",
]

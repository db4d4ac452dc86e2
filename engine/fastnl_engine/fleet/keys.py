"""Names of a fleet's keys.

host/<host>            where its tunnels end; stays when its engine is away
alive/<host>           is there while its engine renews a lease
removed/<host>/<identity>  the machine of this identity was removed for good and does not know yet
connection/<id>        a connection as it was submitted
half/<host>/<id>       what one host has to make of it, or to take away
outcome/<host>/<id>    what became of that
vni/<port>/<vni>       the connection that has a number
news/<host>/last       the last outcomes that somebody had to tell a host
"""

from __future__ import annotations

ROOT = "/fastnl/fleet/"


class Keys:
    """Of one fleet."""

    def __init__(self, name: str) -> None:
        self.root = f"{ROOT}{name}/"
        self.hosts, self.alives, self.connections = (f"{self.root}{kind}/" for kind in ("host", "alive", "connection"))

    def host(self, host: str) -> str:
        return self.hosts + host

    def alive(self, host: str) -> str:
        return self.alives + host

    def removals(self, host: str) -> str:
        return f"{self.root}removed/{host}/"

    def removed(self, host: str, identity: str) -> str:
        # another machine may have got the name since
        return self.removals(host) + identity

    def connection(self, id_: str) -> str:
        return self.connections + id_

    def halves(self, host: str) -> str:
        return f"{self.root}half/{host}/"

    def half(self, host: str, id_: str) -> str:
        return self.halves(host) + id_

    def outcomes(self, host: str) -> str:
        return f"{self.root}outcome/{host}/"

    def outcome(self, host: str, id_: str) -> str:
        return self.outcomes(host) + id_

    def vnis(self, port: int) -> str:
        return f"{self.root}vni/{port}/"

    def vni(self, port: int, vni: int) -> str:
        # so that their order is that of the numbers
        return f"{self.vnis(port)}{vni:08}"

    def news(self, host: str) -> str:
        # who watches the prefix news/one would hear what is for one2, too
        return f"{self.root}news/{host}/last"

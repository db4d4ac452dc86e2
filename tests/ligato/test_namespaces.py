"""Namespaces that the engine makes, containers, and interfaces that a Ligato left."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fixtures.docker import Docker
from tests.ligato.conftest import Agent, addresses, comes, goes, links, veth1, veth3

from fastnl import netns as library
from fastnl.testing import Namespaces, eventually, ping
from fastnl_engine.testing import EngineProcess, end, pair

I1, I3 = "linux/config/v1/interface/", "config/linux/interfaces/v2/interface/"


def there(name: str) -> bool:
    return Path(library.RUN_NETNS, name).exists()


# -- create_missing ----------------------------------------------------------------------------------


@pytest.fixture
def no_namespaces(nothing_left: None) -> Iterator[None]:
    yield
    for path in Path(library.RUN_NETNS).iterdir():
        library.remove(path.name)


def test_namespaces_are_made_when_told_to_and_go_with_their_last_user(
    make_agent: Callable[..., Agent], netns: Namespaces, no_namespaces: None
) -> None:
    agent = make_agent(create_missing=True)
    netns.make("n0")
    agent.put(I1 + "va", veth1("va", "vb", "n0", "10.0.0.1/24"))
    agent.expect(I1 + "va", "PENDING", "veth-peer-exists")
    agent.put(I1 + "vb", veth1("vb", "va", "n1", "10.0.0.2/24"))
    agent.put(I1 + "vc", {"name": "vc", "type": 1, "namespace": {"type": 2, "name": "n1"}})
    assert eventually(lambda: there("n1") and ping("n0", "10.0.0.2"))
    agent.delete(I1 + "va")
    assert goes("n1", "vb") and there("n1")
    agent.engine.kill()
    agent.engine.start()  # it remembers what it made
    agent.delete(I1 + "vc")
    assert eventually(lambda: not there("n1"))
    assert there("n0")


def test_a_made_namespace_stays_while_a_client_uses_it_and_one_that_was_replaced_stays(
    make_agent: Callable[..., Agent], netns: Namespaces, no_namespaces: None
) -> None:
    agent = make_agent(create_missing=True)
    value = {"name": "t0", "type": 1, "namespace": {"type": 2, "name": "n1"}}
    agent.put(I1 + "t0", value)
    assert eventually(lambda: there("n1")) and comes("n1", "t0")
    netns.make("n0")
    client = agent.engine.client()
    client.connect([pair("c", end("n0", "a"), end("n1", "b"))])
    agent.delete(I1 + "t0")
    assert goes("n1", "t0") and there("n1")
    client.disconnect(["c"])
    agent.put(I1 + "t0", value)
    agent.expect(I1 + "t0", "CONFIGURED")
    library.remove("n1")  # who needs it gets it back
    assert eventually(lambda: there("n1")) and comes("n1", "t0")
    agent.engine.hang_up()
    agent.engine.kill()
    library.remove("n1")
    library.create("n1")
    agent.engine.start()
    assert comes("n1", "t0")
    agent.delete(I1 + "t0")
    assert goes("n1", "t0")
    # a namespace that is to go has gone before anything that was put later is up
    agent.put(I1 + "t1", {"name": "t1", "type": 1, "namespace": {"type": 2, "name": "n0"}})
    agent.expect(I1 + "t1", "CONFIGURED")
    assert there("n1")


def test_no_namespace_is_made_unless_told_to(agent: Agent, netns: Namespaces) -> None:
    agent.put(I1 + "t0", {"name": "t0", "type": 1, "namespace": {"type": 2, "name": "n1"}})
    agent.expect(I1 + "t0", "PENDING", "n1")
    assert not there("n1")


# -- interfaces of a Ligato --------------------------------------------------------------------------


def ligatos_pair(a: str, b: str, label: str = "vpp1", temporary: str = "") -> None:
    """As its agent leaves them; `temporary` is a name in the kernel that it gives an interface before its own."""
    subprocess.run(f"ip link add {temporary or a} netns n0 type veth peer name {b} netns n1".split(), check=True)
    for netns, ifname, name, peer in (("n0", temporary or a, a, b), ("n1", b, b, a)):
        alias = f"/vnf-agent/{label}/{name}/{peer}"
        subprocess.run(["ip", "-n", netns, "link", "set", ifname, "up", "alias", alias], check=True)


def ip(command: str) -> None:
    subprocess.run(command.split(), check=True)


def had(netns: str) -> dict[str, int]:
    return {name: row["ifindex"] for name, row in links(netns).items()}


@pytest.mark.parametrize("adopt", [True, False])
def test_a_ligatos_interfaces_are_taken_over_when_told_to(
    make_agent: Callable[..., Agent], netns: Namespaces, adopt: bool
) -> None:
    netns.many(2)
    ligatos_pair("va", "vb")
    ip("ip -n n0 address add 10.0.0.1/24 dev va")
    ip("ip -n n0 address add 10.7.0.1/24 dev va")  # of an older configuration
    ip("ip -n n1 address add 10.0.0.2/24 dev vb")
    ligatos_pair("old", "dlo")  # that nobody wants any more
    ligatos_pair("oa", "ob", label="vpp2")  # another agent's
    ligatos_pair("ra", "rb")
    ip("ip -n n0 route add 10.99.0.0/16 dev ra")  # this is more than a name
    ligatos_pair("wa", "wb", temporary="veth-1234")
    before = had("n0") | had("n1")
    agent = make_agent()
    agent.engine.stop()
    agent.put(I1 + "va", veth1("va", "vb", "n0", "10.0.0.1/24", mtu=1400))
    agent.put(I3 + "vb", veth3("vb", "va", "n1", "10.0.0.2/24"))
    for name, peer, where in (("ra", "rb", "n0"), ("rb", "ra", "n1"), ("wa", "wb", "n0"), ("wb", "wa", "n1")):
        agent.put(I1 + name, veth1(name, peer, where))
    agent.engine.env["FASTNL_LIGATO_ADOPT_LIGATO"] = str(adopt).lower()
    agent.engine.start()
    if not adopt:
        agent.expect(I1 + "va", "RETRYING", "va")
        assert had("n0") | had("n1") == before
        return
    for name in ("va", "ra", "wa"):
        agent.expect(I1 + name, "CONFIGURED")
    assert ping("n0", "10.0.0.2")
    assert set(links("n0")) == {"va", "oa", "ra", "wa"} and set(links("n1")) == {"vb", "ob", "rb", "wb"}
    after = had("n0") | had("n1")
    # what only its name, MTU or addresses set apart is the same as before: nothing was interrupted
    assert all(after[name] == before[name] for name in ("va", "vb", "wb", "oa", "ob"))
    assert after["wa"] == before["veth-1234"] and after["ra"] != before["ra"]
    assert links("n0")["va"]["mtu"] == 1400 and addresses("n0", "va") == {"10.0.0.1/24"}
    client = agent.engine.client()
    # the number of queues is for good
    assert {d["field"] for row in client.verify() for d in row["differences"]} <= {"a.queues", "b.queues"}
    # from now on they are ours, whether the setting stays or not, and go with their configuration
    agent.engine.hang_up()
    agent.engine.kill()
    agent.engine.start().resumed()
    agent.expect(I1 + "wa", "CONFIGURED")
    assert had("n0") | had("n1") == after
    agent.delete(I1 + "wb")
    assert goes("n0", "wa")


# -- microservices -----------------------------------------------------------------------------------


def in_container(pid: int, *args: str) -> dict[str, dict[str, object]]:
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", "--", "ip", "-j", "-d", *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {row["ifname"]: row for row in json.loads(done.stdout or "[]") if row} if not done.returncode else {}


def test_a_pair_follows_a_container_through_start_stop_and_restart(
    docker: Docker, make_agent: Callable[..., Agent], netns: Namespaces
) -> None:
    netns.make("n0")
    agent = make_agent(f'docker = "{docker.socket}"')
    agent.put(I3 + "va", veth3("va", "vb", "n0", "10.0.0.1/24"))
    agent.put(I3 + "vb", veth3("vb", "va", "", "10.0.0.2/24", namespace={"type": "MICROSERVICE", "reference": "web"}))
    agent.expect(I3 + "va", "PENDING", "microservice-available")
    for turn in range(2):
        if turn:
            docker.post("web", "start")
        else:
            docker.run("web", env=["MICROSERVICE_LABEL=web"])
        pid = docker.pid("web")
        assert eventually(lambda pid=pid: "vb" in in_container(pid, "link")), agent.engine.log
        assert ping("n0", "10.0.0.2")
        agent.expect(I3 + "vb", "CONFIGURED")
        docker.post("web", "kill" if turn else "stop?t=0")
        assert goes("n0", "va")
        agent.expect(I3 + "vb", "PENDING", "microservice-available")
    docker.post("web", "start")
    assert comes("n0", "va")
    docker.post("web", "restart?t=0")
    pid = docker.pid("web")
    assert eventually(lambda: "vb" in in_container(pid, "link") and ping("n0", "10.0.0.2"))
    # to a container that is not there: the pair does not stay with the one that is
    agent.put(I3 + "vb", veth3("vb", "va", "", "10.0.0.2/24", namespace={"type": "MICROSERVICE", "reference": "db"}))
    assert goes("n0", "va") and "vb" not in in_container(pid, "link")
    agent.expect(I3 + "vb", "PENDING", "microservice-available")


def test_a_restart_of_the_engine_touches_no_pair_of_a_container_and_docker_may_be_away(
    make_docker: Callable[..., Docker], make_agent: Callable[..., Agent], netns: Namespaces
) -> None:
    docker = make_docker().start()
    netns.make("n0")
    agent = make_agent(f'docker = "{docker.socket}"')
    pid = docker.run("web", labels={"fastnl.microservice": "web"})
    agent.put(I3 + "va", veth3("va", "vb", "n0", "10.0.0.1/24"))
    agent.put(I3 + "vb", veth3("vb", "va", "", "10.0.0.2/24", namespace={"type": "MICROSERVICE", "reference": "web"}))
    agent.expect(I3 + "va", "CONFIGURED")
    index = links("n0")["va"]["ifindex"]
    agent.engine.kill()
    agent.engine.start().resumed()
    agent.expect(I3 + "va", "CONFIGURED")
    assert links("n0")["va"]["ifindex"] == index

    agent.engine.kill()
    docker.kill()
    agent.engine.start().resumed()
    agent.expect(I3 + "va", "CONFIGURED")
    assert links("n0")["va"]["ifindex"] == index
    docker.start()
    if docker.inspect("web")["State"]["Pid"] == pid:  # dockerd ends what it does not find again
        agent.expect(I3 + "va", "CONFIGURED")
        assert ping("n0", "10.0.0.2")
    docker.remove("web")
    assert goes("n0", "va")


def test_a_value_is_deleted_while_its_container_is_away(
    docker: Docker, make_agent: Callable[..., Agent], netns: Namespaces
) -> None:
    netns.make("n0")
    agent = make_agent(f'docker = "{docker.socket}"')
    there = veth3("vb", "va", "", "10.0.0.2/24", namespace={"type": "MICROSERVICE", "reference": "web"})
    agent.put(I3 + "va", veth3("va", "vb", "n0", "10.0.0.1/24"))
    agent.put(I3 + "vb", there)
    docker.run("web", env=["MICROSERVICE_LABEL=web"])
    agent.expect(I3 + "vb", "CONFIGURED")
    docker.post("web", "kill")
    agent.expect(I3 + "vb", "PENDING", "microservice-available")
    agent.delete(I3 + "vb")
    agent.expect(I3 + "va", "PENDING", "veth-peer-exists")
    client = agent.engine.client()
    assert eventually(lambda: not list(client.list())), list(client.list())
    assert eventually(lambda: agent.status(I3 + "vb") == {}), agent.status(I3 + "vb")
    docker.post("web", "start")  # and nothing comes back that nobody wants
    agent.put(I3 + "vc", there | {"name": "vc", "type": "TAP_TO_VPP", "veth": None})
    agent.expect(I3 + "vc", "CONFIGURED")
    assert set(in_container(docker.pid("web"), "link")) == {"lo", "vc"} and "va" not in links("n0")


@pytest.mark.parametrize("missing", ["container", "half"])
def test_docker_is_killed_while_a_half_waits(
    make_docker: Callable[..., Docker], make_agent: Callable[..., Agent], netns: Namespaces, missing: str
) -> None:
    docker = make_docker().start()
    netns.make("n0")
    agent = make_agent(f'docker = "{docker.socket}"')
    here = veth3("va", "vb", "n0", "10.0.0.1/24")
    there = veth3("vb", "va", "", "10.0.0.2/24", namespace={"type": "MICROSERVICE", "reference": "web"})
    agent.put(I3 + "vb", there)
    if missing == "container":
        agent.put(I3 + "va", here)
        agent.expect(I3 + "va", "PENDING", "microservice-available")
    else:
        docker.run("web", env=["MICROSERVICE_LABEL=web"])
        agent.expect(I3 + "vb", "PENDING", "veth-peer-exists")
    docker.kill()
    # neither is a reason to forget, nor to report anything else
    agent.put(I3 + "t", {"name": "t", "type": "TAP_TO_VPP", "namespace": {"type": "NSID", "reference": "n0"}})
    agent.expect(I3 + "t", "CONFIGURED")
    label = "microservice-available" if missing == "container" else "veth-peer-exists"
    agent.expect(I3 + "vb", "PENDING", label)
    docker.start()
    if missing == "container":
        docker.run("web", env=["MICROSERVICE_LABEL=web"])
    else:
        if not docker.inspect("web")["State"]["Running"]:  # dockerd ends what it does not find again
            docker.post("web", "start")
        agent.put(I3 + "va", here)
    assert comes("n0", "va") and ping("n0", "10.0.0.2")
    agent.expect(I3 + "vb", "CONFIGURED")
    docker.remove("web")
    assert goes("n0", "va")


def test_clients_may_name_microservices_too(
    docker: Docker, make_agent: Callable[..., Agent], netns: Namespaces
) -> None:
    netns.make("n0")
    client = make_agent(f'docker = "{docker.socket}"').engine.client()
    job = pair("c", end("n0", "a", "10.0.0.1/24"), end("microservice:db", "b", "10.0.0.2/24"))
    assert client.connect([job], wait=True)[0]["state"] == "pending"
    docker.run("db", env=["MICROSERVICE_LABEL=db"])
    assert comes("n0", "a") and ping("n0", "10.0.0.2")
    docker.remove("db")
    assert goes("n0", "a")


def test_without_docker_a_microservice_is_refused(make_agent: Callable[..., Agent], netns: Namespaces) -> None:
    netns.make("n0")
    agent = make_agent()
    agent.put(I3 + "t", {"name": "t", "type": "TAP_TO_VPP", "namespace": {"type": "MICROSERVICE", "reference": "web"}})
    agent.expect(I3 + "t", "INVALID", "`docker`")


# -- the engine's own store --------------------------------------------------------------------------


def test_the_embedded_store_configures_as_etcd_does(
    make_engine: Callable[..., EngineProcess], netns: Namespaces
) -> None:
    netns.many(2)
    engine = make_engine('[ligato]\nstore = "embedded"\nstatistics = 0\n').start()
    client = engine.client()
    root = "/vnf-agent/vpp1/"

    def put(key: str, value: object) -> None:
        reply = client.request("kv", action="put", key=root + key, value=json.dumps(value))
        assert reply["ok"], reply

    def state(name: str) -> str:
        found = client.request("kv", action="get", key=f"{root}linux/status/v1/interface/{name}")["results"]
        return json.loads(found[0]["value"])["value"]["state"] if found else ""

    put(I1 + "va", veth1("va", "vb", "n0", "10.0.0.1/24"))
    assert eventually(lambda: state("va") == "PENDING")
    engine.hang_up()
    engine.kill()
    client = engine.start().client()
    put(I1 + "vb", veth1("vb", "va", "n1", "10.0.0.2/24"))
    assert comes("n0", "va") and ping("n0", "10.0.0.2")
    assert eventually(lambda: state("va") == state("vb") == "CONFIGURED")
    client.request("kv", action="delete", key=root + I1 + "va")
    assert goes("n1", "vb")


def test_a_store_that_cannot_be_used_stops_the_start(make_engine: Callable[..., EngineProcess]) -> None:
    engine = make_engine('[ligato]\nstore = "embedded"\n')
    engine.state.mkdir()
    (engine.state / "keys.db").write_text("this is no database, not at all, and it is long enough to be told from one")
    engine.launch()
    assert engine.wait() == 1
    assert "damaged" in engine.log and "keys.db" in engine.log


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('store = "consul"', "ligato.store 'consul' is none of"),
        ('lable = "x"', "no setting 'ligato.lable'"),
        ('label = "a/b"', "ligato.label"),
        ('store = "etcd"\nuser = "u"', "ligato.user needs ligato.password_file"),
        ("status_lease = 1", "ligato.status_lease must be at least 5"),
        ("endpoints = []", "ligato.endpoints is empty"),
    ],
)
def test_wrong_settings_are_named(make_engine: Callable[..., EngineProcess], settings: str, words: str) -> None:
    engine = make_engine(f"[ligato]\n{settings}\n")
    engine.launch()
    assert engine.wait() == 2
    assert words in engine.log


def test_an_endpoint_that_is_none_stops_the_start(make_engine: Callable[..., EngineProcess]) -> None:
    engine = make_engine('[ligato]\nstore = "etcd"\nendpoints = ["nowhere"]\n')
    engine.launch()
    assert engine.wait() == 1
    assert "nowhere" in engine.log and "HOST:PORT" in engine.log

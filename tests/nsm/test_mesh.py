"""Three hosts, a forwarder on each, and connections from every one to every other; and the bench in short."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, permutations
from pathlib import Path

import pytest

from fastnl.testing import PATIENCE, nsenter, ping, spawn
from fastnl_engine.adapters.nsm.inodes import inode_of
from fastnl_engine.adapters.nsm.testing import Manager, addresses, cross_connect, kernel, request, vxlan

ROOT = Path(__file__).parents[2]
CONNECTIONS = 60
SAMPLE = 12
HOSTS = {f"host{n}": f"192.0.2.{n}" for n in (1, 2, 3)}


@pytest.fixture
def hosts(netns):
    """Namespaces that stand for hosts, and a switch between them."""
    switch = netns.make("switch")

    def ip(*words):
        subprocess.run(["ip", *words], check=True)

    ip("-n", switch, "link", "add", "bridge", "up", "type", "bridge")
    for host, address in HOSTS.items():
        netns.make(host)
        ip("-n", switch, "link", "add", host, "master", "bridge", "up", "type", "veth",
           "peer", "name", "under", "netns", host)  # fmt: skip
        ip("-n", host, "addr", "add", f"{address}/24", "dev", "under")
        for ifname in ("lo", "under"):
            ip("-n", host, "link", "set", ifname, "up")
    return list(HOSTS)


def inode(name):
    return inode_of(f"name:{name}")


def halves(n, here, there, one, other):
    """What the managers of two hosts ask for: a connection from namespace `here` to `there`."""
    context = addresses(f"10.1.{n}.1/30", f"10.1.{n}.2/30")
    tunnel = vxlan(HOSTS[one], HOSTS[other], n + 1)
    return (
        (one, cross_connect(f"m{n}", kernel(f"nsm{n}", inode(here)), tunnel, context)),
        (other, cross_connect(f"m{n}", tunnel, kernel(f"nsm{n}", inode(there)), context)),
    )


def test_a_mesh_of_three_hosts(hosts, netns, make_forwarder, links):
    running = {}
    for host in hosts:
        # all of them see all named namespaces, and by the instance they tell what is whose
        env = {"NSM_FORWARDER_SRC_IP": HOSTS[host]}
        running[host] = make_forwarder(prefix=nsenter(host), env=env, instance=host).start()
    faces = {host: forwarder.face().cross for host, forwarder in running.items()}
    # each is on one of the hosts
    pods = {host: netns.many(2, f"{host}-") for host in hosts}
    every = [pod for there in pods.values() for pod in there]
    ways = list(permutations(hosts, 2))
    places = [
        (pods[one][n // 6 % 2], pods[other][n // 12 % 2], one, other)
        for n, (one, other) in zip(range(CONNECTIONS), cycle(ways), strict=False)
    ]
    asked = [half for n, place in enumerate(places) for half in halves(n, *place)]
    with ThreadPoolExecutor(16) as pool:
        # all at once, and none may fail
        list(pool.map(lambda half: faces[half[0]].Request(half[1], timeout=PATIENCE), asked))
        for n in random.Random(1).sample(range(CONNECTIONS), SAMPLE):
            here, there, *_ = places[n]
            assert ping(here, f"10.1.{n}.2") and ping(there, f"10.1.{n}.1"), n
        # one forwarder dies; what it made goes on, and asking again changes nothing
        before = {netns: links(netns) for netns in every}
        running["host2"].kill()
        assert all(ping(places[n][0], f"10.1.{n}.2") for n in range(4))
        running["host2"].start()
        list(pool.map(lambda half: faces[half[0]].Request(half[1], timeout=PATIENCE), asked))
        after = {netns: links(netns) for netns in every}
        index = {netns: {name: row["ifindex"] for name, row in rows.items()} for netns, rows in before.items()}
        assert index == {netns: {name: row["ifindex"] for name, row in rows.items()} for netns, rows in after.items()}
        list(pool.map(lambda half: faces[half[0]].Close(half[1], timeout=PATIENCE), asked))
    assert all(set(links(netns)) == {"lo"} for netns in every)


def test_clients_of_the_later_generation_on_every_host(hosts, netns, make_forwarder, tmp_path):
    managers = {host: Manager(f"unix:{tmp_path}/{host}.sock", host).start() for host in hosts}
    try:
        running = {}
        for host in hosts:
            env = {"NSM_TUNNEL_IP": HOSTS[host], "NSM_NAME": f"forwarder-{host}",
                   "NSM_CONNECT_TO": f"unix://{tmp_path}/{host}.sock"}  # fmt: skip
            running[host] = make_forwarder(prefix=nsenter(host), env=env, instance=host).start()
        endpoint = netns.make("endpoint")
        for n, (one, other) in enumerate(permutations(hosts, 2)):
            client = netns.make(f"client{n}")
            managers[one].remote, managers[other].remote = running[other].face(), None
            managers[other].endpoint = kernel(f"nsm{n}", f"inode://4/{inode(endpoint)}", generation=2)
            managers[other].context = addresses(f"10.2.{n}.1/30", f"10.2.{n}.2/30")
            mechanism = kernel("nsm0", f"inode://4/{inode(client)}", generation=2)
            face = running[one].face().service
            answered = face.Request(request(f"r{n}", mechanism), timeout=PATIENCE)
            assert ping(client, f"10.2.{n}.2"), (one, other)
            face.Close(answered, timeout=PATIENCE)
            assert not ping(client, f"10.2.{n}.2", wait=0.5)
    finally:
        for manager in managers.values():
            manager.stop()


@pytest.mark.kernel
@pytest.mark.timeout(400)
@pytest.mark.skipif(not (ROOT / "bench").is_dir(), reason="bench/ is not there, this is no source tree")
def test_the_bench_of_the_forwarder():
    short = ["--pairs", "100", "--rounds", "1", "--probes", "50", "--established", "200", "--remote", "30"]
    process = spawn(
        [sys.executable, "-m", "bench.nsm", *short], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    said, _ = process.communicate(timeout=390)
    assert process.returncode == 0, said
    assert "none failed; 30 of 30 pings across them were answered" in said
    assert len(re.findall(r"(?:create|delete), ratio +\d", said)) == 2, said
    assert "a local Request to an idle forwarder" in said and "median at 200 to that at 100" in said

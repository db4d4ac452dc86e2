"""TLS between clients, the forwarder and a manager, and certificates that are replaced while it runs."""

from __future__ import annotations

import grpc
import pytest
import trustme
from google.protobuf.empty_pb2 import Empty

from fastnl.testing import PATIENCE, eventually, ping
from fastnl_engine.adapters.nsm.inodes import inode_of
from fastnl_engine.adapters.nsm.pb import forwarder_pb2_grpc, networkservice_pb2_grpc
from fastnl_engine.adapters.nsm.testing import Manager, addresses, kernel, request


@pytest.fixture
def ca():
    return trustme.CA()


def papers(ca, folder, name="localhost"):
    folder.mkdir(exist_ok=True)
    cert = ca.issue_cert(name)
    cert.private_key_pem.write_to_path(folder / "key.pem")
    cert.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    return {f"NSM_TLS_{what.upper()}": f"{folder}/{what}.pem" for what in ("cert", "key", "ca")}


def channel(target, ca, ours):
    cert = ours.issue_cert("client")
    credentials = grpc.ssl_channel_credentials(
        ca.cert_pem.bytes(), cert.private_key_pem.bytes(), cert.cert_chain_pems[0].bytes()
    )
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "localhost")]
    return grpc.secure_channel(target, credentials, options=options)


def serves(channel):
    with channel:
        call = forwarder_pb2_grpc.MechanismsMonitorStub(channel).MonitorMechanisms(Empty(), timeout=PATIENCE)
        try:
            return bool(next(iter(call)).local_mechanisms)
        except grpc.RpcError:
            return False
        finally:
            call.cancel()


class SecureManager(Manager):
    def __init__(self, address, ca):
        super().__init__(address)
        cert = ca.issue_cert("manager.example")
        pair = (cert.private_key_pem.bytes(), cert.cert_chain_pems[0].bytes())
        self._credentials = grpc.ssl_server_credentials([pair], ca.cert_pem.bytes(), require_client_auth=True)

    def bind(self, server):
        server.add_secure_port(self.address, self._credentials)


def test_both_ways(make_forwarder, tmp_path, ca, blue, red):
    with SecureManager(f"unix:{tmp_path}/m.sock", ca) as manager:
        manager.endpoint = kernel("nse0", f"inode://4/{inode_of(f'name:{red}')}", generation=2)
        manager.context = addresses("172.16.1.1/32", "172.16.1.2/32")
        env = papers(ca, tmp_path / "papers") | {
            "NSM_CONNECT_TO": f"unix://{tmp_path}/m.sock", "NSM_TLS_NAME": "manager.example",
            "FORWARDER_REGISTRAR_SOCKET": f"{tmp_path}/m.sock",
        }  # fmt: skip
        forwarder = make_forwarder(env=env).start()
        assert eventually(lambda: manager.endpoints and manager.registered)
        with channel(forwarder.target, ca, ca) as face:
            stub = networkservice_pb2_grpc.NetworkServiceStub(face)
            asked = request("c1", kernel("nsm0", f"inode://4/{inode_of(f'name:{blue}')}", generation=2))
            stub.Request(asked, timeout=PATIENCE)
            assert ping(blue, "172.16.1.2")
    # neither without papers nor with somebody else's
    assert not serves(grpc.insecure_channel(forwarder.target))
    assert not serves(channel(forwarder.target, ca, trustme.CA()))


def test_papers_that_are_replaced_count_towards_a_manager_too(make_forwarder, tmp_path, ca, blue, red):
    other = trustme.CA()
    env = papers(ca, tmp_path / "papers") | {
        "NSM_CONNECT_TO": f"unix://{tmp_path}/m.sock", "NSM_TLS_NAME": "manager.example",
    }  # fmt: skip
    forwarder = make_forwarder(env=env).start()
    asked = request("c1", kernel("nsm0", f"inode://4/{inode_of(f'name:{blue}')}", generation=2))
    for theirs in (ca, other):
        papers(theirs, tmp_path / "papers")
        with SecureManager(f"unix:{tmp_path}/m.sock", theirs) as manager:
            manager.endpoint = kernel("nse0", f"inode://4/{inode_of(f'name:{red}')}", generation=2)
            with channel(forwarder.target, theirs, theirs) as face:
                networkservice_pb2_grpc.NetworkServiceStub(face).Request(asked, timeout=PATIENCE)
            assert len(manager.asked) == 1 and eventually(lambda: manager.endpoints)


def test_papers_that_are_replaced(make_forwarder, tmp_path, ca):
    forwarder, other = make_forwarder(env=papers(ca, tmp_path / "papers")).start(), trustme.CA()
    assert serves(channel(forwarder.target, ca, ca))
    papers(other, tmp_path / "papers")
    assert serves(channel(forwarder.target, other, other))
    assert not serves(channel(forwarder.target, ca, ca))
    # as long as they cannot be used, the ones before are
    for spoil in (lambda path: path.write_text("garbage"), lambda path: path.unlink()):
        spoil(tmp_path / "papers" / "cert.pem")
        assert serves(channel(forwarder.target, other, other))


def test_papers_that_are_just_being_replaced(make_forwarder, tmp_path, ca):
    env = papers(ca, tmp_path / "papers") | {
        "NSM_CONNECT_TO": f"unix://{tmp_path}/m.sock", "NSM_TLS_NAME": "manager.example",
        "FORWARDER_REGISTRAR_SOCKET": f"{tmp_path}/m.sock",
    }  # fmt: skip
    forwarder = make_forwarder(env=env).start()
    with channel(forwarder.target, ca, ca) as face:
        heard = iter(forwarder_pb2_grpc.MechanismsMonitorStub(face).MonitorMechanisms(Empty()))
        next(heard)
        # a key that is not the certificate's is what there is between the two
        ca.issue_cert("localhost").private_key_pem.write_to_path(tmp_path / "papers" / "key.pem")
        assert eventually(lambda: forwarder.log.count("KEY_VALUES_MISMATCH") == 2), forwarder.log
        papers(ca, tmp_path / "papers")
        with SecureManager(f"unix:{tmp_path}/m.sock", ca) as manager:
            assert eventually(lambda: manager.endpoints and manager.registered), forwarder.log
        heard.cancel()
    assert forwarder.log.count("forwarding for the mesh") == 1, forwarder.log


@pytest.mark.parametrize("wrong", ["missing", "incomplete", "garbage", "another's"])
def test_papers_that_cannot_be(make_forwarder, tmp_path, ca, wrong):
    env = papers(ca, tmp_path / "papers")
    if wrong == "missing":
        (tmp_path / "papers" / "key.pem").unlink()
    elif wrong == "incomplete":
        del env["NSM_TLS_KEY"]
    elif wrong == "garbage":
        (tmp_path / "papers" / "key.pem").write_text("garbage")
    else:
        papers(ca, tmp_path / "others")
        (tmp_path / "others" / "key.pem").rename(tmp_path / "papers" / "key.pem")
    forwarder = make_forwarder(env=env)
    forwarder.launch()
    assert forwarder.wait() == 1
    assert "NSM_TLS_KEY" in forwarder.log

"""What is generated from .proto files is what they say, and is imported only by who needs it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ENGINE = Path(__file__).parents[2] / "engine"
PROTOS = [str(path.relative_to(ENGINE)) for path in sorted(ENGINE.rglob("*.proto"))]

pytestmark = pytest.mark.skipif(not ENGINE.is_dir(), reason="engine/ is not there, this is no source tree")


@pytest.mark.parametrize("proto", PROTOS)
def test_stubs_are_current(proto, tmp_path):
    """Compared as descriptors, since each version of the generator words its code differently."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed (pip install 'fastnl[test]')")
    from google.protobuf import descriptor_pb2
    from grpc_tools import protoc

    out = tmp_path / "set"
    known = Path(protoc.__file__).parent / "_proto"  # google/protobuf/*.proto
    assert protoc.main(["protoc", f"-I{ENGINE}", f"-I{known}", f"--descriptor_set_out={out}", str(ENGINE / proto)]) == 0
    [want] = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file

    module = proto.removesuffix(".proto").replace("/", ".")
    have = descriptor_pb2.FileDescriptorProto()
    importlib.import_module(f"{module}_pb2").DESCRIPTOR.CopyToProto(have)
    for file in (want, have):
        # derived from the name, and not in what is generated; a map is a message inside another
        for message in [inner for m in file.message_type for inner in (m, *m.nested_type)]:
            for field in message.field:
                field.ClearField("json_name")
    assert have == want, f"{proto} was changed: run scripts/generate-stubs.sh"

    class Channel:
        """Takes down the paths of methods."""

        def __init__(self):
            self.paths = set()

        def __getattr__(self, kind):
            return lambda path, **_: self.paths.add(path)

    services = importlib.import_module(f"{module}_pb2_grpc")
    for service in want.service:
        channel = Channel()
        getattr(services, f"{service.name}Stub")(channel)
        assert channel.paths == {f"/{want.package}.{service.name}/{m.name}" for m in service.method}, (
            f"{proto} was changed: run scripts/generate-stubs.sh"
        )
        pyi = (ENGINE / f"{proto.removesuffix('.proto')}_pb2.pyi").read_text()
        assert all(f"class {m.name}(" in pyi for m in want.message_type)


def test_there_are_stubs():
    assert PROTOS


def test_nobody_imports_grpc_unasked():
    program = """
import sys
import fastnl_engine.main, fastnl_engine.cli, fastnl_engine.client
import fastnl_engine.kv.base, fastnl_engine.kv.mirror, fastnl_engine.kv.embedded
assert not {"grpc", "google.protobuf"} & set(sys.modules), "imported"
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_grpc_leaves_forks_alone():
    """With its own handlers of fork() some children die before they execute anything; it asks when it is imported."""
    program = """
import os, sys

class Finder:
    def find_spec(self, name, *_):
        if name == "grpc":
            assert os.environ.get("GRPC_ENABLE_FORK_SUPPORT") == "0", "too late"

sys.meta_path.insert(0, Finder())
import fastnl_engine.kv.etcd
assert "grpc" in sys.modules
"""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("GRPC")}
    subprocess.run([sys.executable, "-c", program], check=True, env=environ)


def test_what_to_do_without_grpc():
    program = """
import sys
sys.modules["grpc"] = None
from fastnl_engine.kv import open_etcd
from fastnl_engine.kv.base import KVError
try:
    open_etcd(["http://127.0.0.1:2379"])
except KVError as e:
    assert "fastnl[etcd]" in str(e), e
else:
    raise AssertionError("no error")
"""
    subprocess.run([sys.executable, "-c", program], check=True)

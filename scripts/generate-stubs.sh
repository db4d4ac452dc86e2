#!/bin/sh
# Makes the Python modules beside every .proto file under engine/.
# Generated code refuses a protobuf or grpcio older than what made it, so this is the oldest pair that pyproject.toml
# allows, in an environment of its own that is thrown away; GRPCIO_TOOLS=... tries another one.
set -eu
cd "$(dirname "$0")/../engine"
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
"${PYTHON:-python3}" -m venv "$environment"
"$environment/bin/python" -m pip install -q --disable-pip-version-check \
    "grpcio-tools==${GRPCIO_TOOLS:-1.76.0}" "protobuf==${PROTOBUF:-6.31.1}"
# paths from engine/ on make the modules import each other by their full names
find . -name '*.proto' | sed 's|^\./||' | sort | while read -r proto; do
    "$environment/bin/python" -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. "$proto"
    echo "$proto"
done

"""Generated from the .proto files here by scripts/generate-stubs.sh; importing any of it imports protobuf and grpc."""

"""Generated from the .proto files beside it; scripts/generate-stubs.sh does that."""

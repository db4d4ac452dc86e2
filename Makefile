# Every target does its own set-up; see README.md for the two that matter: demo and test.
VENV := .venv/bin
# tools call each other by name, as cython-lint does pycodestyle
export PATH := $(CURDIR)/$(VENV):$(PATH)
.DEFAULT_GOAL := help
.PHONY: help demo nsm-demo fleet-demo chaos fleet-chaos test test-asan test-oldest test-image fuzz bench bench-report flood soak memory lint clean setup stubs

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup:
	@scripts/setup.sh test lint

demo: setup  ## wires real namespaces together and pings across them
	@$(VENV)/python docs/examples/demo.py

nsm-demo: setup  ## icmp-responder: a mesh of two hosts with forwarders, over its real API, and pings
	@$(VENV)/python docs/examples/nsm_demo.py

fleet-demo: setup  ## two hosts and one etcd: connections within and between them, and pings
	@$(VENV)/python docs/examples/fleet_demo.py

test: setup lint  ## the whole suite, against the real kernel (root); ARGS are pytest's
	scripts/test.sh $(ARGS)

test-asan: setup  ## reader, builders and a part of the kernel tests under AddressSanitizer
	tests/asan.sh

test-oldest:  ## unit tests, and those of the engine and the extras, with the oldest dependencies allowed
	tests/oldest.sh $(ARGS)

test-image:  ## builds the container image's file system with debootstrap and wires namespaces from it (root)
	deploy/container/test-rootfs.sh $(ARGS)

chaos: setup  ## kills the engine ROUNDS times (200) under load and checks everything after each
	FASTNL_CHAOS_ROUNDS=$(or $(ROUNDS),200) $(VENV)/python -m pytest tests/chaos -s $(ARGS)

fleet-chaos: setup  ## kills engines and etcd of a fleet of three hosts under load, ROUNDS times (100)
	FASTNL_CHAOS_ROUNDS=$(or $(ROUNDS),100) $(VENV)/python -m pytest tests/fleet/test_chaos.py -s $(ARGS)

fuzz: setup  ## tries what nobody has tried on everything that reads, SECONDS (60) for each target
	FASTNL_FUZZ_SECONDS=$(or $(SECONDS),60) $(VENV)/python -m pytest tests/fuzz --timeout=0 $(ARGS)
	FASTNL_FUZZ_SECONDS=$(or $(SECONDS),60) $(VENV)/python -m pytest tests/unit tests/kv -m hypothesis --timeout=0 $(ARGS)

stubs:  ## the Python modules beside each .proto file, after a change of one
	scripts/generate-stubs.sh

bench: setup  ## what a connection costs fastnl and everyone else; ARGS="--form full --only peers"
	$(VENV)/python -m bench.run $(ARGS)

bench-report: setup  ## a page with figures about the last `make bench`: bench/out/report.html
	$(VENV)/python -m bench.report $(ARGS)

flood: setup  ## 64 clients ask for many times what the engine can do; ARGS="--seconds 60"
	$(VENV)/python -m bench.flood $(ARGS)

soak: setup  ## full speed for ten minutes, and what grows; ARGS="--seconds 3600"
	$(VENV)/python -m bench.soak $(ARGS)

memory: setup  ## what 100,000 connections cost the engine
	$(VENV)/python -m bench.memory $(ARGS)

lint: setup  ## ruff, mypy, cython-lint
	$(VENV)/ruff check src engine tests bench docs
	$(VENV)/ruff format --check src engine tests bench docs
	$(VENV)/mypy
	$(VENV)/cython-lint src/fastnl

clean:  ## everything that a build made
	rm -rf .venv build src/*.egg-info *.egg-info src/fastnl/*.c src/fastnl/*.so bench/out bench/floor/floor bench/peers/netlink/netlink

# Every target does its own set-up; see README.md for the two that matter: demo and test.
VENV := .venv/bin
# tools call each other by name, as cython-lint does pycodestyle
export PATH := $(CURDIR)/$(VENV):$(PATH)
.DEFAULT_GOAL := help
.PHONY: help demo test test-asan bench lint clean setup

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup:
	@scripts/setup.sh test lint

demo: setup  ## wires real namespaces together and pings across them
	@$(VENV)/python docs/examples/demo.py

test: setup lint  ## the whole suite, against the real kernel (root)
	$(VENV)/python -m pytest $(ARGS)

test-asan: setup  ## reader, builders and a part of the kernel tests under AddressSanitizer
	tests/asan.sh

bench: setup  ## the figures of docs/performance.md
	$(VENV)/python -m bench.summary $(ARGS)

lint: setup  ## ruff, mypy, cython-lint
	$(VENV)/ruff check src engine tests bench docs
	$(VENV)/ruff format --check src engine tests bench docs
	$(VENV)/mypy
	$(VENV)/cython-lint src/fastnl

clean:  ## everything that a build made
	rm -rf .venv build src/*.egg-info *.egg-info src/fastnl/_nl.c src/fastnl/*.so bench/out bench/floor/floor

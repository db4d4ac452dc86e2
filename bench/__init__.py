"""Measurements: `make bench` runs bench/summary.py; the other modules are its parts, and studies of their own."""

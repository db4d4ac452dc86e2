"""Measurements.

    run          `make bench`: all of experiments.py, with the floor and the peers beside fastnl
    report       `make bench-report`: a page about what a run found; figures.py draws its pictures
    compare      whether a change made something slower
    studies      what the library's constants are good for
    flood, soak, memory, start, idle, waiting, mending, ligato, nsm, fleet, afpacket
                 the engine as a service, a command for each
    test_bench_* pytest-benchmark, for work on one thing

The parts that need no source tree are in fastnl_engine.bench: `fastnl bench` runs a small form of it.
"""

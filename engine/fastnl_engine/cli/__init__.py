"""`fastnl`: the engine from the command line.

Exit codes: 0 done, 1 some item failed, 2 wrong usage or no engine, 130 interrupted.  What is slow to import
is imported where it is used, so that `fastnl --help` is there at once.
"""

from fastnl_engine.cli.app import main

__all__ = ["main"]

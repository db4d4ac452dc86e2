"""How the fuzz tests spoil things, and for how long: FASTNL_FUZZ_SECONDS, which `make fuzz` sets.

Without it, as in `make test`, each run begins with the same tries; with it, no two do.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
LOOKING = "FASTNL_FUZZ_SECONDS" in os.environ
SECONDS = float(os.environ.get("FASTNL_FUZZ_SECONDS", "2"))


def seeds(kind: str) -> dict[str, bytes]:
    """Every file of the corpus of one kind, by name."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / kind).iterdir())}


def rounds() -> Iterator[random.Random]:
    """A source of chance for each example until the time is over; the first one that fails is its `seed`."""
    until = time.monotonic() + SECONDS
    start = int(os.environ.get("FASTNL_FUZZ_SEED", time.time_ns() if LOOKING else 0))
    n = 0
    while n == 0 or time.monotonic() < until:
        # what pytest shows of a failure says how to have it again
        seed = start + n
        yield random.Random(seed)
        n += 1


def spoil(chance: random.Random, data: bytes) -> bytes:
    """A few bytes changed, cut out, doubled, zeroed or put in, or the end cut off."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(out) + 1)
        size = chance.choice((1, 1, 2, 4, 16, 100, 1000))
        match chance.randrange(6):
            case 0 if at < len(out):
                out[at] ^= 1 << chance.randrange(8)
            case 1:
                out[at : at + size] = chance.randbytes(min(size, len(out) - at))
            case 2:
                out[at : at + size] = bytes(min(size, len(out) - at))
            case 3:
                del out[at : at + size]
            case 4:
                out[at:at] = out[at : at + size]
            case _:
                del out[at:]
    return bytes(out)

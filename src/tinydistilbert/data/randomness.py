"""Random numbers as a pure function of what they are for."""

import numpy as np


def generator(purpose: str, *key: int) -> np.random.Generator:
    """A generator that depends on `purpose` and `key` only; what differs in either draws independent numbers.

    Counter-based (Philox, Salmon et al. 2011), seeded through NumPy's `SeedSequence`, so that seeds 0 and 1 have
    nothing in common.
    """
    entropy = [int.from_bytes(purpose.encode(), "big"), *key]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))

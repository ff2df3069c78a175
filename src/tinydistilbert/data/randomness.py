"""Random numbers as a pure function of their purpose and a key."""

import numpy as np


def generator(purpose: str, *key: int) -> np.random.Generator:
    """Return a generator that depends on `purpose` and `key` only; another purpose or key gives independent numbers.

    It is counter-based (Philox, Salmon et al. 2011) and seeded through NumPy's `SeedSequence`, so that the streams of
    seeds 0 and 1 are unrelated.
    """
    entropy = [int.from_bytes(purpose.encode(), "big"), *key]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))

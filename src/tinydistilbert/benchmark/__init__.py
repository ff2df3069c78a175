"""Size, latency and memory: the setting of DistilBERT's Table 3 (Sanh et al. 2019), with its open details stated.

A full pass over STS-B validation at batch 1 on one pinned core, every model by every back end, in three protocols:
padded to 128 as TinyDistilBERT timed, at true length, and including tokenization.
"""

from tinydistilbert.benchmark.pairs import PADDED_LENGTH, PAIRS
from tinydistilbert.benchmark.rows import ARCHITECTURES
from tinydistilbert.benchmark.stage import benchmark
from tinydistilbert.benchmark.timing import WARM_UP

__all__ = ["ARCHITECTURES", "PADDED_LENGTH", "PAIRS", "WARM_UP", "benchmark"]

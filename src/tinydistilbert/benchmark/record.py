"""The measurements of a benchmark so far, as the lines of its two files."""

from dataclasses import dataclass, field
from typing import Any

from tinydistilbert.benchmark.pairs import Pairs
from tinydistilbert.benchmark.rows import Subject
from tinydistilbert.benchmark.timing import Rounds, summarize
from tinydistilbert.results import Measurement


@dataclass
class Record:
    """Measurements, and the individual times behind them."""

    pairs: Pairs
    measurements: list[Measurement] = field(default_factory=list)
    raw: list[dict[str, Any]] = field(default_factory=list)
    """Lines of `latencies.jsonl`."""

    def add(
        self, subject: Subject, task: str, metric: str, value: float, *, higher_is_better: bool = False, **details: Any
    ) -> None:
        """Add a number that is not measured on pairs."""
        self.measurements.append(
            Measurement(subject.name, task, metric, value, higher_is_better=higher_is_better, details=details)
        )

    def add_latency(
        self, subject: Subject, rounds: Rounds, *, backend: str, device: str, protocol: str, **details: Any
    ) -> None:
        """Add the times of a row in a protocol."""
        setting = {"backend": backend, "device": device, "protocol": protocol}
        conditions = {
            "weights": subject.weights, "inputs": self.pairs.source, "synthetic": self.pairs.synthetic,
            "batch_size": 1, "threads": 1,
        }  # fmt: skip
        row = summarize(rounds, self.pairs.total)
        self.measurements.append(
            Measurement(
                subject.name, "latency", "seconds_per_pass", row.pop("seconds_per_pass"), split="validation",
                higher_is_better=False, examples=sum(map(len, rounds)), examples_total=self.pairs.total,
                seconds=sum(map(sum, rounds)), data_fingerprint=self.pairs.fingerprint,
                details={**setting, **conditions, **details, **row},
            )
        )  # fmt: skip
        milliseconds = [[round(1000 * s, 4) for s in part] for part in rounds]
        self.raw.append({"model": subject.name, **setting, "milliseconds": milliseconds})

"""When the teacher's cache pays off, and its effect on the student: the same steps with a live teacher and with caches.

The seconds of an epoch are those of its steps; making the cache is counted separately. A cache has paid off after the
number of epochs whose savings equal its cost. The KL is measured on validation blocks, always with the live teacher.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import common
import torch
from throughput_ways import PAIRS, models

from tinydistilbert.benchmark.turns import break_even, table
from tinydistilbert.data.corpus import load_blocks, prepare
from tinydistilbert.distillation.objective import PretrainingLoss
from tinydistilbert.distillation.pretraining import PretrainingSetup, pretrain, validation_losses
from tinydistilbert.distillation.teacher_cache import make_cache
from tinydistilbert.recipe import schema
from tinydistilbert.storage import cache

WAYS = {
    "live": schema.TeacherCache(kind="none"),
    "hidden, 1 view": schema.TeacherCache(kind="hidden", views=1),
    "hidden, 4 views": schema.TeacherCache(kind="hidden", views=4),
    "live, no cosine": schema.TeacherCache(kind="none"),
    "top-k, 1 view": schema.TeacherCache(kind="top-k", views=1),
    "top-k, 4 views": schema.TeacherCache(kind="top-k", views=4),
}
"""`top-k` keeps no hidden states, so it has no cosine term: beside it stands a live teacher without that term."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Run:
    """One student, distilled for some epochs."""

    way: str
    seed: int
    epochs: float
    steps: int
    build_seconds: float
    epoch_seconds: float
    cache_mib: float
    validation: dict[str, float]

    @property
    def seconds(self) -> float:
        """Of all epochs, with the cache's making."""
        return self.build_seconds + self.epochs * self.epoch_seconds


def live_way(way: str) -> str:
    """The way with a live teacher and the same objective."""
    return "live, no cosine" if WAYS[way].kind == "top-k" or way == "live, no cosine" else "live"


def run(way: str, seed: int, chosen: argparse.Namespace, blocks_folder: Path) -> Run:
    """Distil a student, with the cache made anew in a temporary folder."""
    blocks = load_blocks(blocks_folder)
    student, teacher = models(chosen.pair, chosen.teacher)
    optimization = schema.Optimization(batch_size=chosen.batch_size)
    objective = schema.Objective(kl_positions=chosen.kl_positions)
    if live_way(way) != "live":
        objective = replace(objective, cosine=0.0)
    settings = schema.Recipe(
        seed=seed, checkpoint_minutes=1e6, objective=objective,
        distill=schema.Distill(optimization=optimization, cache=WAYS[way]),
        validation=schema.Validation(times=1, blocks=chosen.validation_blocks),
    )  # fmt: skip
    per_epoch = len(blocks.train) / optimization.batch_size
    steps = math.ceil(chosen.epochs * per_epoch)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build_seconds, size = 0.0, 0
        setup = PretrainingSetup.of(settings, blocks, CPU)
        live = setup.batches(objective, optimization, steps=steps)
        if WAYS[way].kind == "none":
            batches = common.StepTimes(live)
        else:
            begin = time.perf_counter()
            made = make_cache(WAYS[way], live, teacher, folder, setup.compute, print)
            build_seconds = time.perf_counter() - begin
            size = sum(path.stat().st_size for path in folder.rglob("*.npy"))
            batches = common.StepTimes(made)
        loss = PretrainingLoss(settings.objective, teacher, steps=steps)
        pretrain(student, loss, batches, setup, optimization, folder=folder, label=way)
    student.eval()
    tokens, seconds = batches.measured()
    epoch_seconds = seconds / tokens * blocks.train.size
    validation = validation_losses(student, teacher, setup, precision="fp32")
    return Run(way, seed, steps / per_epoch, steps, build_seconds, epoch_seconds, size / common.MIB, validation)


def shown(runs: Sequence[Run]) -> str:
    """The table: a line for each way, means over the seeds."""
    lines = []
    for way in dict.fromkeys(run.way for run in runs):
        same_way = [run for run in runs if run.way == way]
        build, epoch = (_mean([getattr(run, name) for run in same_way]) for name in ("build_seconds", "epoch_seconds"))
        live = _mean([run.epoch_seconds for run in runs if run.way == live_way(way)])
        pays = break_even(build, live, epoch) if build else None
        kls = [run.validation["kl"] for run in same_way]
        masked_lm = _mean([run.validation["mlm"] for run in same_way])
        lines.append((
            way, f"{_mean(kls):.4f}", f"{min(kls):.4f} to {max(kls):.4f}", f"{masked_lm:.4f}",
            f"{build:,.1f}", f"{epoch:,.1f}", f"{_mean([run.seconds for run in same_way]):,.1f}",
            f"{same_way[0].cache_mib:,.1f}", f"{pays:.1f}" if pays is not None else "",
        ))  # fmt: skip
    head = (
        "teacher", "validation KL", "over seeds", "masked LM", "making it, s", "an epoch, s", "all, s", "cache MiB",
        "pays after epochs",
    )  # fmt: skip
    return table(head, lines)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Validation KL and seconds with a live teacher and with caches.")
    parser.add_argument("--data", type=Path, default=common.DEFAULT_DATA, help="folder with wikitext2/")
    parser.add_argument("--teacher", type=Path, help="masked-LM teacher; by default the offline one")
    parser.add_argument(
        "--pair", choices=PAIRS, default="offline", help="bert-base has random weights: read its seconds"
    )
    parser.add_argument("--quick", action="store_true", help="three articles, four epochs, one seed")
    parser.add_argument("--documents", type=int, default=12, help="articles to train on")
    parser.add_argument("--epochs", type=float, default=8.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--kl-positions", choices=("all", "masked", "sampled"), default=schema.Objective().kl_positions)
    parser.add_argument("--batch-size", type=int, default=schema.Optimization().batch_size)
    parser.add_argument("--validation-blocks", type=int, default=64)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=common.RESULTS / "cache_payoff.jsonl")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.documents, chosen.epochs, chosen.seeds, chosen.validation_blocks = 3, 4.0, chosen.seeds[:1], 32
    return chosen


def main() -> None:
    """Measure, print, append."""
    chosen = parse()
    torch.set_num_threads(chosen.threads)
    corpus, data = common.open_corpus(chosen.data, max_train_documents=chosen.documents)
    folder = prepare(corpus, common.open_teacher(chosen.teacher).tokenizer, cache.folder(), data)
    blocks = len(load_blocks(folder).train)
    runs = [
        common.in_fresh_process(chosen.threads, run, way, seed, chosen, folder)
        for seed in chosen.seeds
        for way in chosen.ways
    ]
    print(f"{blocks:,} blocks, {runs[0].epochs:.1f} epochs, {runs[0].steps:,} steps each")
    print(shown(runs))
    facts = {
        "benchmark": "cache_payoff", "pair": chosen.pair, "threads": chosen.threads, "blocks": blocks,
        "kl_positions": chosen.kl_positions, "batch_size": chosen.batch_size,
    }  # fmt: skip
    common.append(chosen.output, ({**facts, **asdict(training), "seconds": training.seconds} for training in runs))


if __name__ == "__main__":
    main()

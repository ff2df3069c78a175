"""Losses of a narrower student at its start and after some steps, by what is kept of the teacher.

The figures of docs/decisions/0010. Students of the teacher's layers 0, 2 and 5 are cut in each way and trained for the
same number of steps. Masked-LM loss and KL to the teacher are in nats, at masked positions of blocks from all of the
validation text.
"""

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import common
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from tinydistilbert.benchmark.turns import table
from tinydistilbert.data.corpus import TokenBlocks, load_blocks, prepare
from tinydistilbert.distillation.objective import PretrainingLoss
from tinydistilbert.distillation.pretraining import PretrainingSetup, pretrain, validation_losses
from tinydistilbert.models import narrow
from tinydistilbert.models.narrow import Widths
from tinydistilbert.models.student import cut_student
from tinydistilbert.recipe import schema
from tinydistilbert.storage import cache

Weights = dict[str, Tensor]
LAYERS, BLOCK_SIZE = (0, 2, 5), 64
OBJECTIVE = schema.Objective(kl=5.0, mlm=2.0, cosine=0.0, temperature=2.0, kl_positions="masked")
OPTIMIZATION = schema.Optimization(learning_rate=5e-4, batch_size=8, attention_dropout=0.0)
CPU = torch.device("cpu")


def looking(layer: Weights, wide: Widths) -> Float[Tensor, " heads"]:
    """How sharply each head can look: the Frobenius norm of QᵀK. `layer`: its matrices in the names of `narrow`."""
    query, key = (layer[name].view(wide.heads, wide.head_size, -1) for name in ("query", "key"))
    return torch.linalg.matrix_norm(query.mT @ key)


def writing(layer: Weights, wide: Widths) -> Float[Tensor, " heads"]:
    """How much each head can write: the Frobenius norm of OV."""
    value = layer["value"].view(wide.heads, wide.head_size, -1)
    output = layer["attention output"].view(-1, wide.heads, wide.head_size).movedim(1, 0)
    return torch.linalg.matrix_norm(output @ value)


def feeding(layer: Weights) -> Float[Tensor, " rows"]:
    """How much each feed-forward row can write: the norm of its inputs times that of its outputs."""
    return torch.linalg.vector_norm(layer["rows"], dim=1) * torch.linalg.vector_norm(layer["output"], dim=0)


def word_norms(weights: Weights) -> Float[Tensor, " hidden"]:
    """Norms of the columns of the word embeddings."""
    embeddings = next(value for key, value in weights.items() if narrow._part(key)[1] == "word embeddings")
    return torch.linalg.vector_norm(embeddings, dim=0)


@dataclass(frozen=True)
class Way:
    """A way to make the student: the recipe's settings, and what is chosen by another score than the library's."""

    settings: dict[str, Any] = field(default_factory=dict)
    heads: Callable[[Weights, Widths, torch.Generator], Tensor] | None = None
    rows: Callable[[Weights, Widths, torch.Generator], Tensor] | None = None
    dimensions: Callable[[Weights, torch.Generator], Tensor] | None = None


WAYS = {
    "slice": Way(),
    "svd": Way({"width_reduction": "svd"}),
    "random weights": Way({"initialization": "random"}),
    "full width": Way({"hidden_size": 0}),
    "heads: strongest OV": Way(heads=lambda layer, wide, _: writing(layer, wide)),
    "heads: weakest OV": Way(heads=lambda layer, wide, _: -writing(layer, wide)),
    "heads: the first": Way(heads=lambda _, wide, __: -torch.arange(float(wide.heads))),
    "heads: random": Way(heads=lambda _, wide, random: torch.rand(wide.heads, generator=random)),
    "dimensions: embedding norm": Way(dimensions=lambda weights, _: word_norms(weights)),
    "dimensions: random": Way(
        dimensions=lambda weights, random: torch.rand(len(word_norms(weights)), generator=random)
    ),
    "rows: weakest": Way(rows=lambda layer, _, __: -feeding(layer)),
}
"""`slice` is the default: heads by `looking`, dimensions by the LayerNorms' gains, rows by `feeding`; those below
`full width` change one of the three."""
ALL_SEEDS = ("slice", "svd")
"""The ways that are tried with every seed; the others have the first."""


@contextmanager
def choosing(way: Way, seed: int) -> Iterator[None]:
    """Inside the `with`, the library cuts a BERT-like teacher by the scores of `way`; `seed` is that of random ones."""
    random, ordinary = torch.Generator().manual_seed(seed), narrow._kept

    def kept(layer: Weights, wide: Widths, thin: Widths) -> Weights:
        indices = ordinary(layer, wide, thin)
        if way.heads:
            heads = narrow._strongest(way.heads(layer, wide, random), thin.heads)
            indices["heads"] = (heads[:, None] * wide.head_size + torch.arange(wide.head_size)).flatten()
        if way.rows:
            indices["rows"] = narrow._strongest(way.rows(layer, wide, random), thin.rows)
        return indices

    def basis(weights: Weights, count: int) -> Float[Tensor, "wide count"]:
        assert way.dimensions
        scores = way.dimensions(weights, random)
        return torch.eye(len(scores))[:, narrow._strongest(scores, count)]

    bases = {"slice": basis} if way.dimensions else {}
    with mock.patch.object(narrow, "_kept", kept), mock.patch.dict(narrow._BASES, bases):
        yield


@dataclass(frozen=True)
class Run:
    """One student; losses `mlm` and `kl` in nats."""

    way: str
    width: int
    seed: int
    steps: int
    cut: dict[str, float]
    trained: dict[str, float]


def run(way: str, width: int, seed: int, steps: int, teacher: PreTrainedModel, blocks: TokenBlocks) -> Run:
    """Cut a student and train it."""
    student = schema.Student(**{"layers": LAYERS, "hidden_size": width, **WAYS[way].settings})
    with choosing(WAYS[way], seed):
        model = cut_student(teacher, student, seed=seed).eval()
    settings = schema.Recipe(
        seed=seed, objective=OBJECTIVE, checkpoint_minutes=1e6, validation=schema.Validation(times=1, blocks=0)
    )
    setup = PretrainingSetup.of(settings, blocks, CPU)
    cut = validation_losses(model, teacher, setup, precision="fp32")
    batches = setup.batches(OBJECTIVE, OPTIMIZATION, steps=steps)
    loss = PretrainingLoss(OBJECTIVE, teacher, steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        pretrain(
            model, loss, batches, setup, OPTIMIZATION, folder=Path(folder),
            label=f"{way}, {model.config.hidden_size}, seed {seed}",
        )  # fmt: skip
        trained = json.loads((Path(folder) / "log.jsonl").read_text().splitlines()[-1])["validation"]
    both = [{name: losses[name] for name in ("mlm", "kl")} for losses in (cut, trained)]
    return Run(way, model.config.hidden_size, seed, steps, *both)


def correlations(teacher: PreTrainedModel) -> list[float]:
    """Over the heads of each layer, the correlation of `looking` and `writing`."""
    layers: dict[str, Weights] = {}
    for key, value in teacher.state_dict().items():
        layer, part, kind = narrow._part(key)
        if layer and kind == "weight":
            layers.setdefault(layer, {})[part] = value
    config = teacher.config
    wide = Widths(config.hidden_size, config.num_attention_heads, config.intermediate_size)
    both = [torch.stack([looking(layer, wide), writing(layer, wide)]) for layer in layers.values()]
    return [round(float(torch.corrcoef(norms)[0, 1]), 2) for norms in both]


def shown(runs: Sequence[Run]) -> str:
    """The table: a line for each way and width; the mean over its seeds, and its first seed, which all ways have."""
    lines = []
    for way, width in dict.fromkeys((run.way, run.width) for run in runs):
        same_runs = [run for run in runs if (run.way, run.width) == (way, width)]
        kls = [run.trained["kl"] for run in same_runs]
        means = [[sum(run[name] for run in part) / len(same_runs) for name in ("mlm", "kl")]
                 for part in ([run.cut for run in same_runs], [run.trained for run in same_runs])]  # fmt: skip
        cells = [" / ".join(f"{value:.2f}" for value in part) for part in means]
        lines.append(
            (way, str(width), *cells, str(len(same_runs)), f"{min(kls):.3f} to {max(kls):.3f}", f"{kls[0]:.3f}")
        )
    steps = runs[0].steps
    head = ("what is kept", "width", "just cut: masked LM / KL", f"after {steps} steps", "seeds", "KL over seeds",
            "KL, first seed")  # fmt: skip
    return table(head, lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=common.DEFAULT_DATA, help="folder with wikitext2/")
    parser.add_argument("--teacher", type=Path, help="BERT-like masked-LM teacher; by default the offline one")
    parser.add_argument("--quick", action="store_true", help="20 steps, the first seed and width")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--widths", type=int, nargs="+", default=[192, 256])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help=f"of {' and '.join(ALL_SEEDS)}")
    parser.add_argument("--documents", type=int, default=80, help="articles to train on")
    parser.add_argument("--validation-blocks", type=int, default=128, help="spread over all validation text")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=common.RESULTS / "narrowing.jsonl")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.steps, chosen.seeds, chosen.widths = 20, chosen.seeds[:1], chosen.widths[:1]
    return chosen


def main() -> None:
    """Measure, print, append."""
    chosen = parse()
    torch.set_num_threads(chosen.threads)
    corpus, data = common.open_corpus(chosen.data, block_size=BLOCK_SIZE, max_train_documents=chosen.documents)
    opened = common.open_teacher(chosen.teacher)
    teacher = opened.model.eval()
    blocks = load_blocks(prepare(corpus, opened.tokenizer, cache.folder(), data))
    stride = max(len(blocks.validation) // chosen.validation_blocks, 1)
    blocks = replace(blocks, validation=blocks.validation[::stride][: chosen.validation_blocks])
    setup = PretrainingSetup.of(schema.Recipe(validation=schema.Validation(blocks=0)), blocks, CPU)
    shared = {"benchmark": "narrowing", "documents": chosen.documents, "validation_blocks": len(blocks.validation)}
    loss, related = validation_losses(teacher, None, setup, precision="fp32")["mlm"], correlations(teacher)
    print(f"masked-LM loss of the teacher {loss:.2f}; correlation of the norms of QᵀK and OV over the heads of each of")
    print(f"its layers: {related}")
    common.append(chosen.output, [{**shared, "teacher": loss, "correlation of QK and OV": related}])
    runs: list[Run] = []
    for way in chosen.ways:
        widths = [0] if "hidden_size" in WAYS[way].settings else chosen.widths
        seeds = chosen.seeds if way in ALL_SEEDS else chosen.seeds[:1]
        for width, seed in itertools.product(widths, seeds):
            runs.append(run(way, width, seed, chosen.steps, teacher, blocks))
            common.append(chosen.output, [{**shared, **asdict(runs[-1])}])
    print(shown(runs))


if __name__ == "__main__":
    main()

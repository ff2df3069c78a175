"""Tables of training speed, from the measurements of benchmarks/distill_throughput.py and finetune_throughput.py."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
DISTILL, FINETUNE = MEASURED / "distill_throughput.jsonl", MEASURED / "finetune_throughput.jsonl"
WAYS = {
    "notebook": ("TinyDistilBERT’s notebook", "everywhere, padding too"),
    "authors_all": ("DistilBERT’s authors", "every token"),
    "ours_all": ("ours", "every token"),
    "authors_masked": ("DistilBERT’s authors", "masked tokens"),
    "ours_masked": ("ours", "masked tokens"),
    "ours_cached": ("ours, teacher cached", "masked tokens"),
}
"""Ways of the benchmark: who, and where the KL is taken."""
RATIOS = {
    "notebook": "the notebook’s way",
    "authors_all": "the authors’, every token",
    "authors_masked": "the authors’, masked tokens",
    "cached_masked": "the authors’, masked tokens, with our teacher cached",
}
PAIRS = {"bert-base": "BERT-base → 6 layers", "offline": "offline teacher → 3 layers"}
FINETUNE_WAYS = {
    "padded": "transformers’ Trainer, padded to the maximum",
    "dynamic": "transformers’ Trainer, padded to the longest of a random batch",
    "grouped": "transformers’ Trainer, batches by length",
    "ours": "ours",
    "ours_no_attention_dropout": "ours, no attention dropout",
}  # fmt: skip
FINETUNE_MODELS = {"offline-student": "3 layers × 384", "distilbert": "DistilBERT"}
FINETUNE_TASKS = {"sst2": "SST-2", "cola": "CoLA", "squad": "SQuAD"}
PRECISIONS = {"fp32": "fp32", "fp32-onednn": "fp32 by oneDNN", "bf16": "bf16"}
UNITS = ("amx_bf16", "avx512_bf16")
"""Instructions for products in bf16, the fastest first; a machine is named by its processor and the first it has."""
Line = dict[str, Any]
Key = tuple[str, ...]


def last_lines(path: Path, *keys: str) -> dict[str, dict[Key, Line]]:
    """By machine, the last line of each combination of `keys`, precision and way (`ratios`: how much faster ours is).

    A ratio that a call could not tell, for one of its ways was left out, is that of the call before. Lines of
    `--quick` do not count, nor do those from before there was a choice of precision.
    """
    machines: dict[str, dict[Key, Line]] = {}
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        if not line["quick"] and "precision" in line:
            last = machines.setdefault(_machine(line), {})
            key = (*(line[name] for name in keys), line["precision"], line.get("way", "ratios"))
            known = {name: value for name, value in line.items() if value is not None}
            last[key] = {**last.get(key, {}), **known} if key[-1] == "ratios" else line
    return machines


def distillation_lines() -> dict[Key, Line]:
    """By pair, precision and way: what was measured last of a step, on the machine that was measured first."""
    return next(iter(last_lines(DISTILL, "pair").values()))


def distillation_section() -> str:
    """Tokens a second of a distillation step, a table for each machine and precision."""
    return "\n".join(
        _distillation(last, precision)
        for last in last_lines(DISTILL, "pair").values()
        for precision in _precisions(last)
    )


def _precisions(last: Mapping[Key, Line]) -> list[str]:
    return [name for name in PRECISIONS if any(key[-2] == name for key in last)]


def _distillation(last: Mapping[Key, Line], precision: str) -> str:
    head = "".join(f" {title}, tokens/s | peak MiB |" for title in PAIRS.values())
    facts = {pair: last[pair, precision, "ratios"] for pair in PAIRS}
    shown = [
        f"**{_machine(facts['offline'])}, in {PRECISIONS[precision]}.**",
        "",
        f"| way | KL |{head}",
        "| :-- | :-- |" + " --: | --: |" * len(PAIRS),
    ]
    for way, (who, where) in WAYS.items():
        cells = [last[pair, precision, way] for pair in PAIRS]
        shown.append(
            f"| {who} | {where} |"
            + "".join(f" {cell['tokens_per_second']:,.0f} | {cell['peak_mib']:,.0f} |" for cell in cells)
        )
    for name, title in RATIOS.items():
        shown.append(f"| **ours against** {title} | |" + "".join(f" {facts[pair][name]:.2f} × | |" for pair in PAIRS))
    if precision != "fp32":
        shown += [
            f"| **{title} against** itself in fp32 | |"
            + "".join(f" {facts[pair][f'{way}_over_fp32']:.2f} × | |" for pair in PAIRS)
            for way, title in (("ours_all", "ours, every token,"), ("ours_masked", "ours, masked tokens,"))
        ]
    shares = ", ".join(
        f"{100 * facts[pair]['peak_share']:.0f} % of {facts[pair]['matrix_rate'] / 1e9:,.0f} GFLOP/s ({title})"
        for pair, title in PAIRS.items()
    )
    rounds = sorted({last[pair, precision, way]["rounds"] for pair in PAIRS for way in WAYS})
    shown += [
        "",
        f"Share of the machine’s matrix-multiply rate that useful arithmetic reaches, KL at masked tokens: {shares}. "
        f"{_products(facts['bert-base'])}; medians of {' or '.join(map(str, rounds))} rounds in turns; dropout "
        "0.1 in all.",
    ]
    return "\n".join(shown) + "\n"


def _machine(line: Line) -> str:
    machine = line["environment"]
    units = next((f" ({name})" for name in UNITS if name in machine["instruction_sets"]), "")
    return f"{machine['cpu']}{units}"


def _products(facts: Line) -> str:
    return (
        f"{facts['threads']} threads, matrix products by {facts.get('library', 'MKL')}, torch "
        f"{facts['environment']['torch']}"
    )


def finetuning_section() -> str:
    """Examples a second of a fine-tuning beside transformers' Trainer, a table for each machine and precision."""
    return "\n".join(
        _finetuning(last, precision)
        for last in last_lines(FINETUNE, "model", "task").values()
        for precision in _precisions(last)
    )


def _finetuning(last: Mapping[Key, Line], precision: str) -> str:
    every = [(model, task) for model in FINETUNE_MODELS for task in FINETUNE_TASKS]
    columns = [column for column in every if (*column, precision, "ours") in last]
    head = [f"{FINETUNE_MODELS[model]}, {FINETUNE_TASKS[task]}" for model, task in columns]
    facts = [last[*column, precision, "ratios"] for column in columns]
    shown = [
        f"**{_machine(facts[0])}, in {PRECISIONS[precision]}.**",
        "",
        "| way | " + " | ".join(head) + " |",
        "| :-- |" + " --: |" * len(head),
    ]

    def row(title: str, cells: Sequence[str]) -> None:
        shown.append(f"| {title} | " + " | ".join(cells) + " |")

    measured = [way for way in FINETUNE_WAYS if all((*column, precision, way) in last for column in columns)]
    for way in measured:
        of_way = [f"{last[*column, precision, way]['examples_per_second']:.3g}" for column in columns]
        row(FINETUNE_WAYS[way], of_way)
    for way in (way for way in ("padded", "dynamic", "grouped") if way in measured):
        row(f"**ours against** {way}", [f"{one[way]:.2f} ×" for one in facts])
    if precision != "fp32":
        row("**ours against** itself in fp32", [f"{one['ours_over_fp32']:.2f} ×" for one in facts])
    but = " but the row that says so" if "ours_no_attention_dropout" in measured else ""
    rounds = last[*columns[-1], precision, "ours"]["rounds"]
    shown += [
        "",
        f"Examples a second while training, batch 32 (SQuAD: 8 windows). {_products(facts[-1])}, transformers "
        f"{facts[-1]['environment']['transformers']}; medians of {rounds} round{'s' * (rounds > 1)} in turns; the same "
        f"dropout in all{but}.",
    ]
    return "\n".join(shown) + "\n"

"""Write tables of committed results into the pages that show them: `python results/readme.py`; a test compares them."""

import ast
import functools
import importlib
import inspect
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import defaults_page
import levers_page
import picture
import replication_ladder
import replication_page
import scale_page
import training_speed

import tinydistilbert
from tinydistilbert import results
from tinydistilbert.notices import counted
from tinydistilbert.recipe import keys
from tinydistilbert.recipe.json_schema import json_schema
from tinydistilbert.report.compression import compressed_models, compression_table
from tinydistilbert.report.paper_tables import pretraining_table, score_table
from tinydistilbert.report.speed import speed_table
from tinydistilbert.report.table import Table, to_markdown
from tinydistilbert.results import Measurement
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import TASKS, glue, imdb

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
TABLES: tuple[tuple[str, Callable[[Sequence[Measurement]], Table]], ...] = (
    ("small-glue", functools.partial(score_table, glue.TABLE)), ("small-glue", pretraining_table),
    ("squad", functools.partial(score_table, imdb.TABLE)), ("table3", speed_table),
)  # fmt: skip
"""Which table of which committed run the page of results shows."""
PICTURE = ROOT / "docs" / "score-against-time.svg"
"""What the README shows first."""
DIFFERENCES = ROOT / "docs" / "explanation" / "row-against-row.svg"
"""The figure of the replication."""
SCHEMA = ROOT / "docs" / "recipe.schema.json"
"""What editors check recipes by."""
FAULTS = RESULTS / "faults.jsonl"
CPUS = RESULTS / "cpus.jsonl"
GPU = RESULTS / "gpu"
LOAD = ROOT / "benchmarks" / "results" / "serve_load.jsonl"
MUTANTS, SURVIVORS = RESULTS / "mutants.json", RESULTS / "survivors.toml"
FAULT_KEYS = ("goal", "tier", "trials", "failures", "seconds", "commit", "date")
COMPRESSED = ("table3", "squad-compressed")
"""Committed runs in which a model was compressed."""


def run_section() -> str:
    """Tables of the real runs."""
    return "\n".join(to_markdown(make(results.read(RESULTS / run / "results.jsonl"))) for run, make in TABLES)


def compression_section() -> str:
    """What each variant of the committed compressions gave."""
    models = [
        model for run in COMPRESSED for model in compressed_models(results.read(RESULTS / run / "results.jsonl"), TASKS)
    ]
    return "\n".join(to_markdown(compression_table(model)) for model in models)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _in_words(value: Any) -> str:
    return " + ".join(f"{count} {name}" for name, count in value.items()) if isinstance(value, dict) else str(value)


def faults_section(until: str = "") -> str:
    """The last count of each goal in each tier, or the last one up to a date: the tests add lines all the time."""
    lines = [line for line in _lines(FAULTS) if not until or line["date"] <= until]
    last = {(line["goal"], line["tier"]): line for line in lines}
    shown = [
        "| goal | tier | trials | failures | beside | seconds | commit | date |",
        "| :-- | :-- | --: | --: | :-- | --: | :-- | :-- |",
    ]
    for (goal, tier), line in sorted(last.items(), key=lambda item: (item[0][0], item[0][1] == "quick")):
        beside = ", ".join(f"{name}: {_in_words(value)}" for name, value in line.items() if name not in FAULT_KEYS)
        shown.append(
            f"| {goal} | {tier} | {line['trials']:,} | {line['failures']:,} | {beside} | {line['seconds']:,.0f} | "
            f"`{line['commit']}` | {line['date'][:10]} |"
        )
    return "\n".join([f"As of {max(line['date'] for line in last.values())}:", "", *shown]) + "\n"


def cpus_section() -> str:
    """The last count of the tests that passed and failed for each kind of CPU, on each machine."""
    last = {(line["machine"], line["kind"]): line for line in _lines(CPUS)}
    shown = [
        "| machine | kind | threads | passed | failed | skipped | seconds | commit | date |",
        "| :-- | :-- | --: | --: | --: | --: | --: | :-- | :-- |",
    ]
    for (machine, kind), line in last.items():
        settings = " ".join(f"`{name}={value}`" for name, value in line["variables"].items())
        shown.append(
            f"| {machine} | {kind} {settings} | {line['threads']} | {line['passed']:,} | {line['failed']:,} | "
            f"{line['skipped']:,} | {line['seconds']:,} | `{line['commit']}` | {line['date'][:10]} |"
        )
    return "\n".join(shown) + "\n"


def mutants_section() -> str:
    """The last count of the changes that tests notice, and by reason those that they do not."""
    counts = atomic.read_json(MUTANTS)
    shown = [
        f"Counted on {counts['date'][:10]} at commit `{counts['commit']}`:", "",
        "| file | changes | noticed | share |", "| :-- | --: | --: | --: |",
    ]  # fmt: skip
    totals = {key: sum(file[key] for file in counts["files"].values()) for key in ("mutants", "caught")}
    for name, file in {**counts["files"], "**all**": totals}.items():
        shown.append(f"| {name} | {file['mutants']:,} | {file['caught']:,} | {file['caught'] / file['mutants']:.1%} |")
    shown += ["", "What is left, and why no test has to notice it:", ""]
    for group in tomllib.loads(SURVIVORS.read_text(encoding="utf-8"))["survivors"]:
        shown.append(f"- {group['reason']}")
        shown += [f"    - `` {change} ``" for change in sorted(group["changes"])]
    return "\n".join(shown) + "\n"


def gpu_section() -> str:
    """What the last `make gpu` measured."""
    rows, parts = _lines(GPU / "measured.jsonl"), _lines(GPU / "parts.jsonl")
    best = max(row["value"] for row in rows if row["measure"] == "matrix rate" and "bfloat16" in row["what"])
    machine = rows[0]["environment"]
    shown = [
        f"Measured on {rows[0]['date'][:10]} on one {rows[0]['device']}, torch {machine['torch']}, transformers "
        f"{machine['transformers']}; best bf16 matrix rate {best:,.0f} TFLOP/s. One run, no spread. "
        + "; ".join(f"{part['part']}: {part['state']} after {part['seconds']:.0f} s" for part in parts)
        + ". [All numbers](../results/gpu/measured.jsonl), [scores](../results/gpu/results.jsonl).",
        "", "| distilling | useful tokens/s | utilisation | ms a step | peak MiB |", "| :-- | --: | --: | --: | --: |",
    ]  # fmt: skip
    shown += _distilling(rows)
    steps = _lines(GPU / "steps.jsonl")
    shown += [
        "", f"Ways of one step beside one another (`gpu_step.py --profile`), on {steps[0]['date'][:10]}, one "
        f"{steps[0]['device']}; the last row ran under the profiler. [All numbers](../results/gpu/steps.jsonl).", "",
        "| distilling | useful tokens/s | utilisation | ms a step | peak MiB |", "| :-- | --: | --: | --: | --: |",
        *_distilling(steps),
    ]  # fmt: skip
    printed = _lines(GPU / "steps-printed.jsonl")
    shown += [
        "", f"On a second {printed[0]['device']}, on {printed[0]['date']}, as `gpu_step.py` printed it while "
        "other trainings on the card were stopped; its file was lost with the machine. [All "
        "numbers](../results/gpu/steps-printed.jsonl).", "",
        "| distilling | useful tokens/s | utilisation | of a best rate of | ms a step |",
        "| :-- | --: | --: | --: | --: |",
        *(
            f"| {row['what']} | {row['value']:,.0f} | {row['utilisation']:.1%} | {row['bf16_tflops']:.0f} TFLOP/s | "
            f"{row['milliseconds']:.1f} |"
            for row in printed
        ),
    ]  # fmt: skip
    modes = list(dict.fromkeys(row["what"].split(", ", 1)[1] for row in rows if row["measure"] == "latency"))
    times = {row["what"]: row["value"] for row in rows if row["measure"] == "latency"}
    models = list(dict.fromkeys(what.split(", ")[0] for what in times))
    shown += ["", "| one input, ms | " + " | ".join(models) + " |", "| :-- |" + " --: |" * len(models)]
    for mode in modes:
        cells = [f"{times[f'{name}, {mode}']:.2f}" if f"{name}, {mode}" in times else "–" for name in models]
        shown.append(f"| {mode} | " + " | ".join(cells) + " |")
    rates = {row["what"]: (row["value"], row["note"]) for row in rows if row["measure"] == "throughput"}
    shown += ["", "| inputs/s at the best batch | " + " | ".join(models) + " |", "| :-- |" + " --: |" * len(models)]
    for mode in dict.fromkeys(what.split(", ", 1)[1] for what in rates):
        cells = [f"{rates[f'{name}, {mode}'][0]:,.0f}" if f"{name}, {mode}" in rates else "–" for name in models]
        shown.append(f"| {mode} | " + " | ".join(cells) + " |")
    scores = results.read(GPU / "results.jsonl")
    return "\n".join([*shown, "", to_markdown(score_table(glue.TABLE, scores)), to_markdown(pretraining_table(scores))])


def load_section() -> str:
    """The last load of the server, by clients."""
    last = {line["clients"]: line for line in _lines(LOAD)}
    names = ("requests/s", "p50 ms", "p95 ms", "refused", "MiB before", "after")
    shown = ["| clients | " + " | ".join(names) + " |", "| --: |" + " --: |" * len(names)]
    for clients, line in sorted(last.items()):
        shown.append(f"| {clients} | " + " | ".join(f"{line[name]:,.1f}" for name in names) + " |")
    line = last[1]
    return "\n".join([
        *shown, "",
        f"{line['requests']:,} requests a row, on {line['date'][:10]}: the SST-2 student in int8 (3 layers × 384), "
        f"{counted(line['threads'], 'thread')} of an {line['environment']['cpu']}, clients and server on the same "
        f"{line['environment']['cores']} cores. [All numbers](../../benchmarks/results/{LOAD.name}).", "",
    ])  # fmt: skip


def _distilling(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line of the table for each distillation step that was measured."""
    return [
        f"| {row['what']} | {row['value']:,.0f} | {row['utilisation']:.1%} | {row['milliseconds']:.1f} | "
        f"{row['peak_mib']:,} |"
        for row in rows if row["measure"] == "distill"
    ]  # fmt: skip


def packages_section() -> str:
    """The packages and modules by the levels of the import contract, each with the first line of its docstring."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (contract,) = (contract for contract in settings["contracts"] if contract["type"] == "layers")
    shown = ["| level | package | what is in it |", "| --: | :-- | :-- |"]
    for level, packages in zip(range(len(contract["layers"]), 0, -1), contract["layers"], strict=True):
        for package in re.split(r"\s+[|:]\s+", packages):
            path = ROOT / "src" / contract["containers"][0] / package
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            first, _, _ = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")
            shown.append(f"| {level} | [`{package}`]({file.relative_to(ROOT).as_posix()}) | {first} |")
    return "\n".join(shown) + "\n"


def settings_section(name: str) -> str:
    """The settings of a section of the recipe: key, default, and the help that the command line shows."""
    (section,) = (section for section in keys.sections() if section.name == name)
    rows = [f"| `{key.name}` | `{_default(key)}` | {_meaning(key)} |" for key in section.keys]
    return "\n".join(["| key | default | meaning |", "| --- | --- | --- |", *rows]) + "\n"


def optimization_section() -> str:
    """The settings of the optimizer, with the default of each training that has them."""
    by_section = {section.name: section.keys for section in keys.sections()}
    trainings = [by_section[f"{name}.optimization"] for name in ("adapt", "distill", "finetune")]
    rows = [
        f"| `{same[0].name.rpartition('.')[2]}` | " + " | ".join(f"`{_default(key)}`" for key in same)
        + f" | {_meaning(same[0])} |"
        for same in zip(*trainings, strict=True)
    ]  # fmt: skip
    return (
        "\n".join(["| key | adapt | distill | finetune | meaning |", "| --- | --- | --- | --- | --- |", *rows]) + "\n"
    )


def _default(key: keys.Key) -> str:
    return "unset" if key.default is None else json.dumps(key.default)


def _meaning(key: keys.Key) -> str:
    if not key.choices or isinstance(key.default, bool):
        return key.help
    choices = ", ".join(f"`{choice}`" for choice in key.choices)
    if isinstance(key.default, tuple):
        return f"Any of {choices}. {key.help}"
    return f"One of {choices}{', or a list' if key.item is not None else ''}. {key.help}"


def python_section() -> str:
    """Every public function, from its docstring."""
    parts = []
    for name in tinydistilbert.__all__:
        member = getattr(tinydistilbert, name)
        if inspect.ismodule(member):  # a package of the same name, which was imported
            member = importlib.import_module(f"tinydistilbert.{tinydistilbert._HOMES[name]}").__dict__[name]
        if inspect.isfunction(member):
            parts.append(_function_in_markdown(name, member))
    return "\n".join(parts)


def _function_in_markdown(name: str, function: Callable[..., Any]) -> str:
    parameters = inspect.signature(function).parameters.values()
    shown = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    first_keyword = next((i for i, p in enumerate(parameters) if p.kind is p.KEYWORD_ONLY), None)
    if first_keyword is not None:
        shown.insert(first_keyword, "*")
    text, *sections = re.split(r"^(Args|Returns|Raises):$", inspect.getdoc(function) or "", flags=re.MULTILINE)
    lines = [f"### `{name}`", "", "```python", f"{name}({', '.join(shown)})", "```", "", text.strip(), ""]
    for title, content in zip(sections[::2], sections[1::2], strict=True):
        entries = re.sub(r"\n {8,}", " ", inspect.cleandoc("\n" + content) if title == "Returns" else content)
        if title == "Returns":
            lines += [f"Returns: {' '.join(entries.split())}", ""]
            continue
        rows = [line.strip().partition(": ") for line in entries.splitlines() if line.strip()]
        lines += [f"- {'' if title == 'Args' else 'raises '}`{key}`: {meaning}" for key, _, meaning in rows]
        lines.append("")
    return "\n".join(lines)


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"picture": picture.caption_section, "numbers": picture.numbers_section},
    "docs/results.md": {
        "results": run_section, "throughput": training_speed.distillation_section,
        "fine-tuning": training_speed.finetuning_section,
        "compression": compression_section,
    },
    "benchmarks/README.md": {"gpu": gpu_section},
    "docs/how-to/serve.md": {"load": load_section},
    "docs/reference/recipe.md": {
        f"settings of {section.name or 'the recipe'}": functools.partial(settings_section, section.name)
        for section in keys.sections()
        if section.keys and not section.name.endswith("optimization")
    } | {"settings of optimization": optimization_section},
    "docs/reference/python.md": {"functions": python_section},
    "docs/reference/defaults.md": {"defaults": defaults_page.defaults_section},
    "docs/explanation/replication.md": {
        "goals": replication_page.headline_section, "scores": replication_page.scores_section,
        "kept": replication_page.kept_section, "ladder": replication_ladder.ladder_section,
        "row against row": replication_page.tests_section,
        "cost": replication_page.cost_section, "days": replication_page.days_section,
    },
    "docs/explanation/scale.md": {
        "time of a corpus": scale_page.time_section, "measured": scale_page.measured_section,
    },
    "docs/decisions/0031-levers.md": {
        "levers": levers_page.levers_section,
        "mnli-first": levers_page.mnli_first_section,
    },
    "docs/explanation/reliability.md": {"faults": faults_section, "cpus": cpus_section},
    "docs/explanation/mutants.md": {"mutants": mutants_section},
    "CONTRIBUTING.md": {"packages": packages_section},
}  # fmt: skip
"""By page what stands between `<!-- NAME -->` and `<!-- end of NAME -->` in it."""


def written(text: str, sections: Mapping[str, Callable[[], str]]) -> str:
    """A page with its sections as they are now."""
    for name, make in sections.items():
        before, rest = text.split(f"<!-- {name} -->\n")
        _, after = rest.split(f"<!-- end of {name} -->\n")
        text = f"{before}<!-- {name} -->\n\n{make()}\n<!-- end of {name} -->\n{after}"
    return text


def main() -> None:
    """Replace the sections."""
    for name, sections in PAGES.items():
        page = ROOT / name
        atomic.write_text(page, written(page.read_text(encoding="utf-8"), sections))
    atomic.write_text(PICTURE, picture.picture())
    atomic.write_text(DIFFERENCES, replication_page.picture(replication_page.Replication.read()))
    atomic.write_json(SCHEMA, json_schema())


if __name__ == "__main__":
    main()

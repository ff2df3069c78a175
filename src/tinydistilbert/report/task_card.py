"""The cards of fine-tuned, exported or compressed task models; each says what was measured of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from tinydistilbert import __version__
from tinydistilbert.errors import UserError
from tinydistilbert.models.lengths import MAX_LENGTH
from tinydistilbert.models.runtimes import exported_facts
from tinydistilbert.models.untrusted import CONFIG
from tinydistilbert.notices import notice
from tinydistilbert.recipe.schema import recipe_hash
from tinydistilbert.report import card_text, scores
from tinydistilbert.report.card import CORPORA, MODELS, hub_name, shown_name
from tinydistilbert.report.card_subjects import CardSubject, RunFacts, chosen, fine_tuned
from tinydistilbert.report.card_text import code, escaped
from tinydistilbert.report.inheritance import UNKNOWN, Ancestor, model_source, task_source, text_source
from tinydistilbert.report.kept import kept_share, raw_share
from tinydistilbert.report.scores import TEACHER, WARNING, metric_title
from tinydistilbert.report.table import NOTHING, points
from tinydistilbert.results import Measurement
from tinydistilbert.run_folder import run_of_task_model, training_facts
from tinydistilbert.storage import atomic

PIPELINES = {
    "classification": "text-classification", "multi-label": "text-classification", "regression": "text-classification",
    "span": "question-answering", "masked-lm": "fill-mask", "token-classification": "token-classification",
}  # fmt: skip
"""The hub's names for the heads of models."""
TAG = "tinydistilbert"
BIASES = (
    "- It has the biases of the model that it was made from and of the data; check for them before it decides anything "
    "about people."
)
HALF = "float16, half as large"
_INT8 = "8-bit integers"


def write_task_cards(run: Path) -> list[Path]:
    """Write the cards of all task models and chosen variants in a run folder; return their paths."""
    facts = RunFacts.read(run)
    subjects = [*fine_tuned(facts), *chosen(facts)]
    return [card_text.write(subject.folder, task_card(facts, subject)) for subject in subjects]


def write_export_card(source: Path, output: Path) -> Path:
    """Write the card of a folder that was exported from a task model.

    If the model lies in a run, what the run says about it holds for the export if its logits are the same; of a model
    from elsewhere only the export itself is known.
    """
    made, facts = run_of_task_model(source), exported_facts(output)
    int8 = facts.get("precision") == "int8"
    form = "exported as ONNX" + (f", in {_INT8}" if int8 else "") if facts else HALF
    before = f"The scores are those of the model before it was turned into {_INT8 if int8 else 'float16'}."
    exact = bool(facts) and not int8
    run = None
    if made is not None:
        try:
            run = RunFacts.read(made[0].path)
        except UserError as error:  # of another version, or damaged: the export is there, and true
            notice(str(output), f"its card does not describe the run, which cannot be read: {error}")
    if run is not None:
        subjects = [subject for subject in fine_tuned(run) if subject.folder.resolve() == source.resolve()]
        if subjects:
            subject = replace(
                subjects[0], folder=output, title=f"{subjects[0].title}, exported", form=form, speed=(),
                scored_before="" if exact else before,
            )  # fmt: skip
            return card_text.write(output, task_card(run, subject))
    return card_text.write(output, _bare_card(source, output, form))


def task_card(facts: RunFacts, subject: CardSubject) -> str:
    """Return the text of `README.md`."""
    recipe, task = facts.recipe, subject.task
    sources = _sources(facts, subject)
    base = hub_name(recipe.finetune.model or recipe.teacher.model, MODELS)
    licence = sources[0].licence or UNKNOWN
    data = ModelCardData(
        model_name=subject.title, library_name=_library(subject.folder),
        pipeline_tag=PIPELINES.get(task.kind, task.kind), license=licence, base_model=base,
        datasets=[task.hub[0]] if task.hub[0] else None,
        tags=_tags(subject.folder, distilled="(D)" in subject.row or subject.row == "student"),
        eval_results=_eval_results(subject) or None,
    )  # fmt: skip
    parts = [
        f"# {escaped(subject.title)}\n",
        f"{verdict(facts, subject)} {subject.scored_before}".rstrip() + "\n",
        *_use(subject.folder, task.kind),
        "## How it was made\n",
        *_how(facts, subject),
        "\n## Results\n",
        *_results(facts, subject),
        "\n## Speed and size\n",
        *([f"- {line}" for line in subject.speed] or ["It was not timed."]),
        "\n## Labels\n",
        _labels(subject.folder, task.kind),
        "\n## Limits\n",
        *_limits(subject),
        "\n## Licence and data\n",
        *[source.line for source in sources],
        _inherits(licence),
    ]
    return card_text.card(data, "\n".join(parts))


def verdict(facts: RunFacts, subject: CardSubject) -> str:
    """Say in a sentence what it keeps of its teacher above the majority (docs/decisions/0027-kept.md)."""
    task = subject.task
    if not subject.measured or subject.measured[0].metric != task.headline:
        return "Nothing was measured on this model yet."
    score = subject.measured[0]
    scored = f"{metric_title(task, score.metric)} {points(score.value)} on {escaped(task.title)}"
    majority = score.details.get("majority")
    against = f", the majority baseline {points(majority)}" if majority is not None else ""
    teacher = scores.of_task(facts.scores, TEACHER, task)
    if subject.row == TEACHER and not subject.form.startswith("compressed"):
        return f"It scores {scored}{against}; it is the teacher of its run."
    if teacher is None:
        return f"It scores {scored}{against}; no teacher was scored with it."
    if task.name not in facts.above.beyond:
        reason = "the teacher does not beat the majority baseline beyond chance"
        return f"How much of the teacher is kept cannot be determined: {reason}. It scores {scored}{against}."
    share, raw = kept_share(score.value, teacher.value, teacher.majority), raw_share(score.value, teacher.value)
    keeps = f"It keeps {100 * share:z.1f} % of the teacher’s score above the majority" if share is not None else "It"
    in_small = f" (raw share {100 * raw:z.1f} %)" if raw is not None else ""
    return f"{keeps}{in_small}: {scored}, the teacher {points(teacher.value)}{against}."


def _results(facts: RunFacts, subject: CardSubject) -> list[str]:
    if not subject.measured:
        return ["Nothing was measured on this model yet."]
    rows = []
    for m in subject.measured:
        teacher = scores.of_task(facts.scores, TEACHER, subject.task, m.metric)
        is_sure = subject.task.name in facts.above.beyond and teacher is not None and subject.row != TEACHER
        share = kept_share(m.value, teacher.value, teacher.majority) if is_sure and teacher else None
        low_high, majority = m.details.get("interval"), m.details.get("majority")
        of = f"{m.examples:,}" + (f" of {m.examples_total:,}" if m.is_subset else "")
        rows.append((
            metric_title(subject.task, m.metric), escaped(m.split), points(m.value),
            "{} to {}".format(*map(points, low_high)) if low_high else NOTHING, of,
            points(majority) if majority is not None else NOTHING,
            points(teacher.value) if teacher is not None else NOTHING,
            f"{100 * share:z.1f} %" if share is not None else NOTHING,
        ))  # fmt: skip
    columns = ("Metric", "Split", "Points", "95 % interval", "Examples", "Majority", "Teacher", "Kept")
    kept = "Kept: (score − majority) / (teacher − majority), where the teacher beats the majority beyond chance."
    return [card_text.table(columns, rows), f"Intervals: bootstrap over the examples. {kept}"]


def _eval_results(subject: CardSubject) -> list[EvalResult]:
    """Return the results for `model-index`; scores of another form of the model are not its own."""
    task = subject.task
    return [
        EvalResult(
            task_type=PIPELINES.get(task.kind, task.kind), dataset_type=task.hub[0] or "custom",
            dataset_name=task.title, dataset_config=task.hub[1], dataset_split=m.split, metric_type=m.metric,
            metric_value=round(m.value, 6), metric_name=metric_title(task, m.metric) + _interval(m),
        )
        for m in subject.measured
        if not subject.scored_before
    ]  # fmt: skip


def _interval(m: Measurement) -> str:
    low_high = m.details.get("interval")
    return " (95 % interval {:.4f} to {:.4f})".format(*low_high) if low_high else ""


def _how(facts: RunFacts, subject: CardSubject) -> list[str]:
    recipe = facts.recipe
    distilled, training = recipe.finetune.distillation, training_facts(subject.folder)
    start = shown_name(recipe.finetune.model or recipe.teacher.model)
    start = start if recipe.finetune.model else f"the run’s {subject.row} of {start}"
    lines = [
        f"- Row {code(subject.row)} of the recipe {code(recipe.name)} ({recipe_hash(recipe)}), from {code(start)}."
    ]
    if "(D)" in subject.row:
        stages = " after its layers" if distilled.intermediate_epochs else ""
        lines.append(
            f"- It learned from the soft targets of a fine-tuned teacher{stages}, {distilled.soft:g} of the loss."
        )
    if training.get("train_examples"):
        count, total = training["train_examples"], training.get("train_examples_total", 0)
        of = f" of {total:,}" if total > count else ""
        lines.append(f"- Trained on {count:,}{of} examples in {training['steps']:,} steps, seed {training['seed']}.")
    if subject.form:
        lines.append(f"- {subject.form[0].upper()}{subject.form[1:]}.")
    return [*lines, f"- Made with tinydistilbert {__version__}."]


def _limits(subject: CardSubject) -> list[str]:
    length = exported_facts(subject.folder).get(MAX_LENGTH) or training_facts(subject.folder).get(MAX_LENGTH)
    lines = [f"- It reads the first {length} tokens of a text; what follows is cut."] if length else []
    warnings = dict.fromkeys(warning for m in subject.measured for warning in m.details.get("warnings", ()))
    lines += [f"- {WARNING} {escaped(warning)}." for warning in warnings]
    if any(m.is_subset for m in subject.measured):
        lines.append("- It was scored on a part of the examples only.")
    return [
        *lines,
        "- Its scores are on texts of its task; on others, or in other languages, it may be no better than chance.",
        BIASES,
    ]  # fmt: skip


def _sources(facts: RunFacts, subject: CardSubject) -> list[Ancestor]:
    recipe, task = facts.recipe, subject.task
    name = recipe.finetune.model or recipe.teacher.model
    sources = [model_source("Weights", name, hub_name(name, MODELS))]
    teachers = recipe.finetune.distillation.teachers
    if "(D)" in subject.row and isinstance(teachers, tuple):
        sources += [model_source("Soft targets", teacher, hub_name(teacher, MODELS)) for teacher in teachers]
    if not recipe.finetune.model and subject.row != TEACHER:
        sources.append(text_source(recipe.corpus.source, hub_name(recipe.corpus.source.partition(":")[0], CORPORA)))
    files = [Path(file).name for file in dict.fromkeys(filter(None, task.files.values()))]
    return [*sources, task_source(task, files)]


def _inherits(licence: str) -> str:
    if licence == UNKNOWN:
        return (
            "\nThe licence of the weights is not known: whoever shares this model has to find it out and write it here."
        )
    return (
        f"\nThe header names the licence of the weights that it began with, {escaped(licence)}. Its maker has to check "
        "whether the data allow the model to be shared under it."
    )


def _labels(folder: Path, kind: str) -> str:
    config = atomic.read_json(folder / CONFIG)
    if kind == "regression":
        return "None: it gives a number."
    if kind == "span":
        return "None: it gives a piece of a context."
    names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    return "\n".join(f"- {escaped(number)}: {escaped(name)}" for number, name in names.items())


def _library(folder: Path) -> str:
    facts = exported_facts(folder)
    return {"onnx": "transformers.js", "openvino": "openvino"}.get(facts.get("format", ""), "transformers")


def _tags(folder: Path, *, distilled: bool) -> list[str]:
    facts = exported_facts(folder)
    form = [str(facts["format"])] if facts else []
    return [TAG, *["distillation"] * distilled, *form, *["int8"] * (facts.get("precision") == "int8")]


def _use(folder: Path, kind: str) -> list[str]:
    given = '"a question", "its context"' if kind == "span" else '"a text"'
    lines = [
        "```python", "import tinydistilbert", "", 'model = tinydistilbert.load("path/to/this/folder")',
        f"print(model.predict({given}))", "```\n",
    ]  # fmt: skip
    task, facts = PIPELINES.get(kind, kind), exported_facts(folder)
    if facts.get("format") == "onnx":
        lines += ["In a browser or in Node, by transformers.js:\n", "```js",
                  f'const model = await pipeline("{task}", "path/to/this/folder");', "```\n"]  # fmt: skip
    elif not facts:
        grouped = ', aggregation_strategy="first"' * (kind == "token-classification")
        called = f'pipeline("{task}", model="path/to/this/folder"{grouped})'
        lines += [f"It is an ordinary model of transformers: `{called}`.\n"]
    return lines


def _bare_card(source: Path, output: Path, form: str) -> str:
    """Return the card of an export of a model without a run."""
    config: Mapping[str, Any] = atomic.read_json(output / CONFIG)
    head = str(exported_facts(output).get("head") or _head(config.get("architectures") or ()))
    sources = [model_source("Weights", str(source), None)]
    licence = sources[0].licence or UNKNOWN
    title = f"{source.resolve().name}, exported"
    pipeline = PIPELINES.get(head, head)
    data = ModelCardData(
        model_name=title, library_name=_library(output), pipeline_tag=pipeline, license=licence,
        tags=_tags(output, distilled=False),
    )  # fmt: skip
    parts = [
        f"# {escaped(title)}\n", "Nothing was measured on this model yet.\n",
        *([] if head == "masked-lm" else _use(output, head)),
        "## How it was made\n", f"- From the folder {code(source.resolve().name)}.", f"- {form[0].upper()}{form[1:]}.",
        f"- Made with tinydistilbert {__version__}.", "\n## Results\n", "Nothing was measured on this model yet.",
        "\n## Speed and size\n", "It was not timed.",
        *([] if head == "masked-lm" else ["\n## Labels\n", _labels(output, head)]), "\n## Limits\n",
        BIASES, "\n## Licence and data\n", *[source.line for source in sources], _inherits(licence),
    ]  # fmt: skip
    return card_text.card(data, "\n".join(parts))


def _head(architectures: Sequence[str]) -> str:
    endings = {
        "ForQuestionAnswering": "span", "ForMaskedLM": "masked-lm", "ForTokenClassification": "token-classification",
    }  # fmt: skip
    return next((head for end, head in endings.items() if str((*architectures, "")[0]).endswith(end)), "classification")

"""shrink: from labelled examples to the smallest model that keeps the score, as one ordinary recipe in one run folder.

The teacher is fine-tuned, and a student is cut from it, which learns first the teacher's layers and then its soft
targets. The student is exported, quantized and pruned until it reaches the target for time and size.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tinydistilbert.api.inputs import Data
from tinydistilbert.api.outcomes import Label, TaskModel
from tinydistilbert.api.run import OnLog
from tinydistilbert.api.shrink_settings import SCALED, checked_settings
from tinydistilbert.api.targets import targets
from tinydistilbert.api.task import (
    DISTILLED,
    Call,
    best_model,
    listed_seeds,
    name_of,
    recipe_of,
    run_task,
)
from tinydistilbert.api.task_data import TaskData, task_data
from tinydistilbert.dry_run.basis import basis_of
from tinydistilbert.dry_run.plan import plan_as_json
from tinydistilbert.errors import UserError
from tinydistilbert.models.loading import load_config
from tinydistilbert.models.untrusted import CONFIG
from tinydistilbert.pipeline.run import run_context
from tinydistilbert.progress import duration
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.keys import flat
from tinydistilbert.recipe.schema import Recipe, Teacher, to_dict
from tinydistilbert.recipe.types import quantity, seconds_of
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import tasks_of
from tinydistilbert.tasks.base import Kind
from tinydistilbert.tasks.recipe_splits import recipe_examples
from tinydistilbert.workers.jobs import Jobs, jobs_of

TEACHER = Teacher().model
"""The teacher that is fine-tuned first, if none is given."""
KEPT, KEPT_WITH_TARGET = 0.97, 0.9
"""Default shares of the teacher's score above the majority to keep: without and with a target for time or size."""
FEWEST_ROWS = 50
STEPS, FEWEST_EPOCHS, MOST_EPOCHS, BATCH = 300, 3, 40, 32
"""Each training reads its examples often enough for about this many steps, within limits on the epochs."""
NARROW, RATE, RATE_OF_NARROW = 768, 5e-5, 1e-4
"""Encoders narrower than BERT-base take the higher learning rate."""
DISTILLATION = {"start": "teacher", "soft": 0.9, "hidden": 1.0, "attention": 1.0}
"""Starts from the fine-tuned teacher; learns first its layers, then its soft targets: TinyBERT's two stages."""
TASK_HEADS = ("ForSequenceClassification", "ForQuestionAnswering", "ForTokenClassification")
BEYOND = 4
"""A latency this many times below the smallest variant's estimate is out of reach."""
INT8_SPEED_UP = 3
TRIMMED = 0.1
"""Assumed share of the word embeddings that remains with a trimmed vocabulary."""


def shrink(
    teacher: "str | Path | TaskModel" = TEACHER, *, train: Data | None = None,
    validation: Data | None = None, text: str = "", label: Label = "", text_pair: str = "",
    kind: Kind = "classification", label_separator: str = "", to: str | Iterable[str] = (),
    keep: float | str | None = None,
    soft_labels: str = "", unlabelled: str = "", seeds: int | Sequence[int] = 1, time_budget: str = "",
    output: str | Path | None = None,
    settings: dict[str, Any] | None = None, threads: int | None = None, jobs: int | str | None = None,
    quiet: bool = False, on_log: OnLog | None = None,
) -> TaskModel:  # fmt: skip
    """Make the smallest model that keeps the teacher's score: fine-tune, distil, quantize, prune, report what was kept.

    Args:
        teacher: an encoder to fine-tune first: a folder, a hub name, or `offline`. Or a fine-tuned teacher: the result
            of `finetune`, or a folder whose model has a task head.
        train: the train examples: a data frame, a list of dictionaries, a `datasets.Dataset`, a path or a hub name; by
            default those that the given teacher was fine-tuned on.
        validation: the examples to score, in the same forms; or a share of `train`, by default `10%`, picked by a hash
            of the text.
        text: column of the text, by default the teacher's, else `text`.
        label: column of the label, by default the teacher's, else `label`; if `kind` is multi-label, also several
            columns of 0 and 1.
        text_pair: column of a second text, if any.
        kind: what is predicted: `classification`, `regression`, `span`, `multi-label` or `token-classification`.
        label_separator: separator of the labels in a cell if `kind` is multi-label, by default `|`.
        to: required latency or size: `5ms` (one text on one core), `20MB`, or both.
        keep: the share of the teacher's score above the majority baseline to keep, as `0.97` or `97%`; by default
            `97%`, or `90%` with `to`.
        soft_labels: a file with probabilities, scores or votes for train examples, from a teacher other than a model
            folder: a column for each class or label, joined by the text column or by `id`.
        unlabelled: a file with more texts, to be labelled by the teacher.
        seeds: number of trainings of teacher and student, or their seeds; the student of the first is compressed.
        time_budget: `15m`: train less, to finish in about this time.
        output: the run folder; None = one in `runs` that the same call finds again.
        settings: keys of the recipe that have no argument here, and their values: `{"finetune.epochs": 5}`.
        threads: threads for matrix products; None = the cores that this process may use, or a job's share of them.
        jobs: number of trainings to run at a time, each in a separate process (`"ray"`: by Ray), with the same result;
            None = one after the other, in this process.
        quiet: print no progress.
        on_log: called with a dictionary for each step, each validation and each message about the work.

    Returns:
        The model, which runs without torch. If no variant reaches a target, `missed` says so and it is the closest one.

    Raises:
        UserError: the model or the data is invalid, or the target is out of reach; nothing was written.
        NonFiniteLoss: the loss of a fine-tuning became infinite.
    """
    data = data_of(
        teacher, train, validation, text=text, label=label, text_pair=text_pair, kind=kind,
        label_separator=label_separator,
    )  # fmt: skip
    changes = changes_of(
        teacher, to=to, keep=keep, soft_labels=soft_labels, unlabelled=unlabelled, seeds=seeds, settings=settings,
        time_budget=time_budget,
    )  # fmt: skip
    call = Call(output, None, threads, quiet, on_log, jobs=jobs)
    return shrunk(data, changes, call, time_budget=time_budget)


def data_of(
    teacher: "str | Path | TaskModel", train: Data | None, validation: Data | None, *, text: str, label: Label,
    text_pair: str, kind: str, label_separator: str = "",
) -> TaskData:  # fmt: skip
    """Return the data of a call of `shrink`."""
    like = teacher if isinstance(teacher, TaskModel) else None
    return task_data(
        train, validation, text=text, label=label, text_pair=text_pair, kind=kind, label_separator=label_separator,
        like=like,
    )  # fmt: skip


def changes_of(
    teacher: "str | Path | TaskModel", *, to: str | Iterable[str], keep: float | str | None, soft_labels: str,
    unlabelled: str, seeds: int | Sequence[int], settings: Mapping[str, Any] | None = None, time_budget: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Return the settings of the recipe that do not depend on the data, with the given ones applied.

    Raises:
        UserError: an invalid target or share, no such model, or a setting that the caller may not set.
    """
    given = checked_settings(settings or {}, time_budget)
    wanted, name = targets(to, "--to"), name_of(teacher)
    kept = share(keep) if keep is not None else KEPT_WITH_TARGET if wanted else KEPT
    distillation: dict[str, Any] = {**DISTILLATION, "unlabelled": unlabelled, "soft_labels": soft_labels}
    if is_fine_tuned(teacher):
        distillation["teachers"] = [name]
    rate = RATE_OF_NARROW if _width(load_config(name)) < NARROW else RATE
    changes = {
        "student": {"layers": "uniform"},
        "finetune": {
            "model": name, "seeds": listed_seeds(seeds), "select": "heldout", "min_steps": 0,
            "distillation": distillation,
            "optimization": {"learning_rate": rate, "batch_size": BATCH, "attention_dropout": 0.0},
        },
        "compress": {"row": DISTILLED, "min_kept": kept, **wanted},
    }  # fmt: skip
    return toml.merge(changes, given)


def _width(config: Any) -> int:
    return int(getattr(config, "hidden_size", 0))


def share(keep: float | str) -> float:
    """Return `0.97`, `97%` or `97 %` as a share.

    Raises:
        UserError: it is not a share.
    """
    text = str(keep).strip()
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise UserError("--keep", expected="a share such as 97%", found=repr(keep), fix="write 97%")
    return value


def is_fine_tuned(teacher: "str | Path | TaskModel") -> bool:
    """Whether a teacher is already fine-tuned: the result of `finetune`, or a local folder with a task head."""
    if isinstance(teacher, TaskModel):
        return True
    config = Path(teacher) / CONFIG
    names = atomic.read_json(config).get("architectures") if config.is_file() else None
    return str((names or [""])[0]).endswith(TASK_HEADS)


def shrunk(
    data: TaskData, changes: Mapping[str, Any], call: Call, *, time_budget: str = "",
    log: Callable[[str], None] | None = None,
) -> TaskModel:  # fmt: skip
    """Do what `shrink` does, with data and settings that were read.

    Raises:
        UserError: as `shrink`.
    """
    given = dict(flat(changes))
    changes = _checkable(changes, data.name)

    def fitted(recipe: Recipe, output: Path) -> Recipe:
        workers = jobs_of(call.jobs, call.threads, recipe.device)
        return fitted_recipe(recipe, data.name, output, time_budget, given, workers)

    made, recipe, missed = run_task(
        "shrink", data, changes, call, log=log, fit=fitted, estimate_time=True, time_budget=time_budget
    )
    return best_model(made, recipe, data, missed)


def _checkable(changes: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return the settings with what the check of a recipe needs, before the examples that determine epochs are counted.

    By default both stages of a distillation share the epochs of a fine-tuning; here each has its own number.
    """
    standing_in = {"finetune": {"distillation": {"epochs": FEWEST_EPOCHS}}, "compress": {"tasks": [task]}}
    return toml.merge(standing_in, changes)


def recipe_for(
    data: TaskData, changes: Mapping[str, Any], output: Path, time_budget: str, *, threads: int | None = None,
    jobs: int | str | None = None,
) -> Recipe:  # fmt: skip
    """Return only the recipe, for data that are all files; nothing is written.

    Raises:
        UserError: as `shrink`.
    """
    given = dict(flat(changes))
    changes = _checkable(changes, data.name)
    recipe = recipe_of(f"shrink-{data.name}", data, changes, RunFolder(output).given_data)
    return fitted_recipe(recipe, data.name, output, time_budget, given, jobs_of(jobs, threads, recipe.device))


def fitted_recipe(
    recipe: Recipe, task: str, output: Path, time_budget: str, given: Collection[str] = (), workers: Jobs | None = None
) -> Recipe:
    """Return the recipe with epochs that fit the number of examples, reduced for a time budget.

    A run that was begun keeps its values, because the measured speed of the machine differs each time.

    Args:
        recipe: the recipe without these values.
        task: name of the task.
        output: the run folder.
        time_budget: such as `15m`; empty = none.
        given: keys whose values stay.
        workers: how trainings run in parallel, for the estimated time.

    Raises:
        UserError: too few examples, or a target that no variant can reach.
    """
    if RunFolder(output).recipe.is_file():
        begun = dict(flat(to_dict(toml.read(RunFolder(output).recipe))))
        kept = (key for key in (*SCALED, "compress.vocabulary") if key in begun and key not in given)
        return _with(recipe, {key: begun[key] for key in kept})
    examples = recipe_examples(recipe, tasks_of(recipe.finetune)[task], "train")
    if len(examples) + examples.left_out < FEWEST_ROWS * 0.8:  # after both hold-outs
        found = f"only {len(examples):,} to train on after the hold-out"
        fix = "label more; texts without labels help in addition (--unlabelled)"
        raise UserError(task, expected=f"{FEWEST_ROWS} rows or more", found=found, fix=fix)
    epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(STEPS * BATCH / len(examples))))
    defaults = {
        "finetune.epochs": epochs, "finetune.distillation.epochs": epochs,
        "finetune.distillation.intermediate_epochs": epochs, "compress.recovery_epochs": max(2, epochs // 2),
    }  # fmt: skip
    recipe = _with(recipe, {key: value for key, value in defaults.items() if key not in given})
    recipe = _reachable(recipe, task, output)
    return _in_time(recipe, len(examples), output, time_budget, workers) if time_budget else recipe


def _with(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    return toml.from_dict(toml.merge(to_dict(recipe), toml.nested(dict(settings))), recipe.name)


def _reachable(recipe: Recipe, task: str, output: Path) -> Recipe:
    """Return the recipe, with a smaller vocabulary if the requested size needs it.

    Raises:
        UserError: the smallest variant is estimated to be far larger or slower than requested.
    """
    settings = recipe.compress
    basis = basis_of(run_context(recipe, output, until="report", log=lambda _: None))
    size, smallest = basis.cut_teacher, min(settings.keep, default=1.0)
    config = load_config(recipe.finetune.model)
    embeddings = config.vocab_size * int(getattr(config, "embedding_size", 0) or _width(config))
    least = embeddings + smallest * (size.parameters - embeddings)
    if settings.target_size and least > quantity(settings.target_size) and not settings.vocabulary:
        recipe = _with(recipe, {"compress.vocabulary": "train"})
    if recipe.compress.vocabulary:
        least -= (1 - TRIMMED) * embeddings
    if settings.target_size and least > quantity(settings.target_size):
        problem = f"{settings.target_size} is out of reach: the smallest variant of a student of "
        problem += f"{recipe.finetune.model} has about {least / 1e6:.1f} MB"
        raise UserError("--to", problem=problem, fix="allow more, or use a smaller teacher")
    if settings.target_latency:
        sizes = basis.task_sizes.get(task)
        length = sizes.length if sizes else 16
        operations = smallest * size.forward(length, length) / INT8_SPEED_UP
        milliseconds = 1000 * basis.machine.seconds_on_one_core(operations)
        if BEYOND * quantity(settings.target_latency) < milliseconds:
            problem = f"{settings.target_latency} is out of reach: the smallest variant of a student of "
            problem += f"{recipe.finetune.model} takes about {milliseconds:.2g} ms"
            raise UserError("--to", problem=problem, fix="allow more, or use a smaller teacher")
    return recipe


def _in_time(recipe: Recipe, examples: int, output: Path, time_budget: str, workers: Jobs | None) -> Recipe:
    """Return the recipe with fewer epochs, then fewer examples, until its estimated time is within the budget.

    Raises:
        UserError: the budget is not a duration, or too short for anything.
    """
    budget = seconds_of(time_budget)
    if not budget:
        raise UserError("--time-budget", expected="a duration such as 15m", found=repr(time_budget), fix="write 15m")
    seconds = _seconds(recipe, output, workers)
    for _ in range(6):
        if seconds <= budget:
            return recipe
        factor = 0.95 * budget / seconds
        finetune = recipe.finetune
        distillation, compress = finetune.distillation, recipe.compress
        epochs = [finetune.epochs, distillation.epochs or 0, distillation.intermediate_epochs, compress.recovery_epochs]
        if min(epochs) > 1:
            scaled = [max(1.0, round(factor * number, 1)) for number in epochs]
            recipe = _with(recipe, dict(zip(SCALED[:3] + SCALED[4:], scaled, strict=True)))
        else:
            count = max(FEWEST_ROWS, round(factor * (finetune.train_examples or examples)))
            recipe = _with(recipe, {"finetune.train_examples": count})
        seconds = _seconds(recipe, output, workers)
    if seconds > 1.4 * budget:
        problem = f"even the shortest run takes about {duration(seconds)}"
        fix = f"give {math.ceil(seconds / 60)}m, or use a smaller teacher"
        raise UserError("--time-budget", problem=problem, fix=fix)
    return recipe


def _seconds(recipe: Recipe, output: Path, workers: Jobs | None) -> float:
    planned = plan_as_json(run_context(recipe, output, until="report", log=lambda _: None, workers=workers))
    return float(planned["seconds"])

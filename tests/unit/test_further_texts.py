"""Texts without labels: every source, nothing that is scored, and the second stage without them."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from tests import tiny
from tinydistilbert import notices
from tinydistilbert.errors import UserError
from tinydistilbert.finetuning.augment import augment, questions_alone
from tinydistilbert.finetuning.examples import task_examples, training_examples
from tinydistilbert.finetuning.schedule import distillation_phases, intermediate_steps
from tinydistilbert.finetuning.soft_targets import SoftTargetSource, make_soft_targets
from tinydistilbert.finetuning.trainer import prepare_training
from tinydistilbert.models.loading import load_tokenizer, save_model
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.storage import disk
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.further_texts import further_texts
from tinydistilbert.tasks.unlabelled import write_examples
from tinydistilbert.training.device import Compute
from tinydistilbert.training.job import Phase

CONTEXT = "Paris is a large city on the river"
SPLITS: dict[str, list[dict[str, Any]]] = {
    "glue/cola/train": [{"sentence": text, "label": n % 2} for n, text in enumerate(["she walked", "the lake"] * 4)],
    "glue/cola/validation": [{"sentence": text, "label": n % 2} for n, text in enumerate(["some cats", "a model"])],
    "glue/sst2/train": [{"sentence": text, "label": n} for n, text in enumerate(["some  cats ", "the tower"])],
    "glue/sst2/validation": [{"sentence": "a scored film", "label": 1}],
    "glue/rte/train": [{"sentence1": "the lake", "sentence2": "Paris", "label": 0}],
    "glue/rte/validation": [{"sentence1": "a", "sentence2": "b", "label": 0}],
    "glue/mrpc/train": [{"sentence1": "people came", "sentence2": "people went", "label": 0}],
    "glue/mrpc/validation": [{"sentence1": "c", "sentence2": "d", "label": 0}],
    "squad/train": [
        {"id": str(n), "question": q, "context": CONTEXT, "answers": {"text": ["Paris"], "answer_start": [0]}}
        for n, q in enumerate(["what is a large city", "what is on the river"])
    ],
    "squad/validation": [],
}
SPLITS["squad/validation"] = [{**SPLITS["squad/train"][0], "id": "v"}]
SENTENCE = "The people of the town came to see the new tower by the river."


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, rows in SPLITS.items():
        path = tmp_path / "data" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.txt").write_text(f"{SENTENCE} No.\n")
    (tmp_path / "text" / "validation.txt").write_text("A validation sentence is never one of the further texts here.\n")
    return tmp_path / "data"


def recipe(data: Path, task: str = "cola", **distillation: Any) -> Recipe:
    corpus = {"source": str(data.parent / "text")}
    finetune = {
        "tasks": [task], "epochs": 1, "min_steps": 0, "optimization": {"batch_size": 4, "dropout": 0.0},
        "distillation": distillation,
    }  # fmt: skip
    return toml.from_dict({"data": str(data), "corpus": corpus, "finetune": finetune}, "here")


def texts_of(recipe: Recipe, task: str = "cola") -> list[tuple[str, ...]]:
    examples = further_texts(recipe, TASKS[task])
    assert examples is not None and examples.columns["label"] == [None] * len(examples)
    return examples.texts


def test_train_texts_of_other_tasks_and_sentences_are_read_but_nothing_scored(data: Path) -> None:
    """`some cats` is a train text of SST-2 and a scored one of CoLA; `the lake` is CoLA's own."""
    texts = texts_of(recipe(data, unlabelled=["task:sst2", "task:rte", "corpus"]))
    assert texts == [("the tower",), ("Paris",), (SENTENCE,)]
    lines = notices.all_notices()
    assert any(line.startswith("task:sst2: 1 of 2 texts are used; left out: 1 that are scored") for line in lines)
    assert any(
        line.startswith("task:rte: 1 of 2 texts are used; left out: 1 that are empty, repeated") for line in lines
    )
    assert texts_of(recipe(data, "rte", unlabelled="task:mrpc"), "rte") == [("people came", "people went")]
    assert texts_of(recipe(data, unlabelled="task:squad"))[0] == ("what is a large city",)
    assert further_texts(recipe(data), TASKS["cola"]) is None


def test_so_many_are_drawn_as_the_recipe_says(data: Path) -> None:
    texts = texts_of(recipe(data, unlabelled=["task:sst2", "task:mrpc", "corpus"], unlabelled_examples=2))
    assert len(texts) == 2
    examples, labelled = training_examples(
        recipe(data, unlabelled=["task:mrpc"], unlabelled_examples=1), TASKS["cola"], augmented=None, soft=True
    )
    assert (labelled, len(examples)) == (8, 9)


@pytest.mark.parametrize(("task", "source"), [("rte", "corpus"), ("rte", "task:sst2"), ("rte", "task:squad")])
def test_single_texts_are_no_pairs(data: Path, task: str, source: str) -> None:
    with pytest.raises(UserError, match="pairs of texts"):
        further_texts(recipe(data, task, unlabelled=source), TASKS[task])


@pytest.mark.parametrize("form", ["one", "several"])
def test_a_file_with_a_scored_text_is_refused(data: Path, form: str) -> None:
    file = data.parent / "more.txt"
    file.write_text("the house\na  model\n")
    with pytest.raises(UserError, match=r"1 of its 2 texts .* CoLA \(text 2\)"):
        further_texts(recipe(data, unlabelled=str(file) if form == "one" else [str(file), "corpus"]), TASKS["cola"])
    file.write_text("the house\nthe house\n")
    assert len(texts_of(recipe(data, unlabelled=str(file)))) == 2, "one file is taken as it is"
    assert len(texts_of(recipe(data, unlabelled=[str(file), str(file)]))) == 1


@pytest.mark.parametrize(
    ("task", "changes", "part"),
    [
        ("cola", {"unlabelled": "task:cola"}, "names the train examples"),
        ("cola", {"unlabelled": ["corpus", "task:sst3"]}, "did you mean 'sst2'"),
        ("squad", {"unlabelled": "corpus"}, "cannot use unlabelled texts"),
        ("squad", {"augment": 2}, "uses copies in intermediate_epochs alone"),
        ("cola", {"final_examples": "original"}, "final_examples"),
        ("cola", {"unlabelled": 3}, "a text or a list of texts"),
    ],
)
def test_sources_that_are_none_are_refused(data: Path, task: str, changes: dict[str, Any], part: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe(data, task, **changes)
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_a_list_of_one_source_is_that_source(data: Path) -> None:
    assert recipe(data, unlabelled=["corpus"]) == recipe(data, unlabelled="corpus")
    assert recipe(data, unlabelled=["a.txt", "corpus"]).finetune.distillation.unlabelled == ("a.txt", "corpus")


def test_a_second_stage_may_read_the_originals_alone() -> None:
    settings = toml.from_dict({"finetune": {"epochs": 9, "optimization": {"batch_size": 10}, "distillation": {
        "hidden": 1, "intermediate_epochs": 2, "epochs": 3, "final_examples": "original",
    }}}, "here").finetune  # fmt: skip
    assert distillation_phases(settings, 100, 20) == (Phase(20, 5e-5), Phase(6, 5e-5))


@pytest.mark.parametrize(
    ("epochs", "intermediate", "accumulation", "steps"),
    [(2, 1.5, 1, (2, 1)), (2, 1, 4, (1, 1)), (9, 1, 4, (1, 2))],
)
def test_few_examples_have_a_step_of_each_stage(
    epochs: float, intermediate: float, accumulation: int, steps: tuple[int, int]
) -> None:
    optimization = {"batch_size": 10, "gradient_accumulation_steps": accumulation}
    distillation = {"hidden": 1, "intermediate_epochs": intermediate, "learning_rate": 1e-5}
    content = {"epochs": epochs, "min_steps": 0, "optimization": optimization, "distillation": distillation}
    settings = toml.from_dict({"finetune": content}, "here").finetune
    assert tuple(phase.steps for phase in distillation_phases(settings, 8)) == steps
    assert intermediate_steps(settings, 8) == steps[0]
    plain = dataclasses.replace(settings, distillation=dataclasses.replace(settings.distillation, learning_rate=None))
    assert sum(phase.steps for phase in distillation_phases(plain, 8)) == sum(steps), "of a single schedule, too"
    originals = dataclasses.replace(
        settings, distillation=dataclasses.replace(settings.distillation, final_examples="original")
    )
    assert len(distillation_phases(originals, 8, 4)) == 2, "the first stage has batches without soft targets"


@pytest.fixture
def encoder(tmp_path: Path, tokenizer: Any) -> Path:
    save_model(tiny.model(initializer_range=0.2), tokenizer, tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.mark.long
@pytest.mark.parametrize("task", ["cola", "squad"])
def test_its_batches_are_of_them_with_their_soft_targets(
    task: str, data: Path, encoder: Path, tmp_path: Path, tokenizer: Any
) -> None:
    settings = recipe(data, task, hidden=1, intermediate_epochs=1, epochs=1, final_examples="original", augment=2)
    model = tiny.model(initializer_range=0.2)
    originals, _ = training_examples(settings, TASKS[task], augmented=None, soft=False)
    given = questions_alone(originals) if task == "squad" else originals
    copies = augment(
        given, model, tokenizer, settings.finetune.distillation,
        seed=0, device=torch.device("cpu"), log=lambda line: None, max_length=64,
    )  # fmt: skip
    write_examples(given.task, copies, tmp_path / "copies.parquet")
    teacher = tmp_path / "teacher"
    kind = TASKS[task].kind
    save_model(
        tiny.model(head=kind, initializer_range=0.2, **({} if kind == "span" else {"num_labels": 2})),
        tokenizer,
        teacher,
    )
    make_soft_targets(
        originals, [teacher], tmp_path / "targets", tokenizer=load_tokenizer(encoder), max_length=64,
        device=torch.device("cpu"), given_labels=None,
    )  # fmt: skip
    source = SoftTargetSource(tmp_path / "targets", (teacher,), tmp_path / "copies.parquet")
    examples = task_examples(settings, TASKS[task], source)
    assert len(examples.train) > examples.labelled == len(originals)
    if task == "squad":
        assert {*examples.train.columns["context"]} == {CONTEXT}
        assert {*examples.train.columns["question"][2:]}.isdisjoint(originals.columns["question"])
    settings = dataclasses.replace(settings, finetune=dataclasses.replace(settings.finetune))
    training = prepare_training(
        settings.finetune, examples, encoder, compute=Compute.of(settings, torch.device("cpu")), seed=0,
        soft_targets=source,
    )  # fmt: skip
    first, last = training.job.phases
    assert last.steps == int(np.ceil(len(originals) / 4)) < first.steps
    early, late = training.job.micro_batches(0), training.job.micro_batches(first.steps)
    assert not any(name.startswith("teacher") for batch in early for name in batch)
    assert all(any(name.startswith("teacher") for name in batch) for batch in late)
    assert sum(len(batch["input_ids"]) for batch in late) <= len(originals)


def test_more_copies_than_the_disk_holds_are_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinydistilbert.pipeline import preflight
    from tinydistilbert.pipeline.run import run_context

    monkeypatch.setattr(disk, "free_bytes", lambda path: 10_000)
    for copies, is_refused in ((10, False), (10_000, True)):
        settings = recipe(data, augment=copies)
        run = run_context(settings, data.parent / "run", until="evaluate", log=lambda line: None)
        train, _ = training_examples(settings, TASKS["cola"], augmented=None, soft=False)
        if is_refused:
            with pytest.raises(UserError, match="80,000 copies"):
                preflight._check_room_for_copies(run, train, 0)
        else:
            preflight._check_room_for_copies(run, train, 0)

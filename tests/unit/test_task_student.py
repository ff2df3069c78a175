"""Cutting a student from a fine-tuned teacher, with its pooler and head."""

import pytest
import torch

from tests import tiny
from tinydistilbert.errors import UserError
from tinydistilbert.models.loading import load_config, load_model, load_tokenizer
from tinydistilbert.models.student import cut_task_student
from tinydistilbert.pipeline.jobs import jobs
from tinydistilbert.recipe.schema import Student
from tinydistilbert.recipe.toml import from_dict

INPUTS = {"input_ids": torch.tensor([[2, 5, 6, 7, 3]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "electra", "mpnet", "modernbert"])
@pytest.mark.parametrize("head", ["classification", "span"])
def test_with_all_layers_the_student_answers_exactly_as_its_teacher(family: str, head: str) -> None:
    teacher = tiny.scrambled(tiny.model(family, head, num_hidden_layers=3))
    student = cut_task_student(teacher, Student(layers=(0, 1, 2))).eval()
    with torch.no_grad():
        expected, logits = teacher(**INPUTS)[0], student(**INPUTS)[0]
        assert torch.equal(logits, expected) and logits.abs().max() > 0
        next(student.parameters()).zero_()
        assert torch.equal(teacher(**INPUTS)[0], expected), "the student shares no weights with its teacher"


def test_the_chosen_layers_the_pooler_and_the_head_are_the_teachers() -> None:
    teacher = tiny.scrambled(tiny.model("bert", "classification", num_hidden_layers=6, num_labels=3))
    teacher.config.id2label = {0: "bad", 1: "fair", 2: "good"}
    student = cut_task_student(teacher, Student(layers=(1, 3, 5)))
    assert student.config.num_hidden_layers == 3 and student.config.id2label[2] == "good"
    weights, of_teacher = student.state_dict(), teacher.state_dict()
    for key in ("classifier.weight", "classifier.bias", "bert.pooler.dense.weight"):
        assert torch.equal(weights[key], of_teacher[key])
    name = "bert.encoder.layer.{}.output.dense.weight"
    for index, layer in enumerate((1, 3, 5)):
        assert torch.equal(weights[name.format(index)], of_teacher[name.format(layer)])


@pytest.mark.parametrize(
    ("student", "key"),
    [
        (Student(architecture="distilbert"), "student.architecture"),
        (Student(initialization="random"), "student.initialization"),
        (Student(hidden_size=8), "student.hidden_size"),
        (Student(intermediate_size=32), "student.intermediate_size"),
        (Student(layers=(0, 9)), "student.layers"),
    ],
)
def test_a_student_that_the_head_would_not_fit_is_refused(student: Student, key: str) -> None:
    with pytest.raises(UserError, match=key):
        cut_task_student(tiny.model("bert", "classification", num_hidden_layers=4), student)


@pytest.mark.parametrize(
    "finetune",
    [
        {"models": ["student"], "distillation": {"start": "teacher"}},
        {"distillation": {"tasks": "none", "start": "teacher"}},
    ],
)
def test_a_start_at_a_teacher_that_is_not_there_is_refused(finetune: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"distillation\.start"):
        from_dict({"finetune": finetune}, "test")


def test_a_given_model_is_the_teacher_that_its_student_is_cut_from() -> None:
    finetune = {"model": "offline", "tasks": ["rte", "squad"], "seeds": [0, 1]}
    start = {"start": "teacher", "tasks": "span"}
    planned_jobs = list(jobs(from_dict({"finetune": {**finetune, "distillation": start}}, "test")))
    rows = [(job.task, job.row, job.seed) for job in planned_jobs]
    of_squad = [("squad", "teacher", 0), ("squad", "teacher", 1), ("squad", "model (D)", 0), ("squad", "model (D)", 1)]
    assert rows == [("rte", "model", 0), ("rte", "model", 1), *of_squad]
    assert {job.encoder for job in planned_jobs} == {"offline"} and not any(job.is_given for job in planned_jobs)


def test_the_encoder_in_the_wheel_is_read_by_its_name_with_any_head() -> None:
    assert load_config("offline").num_hidden_layers == 6
    model = load_model("offline", "classification", labels=("no", "yes", "perhaps"))
    assert model.config.num_labels == 3 and len(load_tokenizer("offline")) == model.config.vocab_size

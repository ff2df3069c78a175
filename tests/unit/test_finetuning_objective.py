"""The terms of a fine-tuning: labels, soft targets, layers, and when each counts."""

import math
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests import tiny
from tinydistilbert.finetuning.objective import TaskLoss
from tinydistilbert.models.matching import task_matches
from tinydistilbert.models.projected_student import ProjectedStudent
from tinydistilbert.models.used_words import only_used_words
from tinydistilbert.recipe.schema import TaskDistillation

WORDS = 40


def classifier(layers: int = 2, labels: int = 2, seed: int = 0) -> Any:
    settings = {"num_hidden_layers": layers, "num_labels": labels, "initializer_range": 0.5}
    return tiny.model(head="classification", seed=seed, vocab_size=WORDS, **settings)


def batch(**more: Any) -> dict[str, torch.Tensor]:
    ids = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0], [2, 8, 9, 3]])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), **more}


class FixedOutput(PreTrainedModel):
    """A model whose output is given."""

    def __init__(self, **output: torch.Tensor) -> None:
        super().__init__(tiny.config(vocab_size=WORDS))
        self.output = output

    def forward(self, **_: Any) -> Any:
        return type("Output", (), self.output)


def loss(objective: TaskLoss, model: Any, batch: dict[str, torch.Tensor], step: int = 0) -> dict[str, float]:
    total, terms = objective.loss(ProjectedStudent(model), batch, objective.term_weights(step), step)
    weighted = sum(objective.term_weights(step)[name] * float(value) for name, value in terms.items())
    assert float(total.detach()) == pytest.approx(weighted, rel=1e-5)
    return {name: float(value) for name, value in terms.items()}


def test_soft_targets_are_the_tempered_kl_and_labels_the_cross_entropy() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]))
    teacher = 2 * torch.log(torch.tensor([[0.8, 0.2], [0.5, 0.5], [0.8, 0.2]]))  # at T = 2 just these probabilities
    objective = TaskLoss("classification", TaskDistillation(temperature=2.0, soft=0.25))
    terms = loss(objective, FixedOutput(logits=logits), batch(labels=torch.tensor([0, 1, 0]), teacher_logits=teacher))
    assert objective.term_weights(0) == {"hard": 0.75, "soft": 0.25}
    assert terms["hard"] == pytest.approx(math.log(2))
    assert terms["soft"] == pytest.approx(4 * 2 / 3 * (0.8 * math.log(1.6) + 0.2 * math.log(0.4)), rel=1e-5)


def test_regression_learns_scores_and_the_teachers_scores() -> None:
    objective = TaskLoss("regression", TaskDistillation(soft=0.5))
    given = batch(labels=torch.tensor([1.0, 2.0, math.nan]), teacher_logits=torch.tensor([[2.0], [2.0], [5.0]]))
    terms = loss(objective, FixedOutput(logits=torch.tensor([[1.5], [2.0], [3.0]])), given)
    assert terms["hard"] == pytest.approx((0.25 + 0) / 2)
    assert terms["soft"] == pytest.approx((0.25 + 0 + 4) / 3)


def test_examples_without_a_label_count_in_the_soft_term_alone() -> None:
    objective = TaskLoss("classification", TaskDistillation())
    soft_targets = {"teacher_logits": torch.zeros(3, 2)}
    some = loss(objective, classifier(), batch(labels=torch.tensor([1, -100, -100]), **soft_targets))
    alone = {name: value[:1] for name, value in batch(labels=torch.tensor([1, -100, -100]), **soft_targets).items()}
    assert some["hard"] == pytest.approx(loss(objective, classifier(), alone)["hard"], rel=1e-5)
    none = loss(objective, classifier(), batch(labels=torch.full((3,), -100), **soft_targets))
    assert none["hard"] == 0 and none["soft"] > 0
    labels = [torch.tensor([1, -100, -100]), torch.tensor([0, 1, 1])]
    shares = objective.token_shares([batch(labels=one, **soft_targets) for one in labels])
    assert shares == [{"hard": 1 / 4, "soft": 1 / 2}, {"hard": 3 / 4, "soft": 1 / 2}]


def test_a_span_teacher_is_learned_at_start_and_end_whatever_the_padding() -> None:
    model = tiny.model(head="span", vocab_size=WORDS, num_hidden_layers=1)
    given = batch(start_positions=torch.tensor([1, 1, 2]), end_positions=torch.tensor([2, 1, 2]))
    given |= {"teacher_start": torch.randn(3, 4), "teacher_end": torch.randn(3, 4)}
    objective = TaskLoss("span", TaskDistillation(soft=0.5))
    terms = loss(objective, model, given)
    given["teacher_start"][1, 3] = 1e4  # padding
    assert loss(objective, model, given)["soft"] == pytest.approx(terms["soft"], rel=1e-5)
    assert terms["soft"] > 0 and terms["hard"] > 0
    wider = {
        name: torch.nn.functional.pad(value, (0, 3)) if value.dim() > 1 else value for name, value in given.items()
    }
    assert loss(objective, model, wider) == pytest.approx(terms, rel=1e-5)


def test_layers_are_compared_only_in_the_first_stage_and_answers_only_in_the_second() -> None:
    distillation = TaskDistillation(hidden=2.0, attention=0.5, relation=1.0, intermediate_epochs=1)
    student, teacher = classifier(2), classifier(4, seed=1)
    matches = task_matches(teacher.config, student.config, distillation)
    assert matches.teacher_layers == (1, 3) and matches.relation_layer == 3
    objective = TaskLoss("classification", distillation, teacher, matches, intermediate_steps=3)
    given = batch(labels=torch.tensor([0, 1, 0]), teacher_logits=torch.zeros(3, 2))
    first, second = loss(objective, student, given, 2), loss(objective, student, given, 3)
    assert first.keys() == {"hidden", "attention", "relation"} and all(value > 0 for value in first.values())
    assert second.keys() == {"hard", "soft"}
    assert objective.term_weights(0).keys() == objective.term_weights(9).keys()
    joint = TaskLoss("classification", distillation, teacher, matches)
    assert loss(joint, student, given).keys() == {"hard", "soft", "hidden", "attention", "relation"}


def test_a_student_that_is_its_teacher_has_nothing_to_learn_from_its_layers() -> None:
    distillation = TaskDistillation(hidden=1.0, attention=1.0, relation=1.0)
    model = classifier(2)
    matches = task_matches(model.config, model.config, distillation)
    objective = TaskLoss("classification", distillation, model, matches)
    with torch.no_grad():
        teacher_logits = model(**batch()).logits
    terms = loss(objective, model, batch(labels=torch.tensor([0, 1, 0]), teacher_logits=teacher_logits))
    assert all(terms[name] == pytest.approx(0, abs=1e-6) for name in ("soft", "hidden", "attention", "relation"))


def test_the_teacher_reads_the_same_tokens_while_the_students_words_are_cut() -> None:
    distillation = TaskDistillation(hidden=1.0)
    teacher, student = classifier(2), classifier(2)
    objective = TaskLoss(
        "classification", distillation, teacher, task_matches(teacher.config, student.config, distillation)
    )
    given = batch(labels=torch.tensor([0, 1, 0]), teacher_logits=torch.zeros(3, 2))
    with only_used_words(student, given["input_ids"].numpy()):
        assert student.get_input_embeddings().num_embeddings < WORDS
        assert loss(objective, student, given)["hidden"] == pytest.approx(0, abs=1e-6)
        other = given["input_ids"].clone()
        other[0, 1] = given["input_ids"][0, 2]
        assert loss(objective, student, {**given, "input_ids": other})["hidden"] == pytest.approx(0, abs=1e-6)

"""When the teacher of several processes is held in shards; that it says the same: tests/faults/test_ranks.py."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests import tiny
from tinydistilbert.distillation import teacher_shards
from tinydistilbert.distillation.teacher_shards import needed_bytes, place_teacher
from tinydistilbert.errors import UserError
from tinydistilbert.models.heads import parameter_count
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Recipe, Teacher, recipe_hash
from tinydistilbert.training.device import Compute
from tinydistilbert.training.ranks import ALONE, Ranks


@dataclass(frozen=True)
class OneOfTwo(Ranks):
    """A process whose neighbour has so little memory, or not."""

    is_other_full: bool = False

    def agree(self, *flags: bool) -> list[bool]:
        return [flag or self.is_other_full for flag in flags]


@pytest.fixture
def sharded(monkeypatch: pytest.MonkeyPatch) -> object:
    """What stands for the copy in shards."""
    stands = tiny.model()
    monkeypatch.setattr(teacher_shards, "_in_shards", lambda *_: stands)
    return stands


@pytest.mark.parametrize(
    ("sharding", "free", "is_other_full", "expected"),
    [
        ("auto", 2.01, False, "whole"), ("auto", 1.99, False, "shards"), ("auto", 9.0, True, "shards"),
        ("auto", None, False, "whole"), ("never", 0.1, True, "whole"), ("always", None, False, "shards"),
    ],
)  # fmt: skip
def test_shards_are_for_teachers_that_do_not_fit(
    sharding: Any, free: float | None, is_other_full: bool, expected: str, sharded: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    teacher, lines = tiny.model(), list[str]()
    needed = needed_bytes(parameter_count(teacher), 1000, is_bf16=False)
    monkeypatch.setattr(teacher_shards, "free_bytes", lambda _: None if free is None else int(free * needed))
    compute = Compute(torch.device("cpu"), "fp32", 1.0, OneOfTwo(0, 2, is_other_full=is_other_full))
    placed = place_teacher(teacher, compute, sharding, trained=1000, log=lines.append)
    assert placed is (sharded if expected == "shards" else teacher)
    assert len(lines) == 1 and expected in lines[0]
    assert ("half of a GPU's free memory" in lines[0]) == (expected == "shards" and sharding == "auto")


def test_one_process_holds_the_whole_teacher_and_says_nothing(sharded: object) -> None:
    teacher = tiny.model()
    compute = Compute(torch.device("cpu"), "fp32", 1.0, ALONE)
    assert place_teacher(teacher, compute, "always", trained=0, log=pytest.fail) is teacher


def test_the_memory_by_hand() -> None:
    assert needed_bytes(110, 66, is_bf16=False) == 110 * 4 + 66 * 16
    assert needed_bytes(110, 66, is_bf16=True) == 110 * 6 + 66 * 16


def test_how_the_teacher_is_held_is_no_matter_of_what_is_computed() -> None:
    assert recipe_hash(Recipe(teacher=Teacher(sharding="always"))) == recipe_hash(Recipe())


def test_one_process_cannot_make_a_cache_by_a_teacher_in_shards() -> None:
    with pytest.raises(UserError, match=r"distill.cache.kind: .*teacher.sharding"):
        toml.from_dict({"teacher": {"sharding": "always"}, "distill": {"cache": {"kind": "hidden"}}}, "recipe")

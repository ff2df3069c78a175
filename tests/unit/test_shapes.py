"""Shapes in annotations are checked while tests run, wherever there are some."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from tests.shapes import SHAPED, has_shape
from tinydistilbert.data.masked_batches import document_mask
from tinydistilbert.losses import terms

SOURCE = Path(__file__).resolve().parents[2] / "src"


def test_a_function_refuses_another_shape() -> None:
    student, teacher = torch.zeros(3, 7), torch.zeros(3, 7)
    terms.kl(student, teacher, 2.0)
    with pytest.raises(TypeCheckError, match="parameter"):
        terms.kl(student, teacher[:2], 2.0)
    with pytest.raises(TypeCheckError, match="parameter"):
        terms.kl(student[None], teacher[None], 2.0)


def test_a_function_refuses_another_kind_of_number() -> None:
    ids = np.arange(6).reshape(2, 3)
    document_mask(ids, 3, ids > 0)
    with pytest.raises(TypeCheckError, match="parameter"):
        document_mask(ids, 3, ids)
    with pytest.raises(TypeCheckError, match="parameter"):
        document_mask(ids, 3, ids[:, :2] > 0)


def test_annotations_without_a_shape_are_left_to_mypy() -> None:
    shape = Float[Tensor, "batch length"]
    assert has_shape(shape) and has_shape(list[shape | None])
    assert not has_shape(Tensor) and not has_shape(dict[str, Tensor]) and not has_shape("Float")


def test_every_module_with_shapes_is_checked() -> None:
    using = [
        path for path in SOURCE.rglob("*.py") if re.search(r"^from jaxtyping import", path.read_text(), re.MULTILINE)
    ]
    modules = [".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in using]
    assert len(modules) > 15
    assert [name for name in modules if not any(name == one or name.startswith(f"{one}.") for one in SHAPED)] == []

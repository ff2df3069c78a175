"""A distilled encoder in sentence-transformers: how it orders the pairs of STS-B, beside its teacher."""

import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from tinydistilbert import replicate
from tinydistilbert.models.wheel import wheel_folder
from tinydistilbert.recipe import toml
from tinydistilbert.run_folder import RunFolder

pytestmark = [pytest.mark.real, pytest.mark.long, pytest.mark.slow]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "share.md"
TEACHER = 0.867
"""Spearman of all-MiniLM-L6-v2 on STS-B's validation split; the test split's 0.82 is on its model card."""


def spearman(folder: Path, pairs: list[dict[str, Any]]) -> float:
    """Of the cosines of a model's embeddings with the labels."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    left, right = (model.encode([pair[name] for pair in pairs]) for name in ("sentence1", "sentence2"))
    cosines = model.similarity_pairwise(left, right)
    return float(spearmanr(cosines, [pair["label"] for pair in pairs]).statistic)


def test_the_student_of_the_page_orders_pairs_nearly_as_its_teacher(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = pq.read_table(data / "glue" / "stsb" / "validation.parquet").to_pylist()
    teacher = spearman(wheel_folder(), pairs)
    monkeypatch.chdir(tmp_path)
    (recipe,) = re.findall(r"```toml\n(name = \"embeddings\".*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "embeddings.toml").write_text(recipe)
    made = replicate(toml.read(tmp_path / "embeddings.toml"), output=tmp_path / "run", until="distill", quiet=True)
    student = spearman(RunFolder(made.folder).student, pairs)
    print(f"Spearman on STS-B: teacher {100 * teacher:.1f}, student {100 * student:.1f}")
    assert teacher == pytest.approx(TEACHER, abs=0.003)
    assert 0.7 < student < teacher

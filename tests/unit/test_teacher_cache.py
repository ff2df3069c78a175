"""The teacher's cache: what is in it is what the teacher says, it is made once, and never mistaken for another."""

import copy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests import tiny
from tinydistilbert.data.corpus import TokenBlocks, load_blocks, prepare
from tinydistilbert.distillation import teacher_cache
from tinydistilbert.distillation.pretraining import PretrainingSetup
from tinydistilbert.distillation.teacher_cache import CachedBatches, cache_bytes, make_cache, weights_hash
from tinydistilbert.errors import UserError
from tinydistilbert.models.heads import hidden_states, vocabulary_logits
from tinydistilbert.recipe import schema
from tinydistilbert.storage import atomic

CPU = torch.device("cpu")
WORDS = [
    "the",
    "student",
    "learns",
    "from",
    "teacher",
    "and",
    "many",
    "people",
    "came",
    "to",
    "see",
    "old",
    "house",
    "near",
    "lake",
    "book",
    "tower",
    "world",
]
KINDS = pytest.mark.parametrize("kind", ["hidden", "top-k"])
NOTHING: dict[str, Any] = {"kl": 1.0, "mlm": 1.0, "cosine": 0.0}


def make_teacher(vocabulary: int, seed: int = 0) -> PreTrainedModel:
    return tiny.model(seed=seed, vocab_size=vocabulary, initializer_range=0.5)


class Made(NamedTuple):
    teacher: PreTrainedModel
    blocks: TokenBlocks
    folder: Path

    def cache(self, settings: schema.Recipe, **other: Any) -> CachedBatches:
        setup = PretrainingSetup.of(settings, other.pop("blocks", self.blocks), CPU)
        batches = setup.batches(settings.objective, settings.distill.optimization, steps=9)
        parts = {"teacher": self.teacher, "folder": self.folder, "log": lambda _: None, **other}
        return make_cache(settings.distill.cache, batches, compute=setup.compute, **parts)

    def size(self, settings: schema.Recipe) -> int:
        """Bytes of all views, as they are computed before any is made."""
        blocks, length = self.blocks.train.shape
        return cache_bytes(
            settings.distill.cache, settings.objective, settings.masking, blocks=blocks, length=length, hidden_size=16,
            vocab_size=self.teacher.config.vocab_size,
        )  # fmt: skip

    @property
    def cache_folders(self) -> list[Path]:
        return sorted(self.folder.glob("teacher-*"))


def write_corpus(folder: Path, tokenizer: PreTrainedTokenizerFast, *, documents: int = 12) -> TokenBlocks:
    folder.mkdir()
    random = Random(0)
    for split, count in (("train", documents), ("validation", 1)):
        texts = [" ".join(random.choices(WORDS, k=75)) for _ in range(count)]
        (folder / f"{split}.txt").write_text("\n\n".join(texts))
    return load_blocks(prepare(schema.Corpus(source=str(folder), block_size=24), tokenizer, folder / "cache", None))


@pytest.fixture
def made(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Made:
    blocks = write_corpus(tmp_path / "text", tokenizer)
    assert len(blocks.train) > 2 * teacher_cache.BLOCKS_AT_ONCE, "several passes of the teacher a view"
    assert len(blocks.train) % teacher_cache.BLOCKS_AT_ONCE, "and the last one is smaller"
    return Made(make_teacher(len(tokenizer)), blocks, tmp_path / "caches")


def settings_of(kind: str = "hidden", *, views: int = 2, top_k: int = 8, **changed: Any) -> schema.Recipe:
    distill = schema.Distill(
        cache=schema.TeacherCache(kind=kind, views=views, top_k=top_k),
        optimization=schema.Optimization(batch_size=3, gradient_accumulation_steps=2),
    )  # fmt: skip
    return schema.Recipe(distill=distill, **{"objective": schema.Objective(**NOTHING), **changed})


def told_live(teacher: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return hidden_states(teacher, batch["input_ids"], batch.get("attention_mask"))


def every_batch(cache: CachedBatches, epochs: int) -> Iterator[dict[str, torch.Tensor]]:
    steps = -(-epochs * len(cache.batches.blocks.train) // cache.batches.blocks_per_step)
    return (batch for step in range(steps) for batch in cache(step))


def assert_same(one: list[dict[str, torch.Tensor]], other: list[dict[str, torch.Tensor]]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("attention", ["block", "documents"])
def test_hidden_states_give_the_logits_of_the_live_teacher(made: Made, attention: str) -> None:
    corpus = schema.Corpus(attention=attention)
    for batch in every_batch(made.cache(settings_of("hidden", corpus=corpus)), 2):
        live, kept = told_live(made.teacher, batch), batch["teacher_hidden"]
        assert kept.dtype == torch.float16 and kept.shape == live.shape
        assert torch.allclose(kept.float(), live, rtol=2**-11, atol=2**-11), "rounded to half precision, nothing else"
        with torch.no_grad():
            expected, cached = (vocabulary_logits(made.teacher, hidden) for hidden in (live, kept.float()))
        assert (expected - cached).abs().max() < 0.02 * expected.std()


@pytest.mark.parametrize("where", ["all", "masked", "sampled"])
def test_all_of_the_likeliest_tokens_are_the_whole_distribution(made: Made, where: str) -> None:
    objective = schema.Objective(**NOTHING, kl_positions=where, temperature=2.0)
    for batch in every_batch(made.cache(settings_of("top-k", top_k=10**6, objective=objective)), 2):
        with torch.no_grad():
            logits = vocabulary_logits(made.teacher, told_live(made.teacher, batch).flatten(0, 1)[batch["soft"]])
        expected = torch.log_softmax(logits / 2, -1)
        ids, kept = batch["teacher_top_ids"], batch["teacher_top_log_probabilities"]
        assert ids.dtype == torch.int64 and kept.dtype == torch.float32
        assert torch.allclose(torch.empty_like(kept).scatter(1, ids, kept), expected, atol=1e-4)
        assert (kept.diff(dim=1) <= 0).all(), "the likeliest first"


def test_a_few_of_the_likeliest_are_the_first_of_all(made: Made) -> None:
    few, whole = (made.cache(settings_of("top-k", top_k=k)) for k in (5, 10**6))
    for one, other in zip(every_batch(few, 1), every_batch(whole, 1), strict=True):
        for name in ("teacher_top_ids", "teacher_top_log_probabilities"):
            assert torch.equal(one[name], other[name][:, :5])


@KINDS
def test_steps_read_the_same_blocks_as_without_a_cache(made: Made, kind: str) -> None:
    settings = settings_of(kind)
    cache = made.cache(settings)
    live = cache.batches
    for step in range(12):
        for one, other in zip(cache(step), live(step), strict=True):
            assert one.keys() - {name for name in one if name.startswith("teacher_")} == other.keys()
            original = [
                torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"]) for batch in (one, other)
            ]
            assert torch.equal(*original), "hidden tokens put back"
            assert {name: value.dtype for name, value in other.items()}.items() <= {
                name: value.dtype for name, value in one.items()
            }.items()


def masks_by_block(cache: CachedBatches, epoch: int) -> dict[tuple[int, ...], tuple[int, ...]]:
    """What is guessed in each block, in one epoch whose length is a whole number of steps."""
    steps = len(cache.batches.blocks.train) // cache.batches.blocks_per_step
    masks = {}
    for step in range(epoch * steps, (epoch + 1) * steps):
        for batch in cache(step):
            original = torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])
            for row, labels in zip(original.tolist(), batch["labels"].tolist(), strict=True):
                masks[tuple(row)] = tuple(labels)
    return masks


def test_epochs_take_the_views_in_turn(made: Made) -> None:
    blocks = replace(made.blocks, train=made.blocks.train[:36])
    cache = made.cache(settings_of(views=3), blocks=blocks)
    epochs = [masks_by_block(cache, epoch) for epoch in range(6)]
    assert all(len(epoch) == 36 for epoch in epochs), "each block once"
    assert epochs[:3] == epochs[3:]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    first = [batch["input_ids"].tolist() for step in (0, 18) for batch in cache(step)]
    assert first[:2] != first[2:], "in another order"


def test_masks_are_as_many_as_the_recipe_says(made: Made) -> None:
    batches = list(every_batch(made.cache(settings_of(masking=schema.Masking(rate=0.4, whole_words=True))), 2))
    special = sum(int((batch["input_ids"] < 4).sum()) for batch in batches)
    tokens = sum(batch["input_ids"].numel() for batch in batches) - special
    assert sum(len(batch["masked"]) for batch in batches) / tokens == pytest.approx(0.4, abs=0.05)


@KINDS
def test_a_cache_is_made_once(made: Made, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(every_batch(made.cache(settings_of(kind)), 3))
    monkeypatch.setattr(teacher_cache, "hidden_states", lambda *_: pytest.fail("computed again"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))  # nothing has to be written
    assert_same(list(every_batch(made.cache(settings_of(kind)), 3)), first)


def test_more_views_are_added_to_those_that_are_there(made: Made) -> None:
    one = made.cache(settings_of(views=1)).views[0]["hidden"]
    three = made.cache(settings_of(views=3))
    assert len(made.cache_folders) == 1 and len(three.views) == 3
    assert (three.views[0]["hidden"] == one).all()


def test_a_killed_build_goes_on_after_the_last_finished_view(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = -(-len(made.blocks.train) // teacher_cache.BLOCKS_AT_ONCE)
    calls = 0

    def dying_after(limit: int) -> Callable[..., torch.Tensor]:
        def counted(*args: Any) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls > limit:
                raise KeyboardInterrupt
            return hidden_states(*args)

        return counted

    monkeypatch.setattr(teacher_cache, "hidden_states", dying_after(passes + 2))
    with pytest.raises(KeyboardInterrupt):
        made.cache(settings_of(views=2))
    monkeypatch.setattr(teacher_cache, "hidden_states", dying_after(10**9))
    calls = 0
    resumed = made.cache(settings_of(views=2))
    assert calls == passes, "the second view alone"
    monkeypatch.undo()
    at_once = made.cache(settings_of(views=2), folder=made.folder / "other")
    assert_same(list(every_batch(resumed, 2)), list(every_batch(at_once, 2)))
    assert not list(made.cache_folders[0].glob("*.partial"))


CHANGES: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "masking": {"masking": schema.Masking(rate=0.2)},
    "attention": {"corpus": schema.Corpus(attention="documents")},
    "kind": {"kind": "hidden"},
    "top_k": {"top_k": 9},
    "temperature": {"objective": schema.Objective(**NOTHING, temperature=3.0)},
    "kl_positions": {"objective": schema.Objective(**NOTHING, kl_positions="sampled")},
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_setting_makes_another_cache(made: Made, change: str) -> None:
    made.cache(settings_of(**{"kind": "top-k", "views": 1}))
    made.cache(settings_of(**{"kind": "top-k", "views": 1, **CHANGES[change]}))
    assert len(made.cache_folders) == 2


def test_the_sampled_share_makes_another_cache(made: Made) -> None:
    for share in (0.2, 0.3):
        objective = schema.Objective(**NOTHING, kl_positions="sampled", kl_sampled_share=share)
        made.cache(settings_of(views=1, objective=objective))
    assert len(made.cache_folders) == 2


def test_another_teacher_or_text_makes_another_cache(made: Made, tmp_path: Path, tokenizer: Any) -> None:
    made.cache(settings_of(views=1))
    other = copy.deepcopy(made.teacher)
    with torch.no_grad():
        next(other.parameters())[0, 0] += 1
    made.cache(settings_of(views=1), teacher=other)
    made.cache(settings_of(views=1), blocks=write_corpus(tmp_path / "other", tokenizer, documents=11))
    assert len(made.cache_folders) == 3


def test_what_the_cache_does_not_depend_on_does_not_change_it(made: Made) -> None:
    """The weights of the terms, the student, the batches; of `hidden`, temperature and k."""
    made.cache(settings_of(views=1))
    objective = schema.Objective(kl=(1.0, 2.0), mlm=0.5, temperature=(1.0, 4.0))
    settings = settings_of(views=1, top_k=3, objective=objective, student=schema.Student(layers=(0,)))
    made.cache(replace(settings, distill=replace(settings.distill, optimization=schema.Optimization(batch_size=7))))
    assert len(made.cache_folders) == 1


def test_a_cache_of_another_teacher_is_refused(made: Made) -> None:
    """Also one that carries the right name: what counts is what its manifest says."""
    other = make_teacher(made.teacher.config.vocab_size, seed=1)
    made.cache(settings_of(), teacher=other)
    (other_folder,) = made.cache_folders
    made.cache(settings_of())
    (folder,) = set(made.cache_folders) - {other_folder}
    shutil.rmtree(folder)
    shutil.copytree(other_folder, folder)
    with pytest.raises(UserError, match=f"another teacher .{weights_hash(other)[:12]}, .*; delete {folder}") as error:
        made.cache(settings_of())
    assert weights_hash(made.teacher)[:12] in str(error.value)


def test_a_teacher_of_the_same_weights_that_computes_otherwise_has_a_cache_of_its_own(made: Made) -> None:
    made.cache(settings_of(views=1))
    other = copy.deepcopy(made.teacher)
    other.config.hidden_act = "relu"
    made.cache(settings_of(views=1), teacher=other)
    assert len(made.cache_folders) == 2
    other.config._name_or_path = "elsewhere"
    made.cache(settings_of(views=1), teacher=other)
    assert len(made.cache_folders) == 2


def test_a_view_of_something_else_is_refused(made: Made) -> None:
    made.cache(settings_of())
    (place,) = made.cache_folders
    shutil.rmtree(place / "view-1")
    shutil.copytree(place / "view-0", place / "view-1")
    with pytest.raises(UserError, match="expected a cache of view = 1, found view = 0"):
        made.cache(settings_of())


def test_a_file_that_was_cut_off_is_refused(made: Made) -> None:
    made.cache(settings_of())
    path = made.cache_folders[0] / "view-0" / "hidden.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"{path}: expected sha256 .*, found other content; delete"):
        made.cache(settings_of())


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_a_full_disk_is_told_before_anything_is_written(
    made: Made, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the size itself 5 % have to be free."""
    size = made.size(settings_of(views=4))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, int(size * share)))
    monkeypatch.setattr(teacher_cache, "hidden_states", lambda *_: pytest.fail("the teacher was asked"))
    with pytest.raises(UserError, match=r"GB free for the teacher's cache, found .* lower distill\.cache\.views"):
        made.cache(settings_of(views=4))
    assert not made.folder.exists()


def test_only_missing_views_need_room(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    made.cache(settings_of(views=3))
    size = made.size(settings_of(views=1))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, int(size * 1.06)))
    assert len(made.cache(settings_of(views=4)).views) == 4


@pytest.mark.parametrize("kind", ["hidden", "top-k"])
@pytest.mark.parametrize("where", ["all", "masked", "sampled"])
def test_the_size_that_is_told_is_the_size_on_the_disk(made: Made, kind: str, where: str) -> None:
    lines: list[str] = []
    objective = schema.Objective(**NOTHING, kl_positions=where, kl_sampled_share=0.3)
    settings = settings_of(kind, objective=objective, masking=schema.Masking(rate=0.5))
    made.cache(settings, log=lines.append)
    written = sum(path.stat().st_size for path in made.cache_folders[0].rglob("*.npy"))
    computed = made.size(settings)
    # Special tokens are never masked, and each file has a header of 128 bytes.
    assert computed == pytest.approx(written, rel=0.10 if kind == "top-k" else 0.01, abs=2 * 5 * 128)
    assert f"{computed / 1e9:,.2f} GB" in lines[0] and "2 to be made" in lines[0]


def test_hidden_states_that_half_precision_cannot_hold_are_refused(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_cache, "hidden_states", lambda *args: hidden_states(*args) * 1e6)
    with pytest.raises(UserError, match="expected hidden states below 65504"):
        made.cache(settings_of())


def test_equal_weights_have_one_hash_and_others_another() -> None:
    one, same, other = (make_teacher(50, seed) for seed in (0, 0, 1))
    assert weights_hash(one) == weights_hash(same) != weights_hash(other)
    assert weights_hash(copy.deepcopy(one).bfloat16()) != weights_hash(one)


def test_views_are_closed_folders(made: Made) -> None:
    made.cache(settings_of())
    for number in range(2):
        manifest = atomic.read_manifest(made.cache_folders[0] / f"view-{number}")
        assert manifest["teacher"] == weights_hash(made.teacher) and manifest["view"] == number

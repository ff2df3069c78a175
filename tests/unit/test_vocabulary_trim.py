"""A vocabulary cut to a corpus changes nothing for text whose tokens were kept, and loses no text."""

from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.processors import BertProcessing, Sequence
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tests import tiny
from tests.tiny import assert_equal_up_to_rounding
from tinydistilbert.compress.vocabulary import losses, trim
from tinydistilbert.errors import UserError
from tinydistilbert.models import pruned
from tinydistilbert.models.loading import load_model, load_tokenizer, save_model
from tinydistilbert.storage import atomic

CORPUS = ["The student learns from the teacher.", "Paris is the capital of France", "A small model answers quickly"]
_WORDS = """student learns from the teacher paris is capital of france a small model answers quickly tower many people
river lake lakes opened engineer towers teachers reading bone quick é ☃ ☃y x-ray 1889"""
WORDS = _WORDS.split()
"""Some occur in `CORPUS`, some not, and some have characters that no token has."""


def distilbert(rows: int, *, head: str = "classification") -> PreTrainedModel:
    return tiny.model("distilbert", head, vocab_size=rows, initializer_range=0.3, max_position_embeddings=64)


@pytest.fixture(scope="module")
def both(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A classifier's folder, and the same with the tokens of `CORPUS`."""
    folder = tmp_path_factory.mktemp("vocabulary")
    save_model(distilbert(len(tokenizer)), tokenizer, folder / "whole")
    trim(folder / "whole", iter(CORPUS), folder / "trimmed")
    return folder / "whole", folder / "trimmed"


@cache
def opened(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    return load_model(folder, "classification", require_head=True).eval(), load_tokenizer(folder)


@torch.no_grad()
def logits(folder: Path, text: str) -> Tensor:
    model, tokenizer = opened(folder)
    encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=64, return_token_type_ids=False)
    return model(**encoded).logits


def test_what_is_kept_is_what_the_texts_use_the_special_tokens_and_all_characters(both) -> None:
    (_, whole), (_, trimmed) = opened(both[0]), opened(both[1])
    old, new = whole.get_vocab(), trimmed.get_vocab()
    used = {piece for text in CORPUS for piece in whole.tokenize(text)}
    single = {piece for piece in old if len(piece.removeprefix("##")) == 1}
    special = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    assert new.keys() == used | single | special
    assert len(new) < len(old)
    assert sorted(new.values()) == list(range(len(new)))
    assert sorted(new, key=new.__getitem__) == [piece for piece in sorted(old, key=old.__getitem__) if piece in new]


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=12))
def test_covered_text_keeps_its_tokens_and_its_logits(both, words) -> None:
    text = " ".join(words)
    (_, whole), (_, trimmed) = opened(both[0]), opened(both[1])
    before, after = whole.tokenize(text), trimmed.tokenize(text)
    if set(before) <= trimmed.get_vocab().keys():
        assert after == before
        assert_equal_up_to_rounding(logits(both[1], text), logits(both[0], text))
    else:
        assert len(after) > len(before)
        assert after.count("[UNK]") == before.count("[UNK]")
        assert "".join(piece.removeprefix("##") for piece in after) == "".join(p.removeprefix("##") for p in before)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=30))
def test_any_text_can_be_read(both, text) -> None:
    assert logits(both[1], text).isfinite().all()


def test_what_texts_lose_is_counted(both) -> None:
    (_, whole), (_, trimmed) = opened(both[0]), opened(both[1])
    assert losses(whole, trimmed, CORPUS) == ""
    assert "1 of 2 texts" in (lost := losses(whole, trimmed, [CORPUS[0], "the tower"])) and "no word is lost" in lost
    without_accent = Tokenizer(models.WordPiece({"[UNK]": 0, "c": 1, "##a": 2, "##f": 3}, unk_token="[UNK]"))
    with_accent = Tokenizer(models.WordPiece({"[UNK]": 0, "café": 1, "c": 2, "##a": 3, "##f": 4}, unk_token="[UNK]"))
    for raw in (without_accent, with_accent):
        raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    before, after = (
        PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]") for raw in (with_accent, without_accent)
    )
    lost = losses(before, after, ["café café ☃", "caf", "☃"])
    assert "1 of 3 texts" in lost and "2 words in 7 tokens become [UNK]" in lost


def test_the_corpus_itself_is_covered(both) -> None:
    for text in CORPUS:
        assert_equal_up_to_rounding(logits(both[1], text), logits(both[0], text))


def test_rare_tokens_go_where_a_minimum_is_asked_for(both, tmp_path: Path) -> None:
    trim(both[0], ["teacher teacher", "student"], tmp_path / "out", minimum_count=2)
    pieces = load_tokenizer(tmp_path / "out").get_vocab().keys()
    assert "teacher" in pieces and "student" not in pieces


def test_the_folder_is_finished_and_says_how_many_tokens_were_kept(both, tokenizer) -> None:
    manifest = atomic.read_manifest(both[1])
    model, trimmed = opened(both[1])
    assert manifest["tokens"] == len(trimmed) == model.config.vocab_size == model.get_input_embeddings().num_embeddings
    assert manifest["tokens_before"] == len(tokenizer)
    assert set(manifest["files"]) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module")
def backwards() -> PreTrainedTokenizerFast:
    """Its special tokens come last, and its template is BERT's own, so that every number of theirs changes."""
    pieces = ["teacher", "student", "stud", "##ent", *(c for c in "abcdehnrstu"), *("##" + c for c in "abcdehnrstu")]
    special = ["[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]"]
    raw = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate([*pieces, *special])}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    first = len(pieces)
    raw.post_processor = Sequence([BertProcessing(("[SEP]", first + 1), ("[CLS]", first))])
    names = ("cls_token", "sep_token", "mask_token", "unk_token", "pad_token")
    return PreTrainedTokenizerFast(tokenizer_object=raw, **dict(zip(names, special, strict=True)))


def test_special_tokens_are_renumbered_everywhere(backwards, tmp_path: Path) -> None:
    model = distilbert(len(backwards) + 6)  # rows beyond the tokens, as some models have
    model.config.pad_token_id = backwards.pad_token_id
    save_model(model, backwards, tmp_path / "whole")
    settings = atomic.read_json(tmp_path / "whole" / "tokenizer_config.json")
    added = {str(backwards.mask_token_id): {"content": "[MASK]", "special": True}}
    atomic.write_json(tmp_path / "whole" / "tokenizer_config.json", settings | {"added_tokens_decoder": added})
    trim(tmp_path / "whole", ["teacher"], tmp_path / "out")
    loaded, tokenizer = opened(tmp_path / "out")
    vocabulary = tokenizer.get_vocab()
    assert "student" not in vocabulary and "stud" not in vocabulary
    assert loaded.config.pad_token_id == tokenizer.pad_token_id == vocabulary["[PAD]"] == len(vocabulary) - 1
    for name in ("cls", "sep", "mask", "unk"):
        assert getattr(tokenizer, f"{name}_token_id") == vocabulary[f"[{name.upper()}]"]
    ids = tokenizer("teacher")["input_ids"]
    assert ids == [vocabulary["[CLS]"], vocabulary["teacher"], vocabulary["[SEP]"]]
    assert tokenizer.tokenize("student") == ["s", "##t", "##u", "##d", "##e", "##n", "##t"]
    assert_equal_up_to_rounding(logits(tmp_path / "out", "teacher"), logits(tmp_path / "whole", "teacher"))


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra", "mpnet"])
def test_a_masked_lm_head_keeps_the_logits_of_the_tokens_that_stay(family, tokenizer, tmp_path: Path) -> None:
    model = tiny.model(family, initializer_range=0.3)
    with torch.no_grad():
        model.get_output_embeddings().bias.normal_()
    save_model(model, tokenizer, tmp_path / "whole")
    trim(tmp_path / "whole", CORPUS, tmp_path / "out")
    loaded, smaller = load_model(tmp_path / "out", "masked-lm").eval(), load_tokenizer(tmp_path / "out")
    old = tokenizer.get_vocab()
    kept = [old[piece] for piece in sorted(smaller.get_vocab(), key=smaller.get_vocab().__getitem__)]
    ids = torch.tensor([kept[:20]])
    with torch.no_grad():
        expected = model(input_ids=ids).logits[..., kept]
        trimmed_logits = loaded(input_ids=torch.arange(20)[None]).logits
    torch.testing.assert_close(trimmed_logits, expected, rtol=1e-5, atol=1e-6)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


def test_robertas_positions_stay_where_they_are(tokenizer, tmp_path: Path) -> None:
    # It numbers positions from the padding's token on: with another number, every word would move.
    special = {"pad_token_id": 9, "bos_token_id": 2, "eos_token_id": 3}
    model = tiny.model("roberta", "classification", max_position_embeddings=64, **special)
    save_model(model, tokenizer, tmp_path / "whole")
    trim(tmp_path / "whole", CORPUS, tmp_path / "out")
    assert_equal_up_to_rounding(logits(tmp_path / "out", CORPUS[0]), logits(tmp_path / "whole", CORPUS[0]))
    assert opened(tmp_path / "out")[0].config.pad_token_id == 9


def test_a_pruned_model_stays_pruned(tokenizer, tmp_path: Path) -> None:
    model = distilbert(len(tokenizer))
    pruned.keep(model, [(1,), (0, 1)], [range(8), range(16)])
    save_model(model, tokenizer, tmp_path / "whole")
    trim(tmp_path / "whole", CORPUS, tmp_path / "out")
    assert_equal_up_to_rounding(logits(tmp_path / "out", CORPUS[1]), logits(tmp_path / "whole", CORPUS[1]))


def test_weights_in_shards_are_trimmed_into_one_file(tokenizer, tmp_path: Path) -> None:
    model, whole = distilbert(len(tokenizer)), tmp_path / "whole"
    save_model(model, tokenizer, whole)
    (whole / "model.safetensors").unlink()
    model.save_pretrained(whole, max_shard_size="10KB")
    assert len([*whole.glob("model-*.safetensors")]) > 1
    trim(whole, CORPUS, tmp_path / "trimmed")
    assert [path.name for path in (tmp_path / "trimmed").glob("*.safetensors")] == ["model.safetensors"]
    for text in CORPUS:
        assert_equal_up_to_rounding(logits(tmp_path / "trimmed", text), logits(whole, text))


def test_other_tokenizers_are_refused(tokenizer, tmp_path: Path) -> None:
    raw = Tokenizer(models.BPE(unk_token="[UNK]"))
    raw.train_from_iterator(CORPUS, trainers.BpeTrainer(special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    special = dict(zip(names, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), strict=True))
    bpe = PreTrainedTokenizerFast(tokenizer_object=raw, **special)
    save_model(distilbert(len(bpe)), bpe, tmp_path / "whole")
    with pytest.raises(UserError, match=r"tokenizer of .*: only a WordPiece vocabulary.*this is BPE"):
        trim(tmp_path / "whole", CORPUS, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors: expected the model's weights"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "expected the model's weights"),
        (
            lambda folder: atomic.write_json(
                folder / "config.json", atomic.read_json(folder / "config.json") | {"vocab_size": 300}
            ),
            r"in the 300 rows of config\.json, found \[232\] rows",
        ),
        (
            lambda folder: (
                atomic.write_manifest(folder),
                (folder / "config.json").write_text((folder / "config.json").read_text() + " "),
            ),
            r"config\.json: expected sha256",
        ),
    ],
)
def test_folders_that_are_not_whole_are_refused_and_nothing_is_written(damage, message, tokenizer, tmp_path) -> None:
    save_model(distilbert(len(tokenizer)), tokenizer, tmp_path / "whole")
    damage(tmp_path / "whole")
    with pytest.raises(UserError, match=message):
        trim(tmp_path / "whole", CORPUS, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.real
def test_every_character_of_berts_vocabulary_is_a_token_so_unknown_words_stay_unknown(data: Path) -> None:
    folder = data.parent / "models" / "minilm-l6-mlm"
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}")
    pieces = load_tokenizer(folder).get_vocab()
    for piece in pieces:
        if not (piece.startswith("[") and piece.endswith("]") and len(piece) > 1):
            begins, plain = not piece.startswith("##"), piece.removeprefix("##")
            assert all((c if begins and not n else "##" + c) in pieces for n, c in enumerate(plain)), piece

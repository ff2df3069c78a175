"""Token blocks: what is in them, and the folder they are kept in."""

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tinydistilbert import notices
from tinydistilbert.data import document_tokens, sources
from tinydistilbert.data.corpus import load_blocks, prepare, tokenizer_hash
from tinydistilbert.data.word_pieces import continues_word
from tinydistilbert.errors import UserError
from tinydistilbert.recipe.schema import Corpus

TRAIN = ["The student learns from the teacher.", "Some cats like milk.\nSome dogs like bones.", "She sat down to read."]
VALIDATION = ["Paris is the capital of France; it lies on the river Seine."]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "train.txt").write_text("\n\n".join(TRAIN))
    (folder / "validation.txt").write_text("\n\n".join(VALIDATION))
    return Corpus(source=str(folder), block_size=8)


def stream(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> list[int]:
    ids = []
    for document in documents:
        ids += [*tokenizer.convert_tokens_to_ids(tokenizer.tokenize(document)), tokenizer.sep_token_id]
    return ids


def test_documents_are_packed_without_padding(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    blocks = load_blocks(prepare(corpus, tokenizer, tmp_path, None))
    for rows, documents in ((blocks.train, TRAIN), (blocks.validation, VALIDATION)):
        expected = stream(tokenizer, documents)
        assert len(rows) == len(expected) // 6 > 0
        assert rows[:, 1:-1].ravel().tolist() == expected[: 6 * len(rows)], "only the incomplete last piece is missing"
        assert set(rows[:, 0]) == {tokenizer.cls_token_id} and set(rows[:, -1]) == {tokenizer.sep_token_id}
        assert isinstance(rows, np.memmap) and rows.dtype == np.uint16
    counts = blocks.manifest["splits"]["train"]
    text = len(stream(tokenizer, TRAIN))
    assert counts == {
        "documents": 3, "tokens": text - 3, "blocks": len(blocks.train),
        "unknown": 0, "with_capitals": 3, "cut": text % 6,
    }  # fmt: skip
    assert (blocks.vocab_size, blocks.mask_token_id, blocks.pad_token_id) == (len(tokenizer), 4, 0)
    assert blocks.special_ids == (0, 1, 2, 3, 4)


def test_lines_are_wrapped_cut_and_padded(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    lines = ["the old house", "", "= a book =", "it lies on the river and many people came to see it"]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.txt").write_text("".join(f" {line} \n" for line in lines))
    corpus = Corpus(source=str(tmp_path), packing="lines", block_size=9)
    rows = load_blocks(prepare(corpus, tokenizer, tmp_path / "cache", None)).train
    expected = tokenizer(lines, truncation=True, max_length=9, padding="max_length")["input_ids"]
    assert rows.tolist() == expected


def test_blocks_do_not_depend_on_how_much_is_tokenised_at_once(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_blocks(prepare(corpus, tokenizer, tmp_path / "whole", None))
    monkeypatch.setattr(document_tokens, "CHARACTERS_AT_ONCE", 1)
    parts = load_blocks(prepare(corpus, tokenizer, tmp_path / "parts", None))
    assert whole.manifest == parts.manifest, "files' hashes among it"


def test_a_long_text_without_blank_lines_is_cut_at_the_ends_of_lines(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in memory at a time then has a bound."""
    monkeypatch.setattr(sources, "LONGEST_DOCUMENT", 30)
    (Path(corpus.source) / "train.txt").write_text("The old house.\nA book near the lake.\nParis.\n\nSome cats.")
    blocks = load_blocks(prepare(corpus, tokenizer, tmp_path, None))
    assert blocks.manifest["splits"]["train"]["documents"] == 3
    expected = stream(tokenizer, ["The old house.\nA book near the lake.", "Paris.", "Some cats."])
    assert blocks.train[:, 1:-1].ravel().tolist() == expected[: 6 * len(blocks.train)]


def test_a_long_row_stays_one_document(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "LONGEST_DOCUMENT", 5)
    for split in ("train", "validation"):
        (Path(corpus.source) / f"{split}.txt").unlink()
        (Path(corpus.source) / f"{split}.jsonl").write_text('{"text": "The old house.\\n\\nA book."}\n')
    blocks = load_blocks(prepare(corpus, tokenizer, tmp_path, None))
    assert blocks.manifest["splits"]["train"]["documents"] == 1


def test_the_mark_of_unknown_words_becomes_the_tokenizers(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.txt").write_text("the <unk>, a <unk>; <unk>. house")
    corpus = Corpus(source=str(tmp_path), block_size=9)
    rows = load_blocks(prepare(corpus, tokenizer, tmp_path / "cache", None)).train
    assert tokenizer.convert_ids_to_tokens(rows[0])[1:7] == ["the", "[UNK]", ",", "a", "[UNK]", ";"]


def test_a_prepared_corpus_is_not_prepared_again(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = prepare(corpus, tokenizer, tmp_path / "cache", None)
    before = (folder / "manifest.json").stat()
    tokenizer("a call that sets truncation", truncation=True, max_length=4, padding="max_length")
    assert prepare(corpus, tokenizer, tmp_path / "cache", None) == folder
    assert (folder / "manifest.json").stat() == before
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name], "nothing temporary is left"


def test_the_key_tells_settings_content_and_tokenizer_apart(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    other_tokenizer = copy.deepcopy(tokenizer)
    other_tokenizer.add_tokens(["seine"])
    assert tokenizer_hash(other_tokenizer) != tokenizer_hash(tokenizer)
    folders = [
        prepare(corpus, tokenizer, tmp_path, None),
        prepare(replace(corpus, block_size=9), tokenizer, tmp_path, None),
        prepare(replace(corpus, max_train_documents=2), tokenizer, tmp_path, None),
        prepare(corpus, other_tokenizer, tmp_path, None),
    ]
    (Path(corpus.source) / "train.txt").write_text("\n\n".join(TRAIN[::-1]))
    assert len({*folders, prepare(corpus, tokenizer, tmp_path, None)}) == 5


def test_a_file_that_is_read_in_another_way_is_another_text(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for name in ("train", "validation"):
        (folder / f"{name}.txt").write_text('{"text": "The student learns from the teacher."}\n' * 9)
    corpus = Corpus(source=str(folder), block_size=8)
    as_text = prepare(corpus, tokenizer, tmp_path, None)
    for name in ("train", "validation"):
        (folder / f"{name}.txt").rename(folder / f"{name}.jsonl")
    as_rows = prepare(corpus, tokenizer, tmp_path, None)
    assert as_rows != as_text
    tokens = [load_blocks(made).manifest["splits"]["train"]["tokens"] for made in (as_text, as_rows)]
    assert tokens[1] < tokens[0]


def test_how_tokens_attend_is_no_matter_of_the_blocks(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = prepare(corpus, tokenizer, tmp_path, None)
    assert prepare(replace(corpus, attention="documents"), tokenizer, tmp_path, None) == folder


def test_the_tokens_of_the_training_blocks_are_counted(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    blocks = load_blocks(prepare(corpus, tokenizer, tmp_path, None))
    expected = [int((blocks.train == token).sum()) for token in range(len(tokenizer))]
    assert blocks.token_counts.tolist() == expected and sum(expected) == blocks.train.size
    assert blocks.sep_token_id == tokenizer.sep_token_id
    assert (blocks.continues_word == continues_word(tokenizer)).all()


def test_later_pieces_of_wordpiece_are_marked(tokenizer: PreTrainedTokenizerFast) -> None:
    vocabulary = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert continues_word(tokenizer).tolist() == [token.startswith("##") for token in vocabulary]
    assert continues_word(tokenizer).any()


TEXT = ["the student learns, the teacher teaches; students learn"] * 5
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def test_with_byte_level_bpe_tokens_without_a_space_before_them_go_on_with_a_word() -> None:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    raw.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=60, special_tokens=SPECIAL_TOKENS, show_progress=False)
    )
    raw.add_tokens([AddedToken("|||MAIL|||", normalized=False)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )
    continues = continues_word(tokenizer)
    ids = tokenizer(" students |||MAIL|||, learn", add_special_tokens=False)["input_ids"]
    text = "".join(("" if continues[i] else "|") + tokenizer.convert_ids_to_tokens(i) for i in ids)
    assert text == "|Ġstudents|Ġ||||MAIL|||,|Ġlearn"
    assert not continues[tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS)].any()


def test_with_sentencepiece_tokens_without_its_mark_go_on_with_a_word() -> None:
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.train_from_iterator(
        TEXT,
        trainers.UnigramTrainer(vocab_size=40, special_tokens=SPECIAL_TOKENS, unk_token="<unk>", show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )
    continues = continues_word(tokenizer)
    ids = tokenizer("students, learn the", add_special_tokens=False)["input_ids"]
    text = "".join(("" if continues[i] else "|") + tokenizer.convert_ids_to_tokens(i) for i in ids)
    assert text == "|▁students,|▁learn|▁the" and len(ids) > 3


def test_a_vocabulary_of_words_has_no_later_pieces() -> None:
    assert not continues_word(word_tokenizer(20, cls_token="<s>", sep_token="</s>", mask_token="<mask>")).any()


def test_two_at_once_give_one_sound_folder(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        tokenizers = [copy.deepcopy(tokenizer) for _ in range(4)]
        folders = set(pool.map(lambda copied: prepare(corpus, copied, tmp_path / "cache", None), tokenizers))
    assert len(folders) == 1 and len(list((tmp_path / "cache").iterdir())) == 1
    assert len(load_blocks(folders.pop()).train)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_split_shorter_than_a_block_is_refused(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, split: str
) -> None:
    (Path(corpus.source) / f"{split}.txt").write_text("A book.\n")
    with pytest.raises(
        UserError, match=f"{split} split: expected text for a block of 8 tokens, found . tokens in 1 docu"
    ):
        prepare(corpus, tokenizer, tmp_path / "cache", None)
    assert not list((tmp_path / "cache").glob("tokens-*[0-9a-f]")), "nothing is finished"
    assert not list((tmp_path / "cache").glob(".*lock"))


def test_a_changed_folder_is_refused(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    folder = prepare(corpus, tokenizer, tmp_path, None)
    content = bytearray((folder / "train.npy").read_bytes())
    content[-1] ^= 1
    (folder / "train.npy").write_bytes(content)
    with pytest.raises(UserError, match=rf"train\.npy: .* delete {folder}"):
        load_blocks(folder)


def test_damaged_blocks_are_made_anew_and_named(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = prepare(corpus, tokenizer, tmp_path, None)
    whole = (folder / "train.npy").read_bytes()
    (folder / "train.npy").write_bytes(whole[:-1])
    assert prepare(corpus, tokenizer, tmp_path, None) == folder
    assert (folder / "train.npy").read_bytes() == whole
    assert f"making token blocks again: {folder / 'train.npy'}" in capsys.readouterr().err


def word_tokenizer(size: int, **special: str) -> PreTrainedTokenizerFast:
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}
    vocabulary |= {f"w{number}": number for number in range(5, size)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", **special)


@pytest.mark.parametrize(("size", "dtype"), [(2**16, np.uint16), (2**16 + 1, np.uint32)])
def test_ids_take_the_room_that_the_vocabulary_needs(tmp_path: Path, size: int, dtype: type) -> None:
    """Also with special tokens named as RoBERTa names them."""
    text = f"w{size - 1} w7 <unk> w8 w9"
    for split in ("train", "validation"):
        (tmp_path / f"{split}.txt").write_text(text)
    tokenizer = word_tokenizer(size, cls_token="<s>", sep_token="</s>", mask_token="<mask>")
    blocks = load_blocks(prepare(Corpus(source=str(tmp_path), block_size=8), tokenizer, tmp_path / "cache", None))
    assert blocks.train.dtype == dtype
    assert blocks.train.tolist() == [[0, size - 1, 7, 3, 8, 9, 2, 2]]


def test_a_tokenizer_without_a_mask_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    tokenizer = word_tokenizer(10, cls_token="<s>", sep_token="</s>")
    with pytest.raises(UserError, match="none for mask"):
        prepare(corpus, tokenizer, tmp_path, None)


def test_what_the_tokenizer_and_the_blocks_lose_is_counted_also_from_the_cache(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for split in ("train", "valid"):
        (folder / f"{split}.txt").write_text(
            "small words of a text that is longer than a block\nLARGE \u4e00 words\n" * 9
        )
    corpus = Corpus(source=str(folder), packing="lines", block_size=8)
    for _ in range(2):
        notices.begin()
        prepare(corpus, tokenizer, tmp_path / "cache", None)
        (line,) = notices.all_notices()
        assert "18 tokens unknown to the tokenizer (" in line and "the capitals in 18 of 36 documents" in line
        assert "tokens cut off lines that are longer than a block" in line
        (path,) = (tmp_path / "cache").glob("tokens-*")
        tokens = sum(counts["tokens"] for counts in load_blocks(path).manifest["splits"].values())
        assert f"lost of the {tokens:,} tokens of its text: " in line, "what is cut is among them"

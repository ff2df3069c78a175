"""Texts in the tokens of their words are the tokens of the texts, whatever characters they have."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tinydistilbert.data import word_tokens
from tinydistilbert.data.word_tokens import WordTokens, is_cut_at_spaces
from tinydistilbert.tasks import whole_inputs

HARD = [
    " ", "  ", "\t", "\n", "\x1c", "\u0085", "\u00a0", "\u3000", "\u200d", "\ufeff", "\u00ad", "\u0301", "e\u0301", "é",
    "İ", "ς", "Σ", "ß", "ﬁ", "中", "文", "한", "क", "\u093c", "🇩🇪", "[SEP]", "[MASK]", " [MASK]", "[UNK]", "[", "]",
    "##", "don't", "a" * 101, "1.5", "—", "\x00",
]  # fmt: skip


@pytest.fixture(scope="module")
def bert() -> PreTrainedTokenizerFast:
    """A tokenizer of BERT's kind with a few words, all letters, and a mask that takes the space before it."""
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghijklmnopqrstuvwxyz0123456789'.[]-",
        "don",
        "the",
        "中",
    ]
    words += ["##" + letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
    raw = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    raw.add_special_tokens([AddedToken("[MASK]", lstrip=True), "[CLS]", "[SEP]", "[UNK]", "[PAD]"])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    )  # fmt: skip


TEXTS = st.lists(
    st.one_of(st.sampled_from(HARD), st.sampled_from("ab c"), st.characters(exclude_categories=["Cs"]))
).map("".join)


@given(st.lists(TEXTS, min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_the_tokens_of_words_are_those_of_the_text(bert: PreTrainedTokenizerFast, texts: list[str]) -> None:
    backend = bert.backend_tokenizer
    assert is_cut_at_spaces(backend)
    ids, counts = WordTokens(backend)(texts)
    backend.no_truncation()
    whole = [encoding.ids for encoding in backend.encode_batch(texts, add_special_tokens=False)]
    assert counts.tolist() == [len(row) for row in whole]
    assert ids.tolist() == [token for row in whole for token in row]


@given(
    st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6),
    st.integers(5, 12),
    st.booleans(),
    st.sampled_from([0, 99]),
)
@settings(max_examples=100, deadline=None)
def test_inputs_are_those_of_the_tokenizer(
    bert: PreTrainedTokenizerFast, rows: list[tuple[str, str]], max_length: int, are_pairs: bool, few_texts: int
) -> None:
    """Special tokens, types, and what is cut of texts that are too long: by words, and by the tokenizer itself."""
    texts, pairs = [first for first, _ in rows], [second for _, second in rows] if are_pairs else None
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(whole_inputs, "FEW_TEXTS", few_texts)
        encoded = whole_inputs.encoder_of(bert, max_length)(texts, pairs)
    called = bert(texts, pairs, truncation=True, max_length=max_length, return_token_type_ids=True)
    assert encoded.lengths.tolist() == [len(row) for row in called["input_ids"]]
    assert encoded.ids.tolist() == [token for row in called["input_ids"] for token in row]
    assert encoded.types.tolist() == [kind for row in called["token_type_ids"] for kind in row]
    whole = bert(texts, pairs, verbose=False)["input_ids"]
    assert encoded.lost.tolist() == [max(0, len(row) - max_length) for row in whole]


def test_words_are_forgotten_when_they_are_many(bert: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_tokens, "MOST_WORDS", 3)
    tokens_of = WordTokens(bert.backend_tokenizer)
    texts = ["a b c", "d e the", "a the b f", "don't a"]
    parts = [tokens_of([text])[0] for text in texts]
    assert np.array_equal(np.concatenate(parts), WordTokens(bert.backend_tokenizer)(texts)[0])


def test_other_tokenizers_are_asked_for_whole_texts(bert: PreTrainedTokenizerFast) -> None:
    """Where spaces belong to tokens, a word's tokens depend on what stands before it."""
    raw = Tokenizer.from_str(bert.backend_tokenizer.to_str())
    raw.add_tokens([AddedToken("the don")])
    assert not is_cut_at_spaces(raw)
    raw = Tokenizer.from_str(bert.backend_tokenizer.to_str())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    assert not is_cut_at_spaces(raw)


def test_special_tokens_of_a_text_that_is_cut_are_read_as_those_of_others(bert: PreTrainedTokenizerFast) -> None:
    """A tokenizer that is asked to read [SEP] in a text as letters does so in texts that are too long, too."""
    raw = Tokenizer.from_str(bert.backend_tokenizer.to_str())
    raw.encode_special_tokens = True
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, cls_token="[CLS]", sep_token="[SEP]")
    tokenizer.backend_tokenizer.encode_special_tokens = True
    encode = whole_inputs.encoder_of(tokenizer, 8)
    short, long = encode(["a [SEP]"], None), encode(["a [SEP] b c d e f"], None)
    assert long.lost.tolist() == [5]
    assert long.ids[:7].tolist() == short.ids[:7].tolist()
    assert 3 not in long.ids[:7]


def test_threads_share_the_known_words(bert: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_tokens, "MOST_WORDS", 20)  # so that they are forgotten all the time
    tokens_of, letters = WordTokens(bert.backend_tokenizer), "abcdefghij"
    groups = [[f"{a}{b} {b}{c}" for b in letters for c in letters] for a in letters]
    expected = [WordTokens(bert.backend_tokenizer)(group)[0].tolist() for group in groups]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert [encoding[0].tolist() for encoding in pool.map(tokens_of, groups)] == expected

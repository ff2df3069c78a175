"""More texts like the train examples: unlabelled copies in which a masked LM replaces words.

The idea is TinyBERT's (Jiao et al. 2020, arXiv 1909.10351, Algorithm 1); teachers label the copies. Differences: all
examples go through the model together; several words of a long text are hidden at once; every word of letters may be
replaced, including function words (which TinyBERT skips) and words of several pieces (which TinyBERT looks up in
GloVe); and both texts of a pair are used unchanged.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tinydistilbert.data.randomness import generator
from tinydistilbert.data.seen_texts import SeenTexts, hashes_of
from tinydistilbert.data.word_pieces import continues_word
from tinydistilbert.finetuning.word_spans import Words, find_words, is_word
from tinydistilbert.models.heads import vocabulary_input, vocabulary_matrix, vocabulary_size
from tinydistilbert.models.loading import longest_input
from tinydistilbert.models.torch_runtime import uses_token_types
from tinydistilbert.notices import counted
from tinydistilbert.progress import Progress
from tinydistilbert.recipe.schema import TaskDistillation
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.columns import nothing
from tinydistilbert.tasks.inference import batches_by_length

EXAMPLES_AT_ONCE = 4096
"""Examples whose words and proposals are in memory together, enough to form batches of similar length."""
COPIES_AT_ONCE = 100_000
"""Most copies in memory together, unless a single example has more."""
HIDDEN_SHARE = 0.15
"""Largest share of an example's words hidden at once: the share that masked LMs are trained with."""
POSITIONS = 256
"""Hidden words whose logits are in memory at a time."""


@dataclass(frozen=True)
class Proposals:
    """Possible replacements of each word of some examples."""

    words: Words
    candidates: Int[np.ndarray, "words candidates"]
    """Indices into `spellings`, the likeliest first, padded with -1."""
    spellings: Sequence[str]
    """The words that can be proposed."""
    lower_cased: bool
    """Whether the spellings are in lower case because the tokenizer lower-cases all text."""


def augment(
    examples: Examples,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    settings: TaskDistillation,
    *,
    seed: int,
    device: torch.device,
    log: Callable[[str], None],
    max_length: int,
) -> Iterator[Examples]:
    """Yield copies of `examples`, at most `settings.augment` of each; only `examples` is read.

    Copies come in parts, in the order of the examples. Memory holds the words, proposals and copies of one part, and
    the hashes of all other copies. Up to rounding, the copies do not depend on the parts.

    Args:
        examples: of a classification or regression task.
        model: masked LM.
        tokenizer: its tokenizer.
        settings: how many copies, and how they are made.
        seed: of the replacements in each copy.
        device: where to compute.
        log: called with a line about the amount of work.
        max_length: tokens of an example that are read; words after them are never replaced.
    """
    vocabulary, seen = Vocabulary.of(tokenizer, vocabulary_size(model)), SeenTexts()
    seen.add_all(examples.each_text())
    total, at_once = len(examples), max(1, min(EXAMPLES_AT_ONCE, COPIES_AT_ONCE // max(settings.augment, 1)))
    made, without, tokens, progress = 0, total, 0, Progress("augmentation", total)
    for begin in range(0, total, at_once):
        end = min(begin + at_once, total)
        columns = examples.take(range(begin, end)).columns
        part = replace(examples, columns={name: [*values] for name, values in columns.items()})  # read repeatedly
        which = "" if end - begin == total else f" (examples {begin + 1:,} to {end:,} of {total:,})"

        def log_part(line: str, which: str = which) -> None:
            log(line + which)

        def show(share: float, read: int, begin: int = begin, count: int = end - begin) -> None:
            nonlocal tokens
            tokens += read
            if progress.wants(done := begin + round(share * count)):
                progress.show(done, tokens, {})

        proposals = propose(
            part.columns["text"], part.columns.get("text_pair"), model, tokenizer, vocabulary,
            candidates=settings.augment_candidates, device=device, max_length=max_length,
            log=log_part, show=show,
        )  # fmt: skip
        copies = augmented(part, proposals, seen, copies=settings.augment, share=settings.augment_share, seed=seed)
        made, without = made + len(copies), without - len({*copies.columns["idx"]})
        if len(copies):
            yield copies
    if made < (most := settings.augment * total):
        left_out = f"{most - made:,} of {counted(most, 'copy', 'copies')} left out, as they equal another text"
        log(f"augmentation: {left_out}; {counted(without, 'example')} without a copy")


def questions_alone(examples: Examples) -> Examples:
    """Return the questions of a span task as texts; `idx` is the position of each among the examples."""
    task = replace(examples.task, kind="classification", text_pair=None)
    count = len(examples)
    columns = {"idx": range(count), "text": examples.columns["question"], "label": nothing(count)}
    return Examples(task, examples.split, columns, count)


def propose(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    vocabulary: "Vocabulary",
    *,
    candidates: int,
    device: torch.device,
    max_length: int,
    token_budget: int | None = None,
    log: Callable[[str], None],
    show: Callable[[float, int], None],
) -> Proposals:
    """Return the likeliest other words for each word, proposed by a masked LM that sees the rest of the example.

    Words are those of `find_words`; one [MASK] hides all pieces of a word. Proposals are single tokens of letters that
    begin a word and differ from the word in more than case. An example goes through the model as often as needed to
    hide each word once; the passes of all examples are sorted by length and cut into batches of at most `token_budget`
    tokens. Up to rounding, the result does not depend on the budget.

    Args:
        texts: first texts.
        pairs: second texts, if any, as many as first ones.
        model: masked LM; left in evaluation mode.
        tokenizer: its tokenizer.
        vocabulary: of model and tokenizer.
        candidates: most proposals for a word.
        device: where to compute.
        max_length: tokens of an example that are read, or fewer if the model has fewer positions.
        token_budget: tokens in a batch, padding included; by default 2,048 on CPUs, whose caches do not hold more (a
            fifth faster than 8,192), and 8,192 elsewhere.
        log: called with a line about the amount of work.
        show: called after each batch with the share of all batches that is done, and the tokens of this one.
    """
    all_words = find_words(texts, pairs, tokenizer, min(max_length, longest_input(model.config)))
    same_ids = vocabulary.numbers(all_words, texts, pairs, tokenizer)
    passes = passes_of(np.diff(all_words.word_ends))
    example = np.repeat(np.arange(len(texts)), passes)
    number = np.arange(len(example)) - np.repeat(np.cumsum(passes) - passes, passes)
    token_budget = token_budget or (2048 if device.type == "cpu" else 8192)
    batches = batches_by_length(np.diff(all_words.token_ends)[example], token_budget)
    log(f"augmentation: {len(same_ids):,} words of {len(texts):,} examples to guess in {len(example):,} passes")
    proposed = np.full((len(same_ids), candidates), -1, dtype=np.int32)
    model.to(device).eval()
    with torch.inference_mode():
        guess = vocabulary.guesser(model, candidates)
        for step, chosen in enumerate(batches, 1):
            words, hidden, inputs = _hide(all_words, example[chosen], number[chosen], passes, tokenizer)
            tokens = int(inputs["attention_mask"].sum())
            if not uses_token_types(model):
                del inputs["token_type_ids"]
            states = model.base_model(**{name: value.to(device) for name, value in inputs.items()}).last_hidden_state
            parts = states[hidden.to(device)].split(POSITIONS)
            for some, part in zip(np.split(words, range(POSITIONS, len(words), POSITIONS)), parts, strict=True):
                proposed[some] = guess(part, same_ids[some])
            show(step / len(batches), tokens)
    return Proposals(all_words, proposed, vocabulary.spellings, _lower_cases(tokenizer))


def passes_of(words: Int[np.ndarray, " examples"]) -> Int[np.ndarray, " examples"]:
    """Return the passes of an example of so many words: each hides `HIDDEN_SHARE` of them, at least one word."""
    at_once = np.maximum(1, np.floor(HIDDEN_SHARE * words).astype(np.int64))
    return -(-words // at_once)


def _hide(
    all_words: Words,
    examples: Int[np.ndarray, " batch"],
    numbers: Int[np.ndarray, " batch"],
    passes: Int[np.ndarray, " examples"],
    tokenizer: PreTrainedTokenizerFast,
) -> tuple[Int[np.ndarray, " hidden"], Bool[Tensor, "batch length"], dict[str, Tensor]]:
    """Make a batch of passes, each of which replaces every n-th word of an example by one [MASK], for n passes.

    Args:
        all_words: of all examples.
        examples: the example of each pass.
        numbers: the number of each pass within its example: pass k hides the words k, k + passes, k + 2 passes, ...
        passes: of each example.
        tokenizer: has the ids of [MASK] and padding.

    Returns:
        The hidden words, in the order of rows and then of positions; where they are; and the model's inputs.
    """
    rows, words = [], []
    for example, number in zip(examples, numbers, strict=True):
        tokens = slice(all_words.token_ends[example], all_words.token_ends[example + 1])
        word = all_words.word[tokens]
        hidden = (word >= 0) & (word % passes[example] == number)
        kept = ~hidden | (word != np.concatenate(([-1], word[:-1])))
        ids = np.where(hidden, tokenizer.mask_token_id, all_words.input_ids[tokens])
        rows.append(np.stack((ids, np.ones_like(ids), all_words.token_type_ids[tokens], hidden))[:, kept])
        words.append(
            np.arange(all_words.word_ends[example] + number, all_words.word_ends[example + 1], passes[example])
        )
    batch = np.zeros((4, len(rows), max(row.shape[1] for row in rows)), dtype=np.int64)
    batch[0] = tokenizer.pad_token_id
    for index, row in enumerate(rows):
        batch[:, index, : row.shape[1]] = row
    ids, mask, types, hidden = torch.from_numpy(batch)
    return np.concatenate(words), hidden.bool(), {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that can be proposed."""

    ids: Int[np.ndarray, " proposable"]
    spellings: list[str]
    same: Int[np.ndarray, " proposable"]
    """A number shared by spellings that differ only in case."""
    number: dict[str, int]
    """That number for each spelling in lower case."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, rows: int) -> "Vocabulary":
        """Return that of a model whose vocabulary has `rows` rows; the tokenizer may know fewer tokens, or more."""
        excluded = continues_word(tokenizer)
        excluded[tokenizer.all_special_ids] = True
        spelt = {
            number: tokenizer.convert_tokens_to_string([token]).strip()
            for token, number in tokenizer.get_vocab().items()
            if number < rows and not excluded[number]
        }
        spellings = {number: spelt[number] for number in sorted(spelt) if is_word(spelt[number])}
        number: dict[str, int] = {}
        same = [number.setdefault(text.casefold(), len(number)) for text in spellings.values()]
        ids = np.array(list(spellings), dtype=np.int64)
        return cls(ids, list(spellings.values()), np.array(same, dtype=np.int64), number)

    def numbers(
        self, words: Words, texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: PreTrainedTokenizerFast
    ) -> Int[np.ndarray, " words"]:
        """Return for each word the number in `same` of the tokens that spell it; -1 if there are none."""
        normalizer = tokenizer.backend_tokenizer.normalizer

        @functools.lru_cache(maxsize=2**16)
        def number(word: str) -> int:
            # Tokens are cut from normalised text, which may lack accents.
            plain = normalizer.normalize_str(word).strip() if normalizer else word
            return self.number.get(plain.casefold(), -1)

        example = np.repeat(np.arange(len(texts)), np.diff(words.word_ends))
        spans = zip(example, words.second, words.begin, words.end, strict=True)
        spelt = ((pairs if second and pairs else texts)[int(row)][begin:end] for row, second, begin, end in spans)
        return np.fromiter(map(number, spelt), np.int64, len(example))

    def guesser(self, model: PreTrainedModel, candidates: int) -> Callable[..., Int[np.ndarray, "words candidates"]]:
        """Return the masked-LM head over these tokens only, from hidden states and `numbers` to `spellings` indices."""
        matrix, bias = vocabulary_matrix(model)
        ids = torch.from_numpy(self.ids).to(matrix.device)
        matrix, bias = matrix[ids], None if bias is None else bias[ids]
        most = min(candidates + int(np.bincount(self.same).max()), len(ids))

        def guess(
            states: Float[Tensor, "words hidden"], same_ids: Int[np.ndarray, " words"]
        ) -> Int[np.ndarray, "words candidates"]:
            top = F.linear(vocabulary_input(model, states), matrix, bias).topk(most).indices.cpu().numpy()
            top = np.where(self.same[top] == same_ids[:, None], -1, top)
            others_first = np.argsort(top < 0, axis=1, kind="stable")[:, :candidates]
            best = np.full((len(top), candidates), -1)
            best[:, : others_first.shape[1]] = np.take_along_axis(top, others_first, axis=1)
            return best

        return guess


def _lower_cases(tokenizer: PreTrainedTokenizerFast) -> bool:
    normalizer = tokenizer.backend_tokenizer.normalizer
    return normalizer is not None and "a" in normalizer.normalize_str("A")


def augmented(
    examples: Examples, proposals: Proposals, seen: SeenTexts, *, copies: int, share: float, seed: int
) -> Examples:
    """Return the copies: a pure function of the arguments; an example's draws depend only on its `idx` and words.

    Each word of a copy is replaced with probability `share` by one of its proposals, drawn uniformly; if that replaces
    no word, the word with the lowest draw is replaced. Copies that were `seen` before, or equal an earlier one, are
    left out, and examples without a proposal have none. A larger `copies` returns the same copies and further ones.

    Args:
        examples: of a classification or regression task.
        proposals: for their words.
        seen: holds the texts of all examples, and the copies of earlier ones; the copies are added.
        copies: most copies of an example.
        share: of the words that are replaced.
        seed: of the draws.

    Returns:
        Columns `idx` (of the original), `text`, `text_pair` if the task has one, and `label`, which is always None.
    """
    assert examples.task.kind != "span", "an answer's place in the context would be lost"
    names = [name for name in ("text", "text_pair") if name in examples.columns]
    columns: dict[str, list[object]] = {name: [] for name in ("idx", *names)}
    originals = list(zip(*(examples.columns[name] for name in names), strict=True))
    for index, (idx, original) in enumerate(zip(examples.columns["idx"], originals, strict=True)):
        first, end = proposals.words.word_ends[index : index + 2]
        random = generator("augmentation", seed, idx)
        drawn = _drawn(proposals.candidates[first:end], copies, share, random)
        made = [_replaced(original, proposals, first, of_copy) for of_copy in drawn]
        for copy, is_new in zip(made, seen.add(hashes_of(made)).tolist(), strict=True):
            if is_new:
                for name, value in zip(columns, (idx, *copy), strict=True):
                    columns[name].append(value)
    columns["label"] = [None] * len(columns["idx"])
    return replace(examples, columns=columns, total=len(columns["idx"]))


def _drawn(
    candidates: Int[np.ndarray, "words candidates"], copies: int, share: float, random: np.random.Generator
) -> Iterable[Int[np.ndarray, " words"]]:
    """Return for each copy the index into `spellings` of each word's replacement; -1 where the word stays."""
    counts = (candidates >= 0).sum(axis=1)
    if not counts.any():
        return ()
    chances, draws = random.random((copies, 2, len(counts))).swapaxes(0, 1)
    chances = np.where(counts > 0, chances, np.inf)
    chosen = (chances < share) | (chances == chances.min(axis=1, keepdims=True))
    return np.where(chosen, candidates[np.arange(len(counts)), (draws * counts).astype(np.int64)], -1)


def _replaced(
    original: tuple[str, ...], proposals: Proposals, first: int, drawn: Int[np.ndarray, " words"]
) -> tuple[str, ...]:
    """Return the texts with the drawn words in place of theirs, the first of which is word `first` of all examples.

    Every other character stays as it is.
    """
    words = proposals.words
    parts: list[list[str]] = [[] for _ in original]
    done = [0] * len(original)
    for word in np.flatnonzero(drawn >= 0):
        text, begin, end = int(words.second[first + word]), words.begin[first + word], words.end[first + word]
        spelling = proposals.spellings[int(drawn[word])]
        if proposals.lower_cased:
            spelling = _in_case_of(original[text][begin:end], spelling)
        parts[text] += original[text][done[text] : begin], spelling
        done[text] = end
    return tuple("".join(part) + text[end:] for part, text, end in zip(parts, original, done, strict=True))


def _in_case_of(word: str, spelling: str) -> str:
    """Return a lower-case spelling with the capitals of `word`."""
    if len(word) > 1 and word.isupper():
        return spelling.upper()
    return spelling[:1].upper() + spelling[1:] if word[:1].isupper() else spelling

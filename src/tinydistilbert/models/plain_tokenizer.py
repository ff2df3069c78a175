"""The tokenizer of an exported folder without transformers: `tokenizer.json` in the `tokenizers` library.

It supports those calls of transformers' fast tokenizers that this package uses, and returns the same tokens.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from tinydistilbert.errors import UserError, as_user_error
from tinydistilbert.models import untrusted

FILE = "tokenizer.json"
FIX = "export the model again"


class Encodings(dict[str, list[Any]]):
    """The columns of encoded texts, a row for each text or window, like transformers' `BatchEncoding`."""

    def __init__(self, columns: dict[str, list[Any]], encodings: Sequence[Encoding]) -> None:
        super().__init__(columns)
        self.encodings = encodings

    def sequence_ids(self, row: int) -> list[int | None]:
        """Return each token's text in a row: 0, 1 for the second of a pair, None for special tokens."""
        ids: list[int | None] = self.encodings[row].sequence_ids
        return ids


class PlainTokenizer:
    """Turns texts into tokens; made by `load_plain_tokenizer`.

    Args:
        backend: reads and splits the texts.
        pad_token_id: fills shorter inputs; None = the file has none.
        truncation_side: the end at which inputs that are too long lose tokens.
        model_max_length: tokens that the model reads, according to the file.
    """

    only_by_call = False
    """Whether `backend_tokenizer` alone cannot make the model's inputs."""

    def __init__(
        self, backend: Tokenizer, pad_token_id: int | None, truncation_side: str = "right",
        model_max_length: float = math.inf,
    ) -> None:  # fmt: skip
        self.backend_tokenizer, self.pad_token_id = backend, pad_token_id
        self.truncation_side, self.model_max_length = truncation_side, model_max_length

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return the number of special tokens around a text, or around a pair."""
        count: int = self.backend_tokenizer.num_special_tokens_to_add(pair)
        return count

    def __call__(
        self, text: str | Sequence[str], text_pair: str | Sequence[str] | None = None, *,
        add_special_tokens: bool = True, truncation: bool | str = False, max_length: int | None = None,
        stride: int = 0, return_overflowing_tokens: bool = False, return_offsets_mapping: bool = False,
        return_token_type_ids: bool = True, return_attention_mask: bool = True, verbose: bool = True,
    ) -> Encodings:  # fmt: skip
        """Return the tokens of one text, or of many; the arguments are those of transformers' tokenizers.

        Args:
            text: one or many.
            text_pair: the second texts.
            add_special_tokens: put the special tokens around them.
            truncation: True = the longest text first, `only_second`, or another strategy of the library.
            max_length: in tokens, for `truncation`.
            stride: tokens that neighbouring windows share.
            return_overflowing_tokens: return truncated tokens as further rows, and the text of each row.
            return_offsets_mapping: return the first character and the end of each token.
            return_token_type_ids: return which text of a pair each token is from.
            return_attention_mask: return a 1 for each token.
            verbose: ignored; transformers' tokenizers print warnings.
        """
        single = isinstance(text, str)
        texts, pairs = ([text], None if text_pair is None else [text_pair]) if single else (text, text_pair)
        if truncation and max_length is not None:
            strategy = "longest_first" if truncation is True else truncation
            self.backend_tokenizer.enable_truncation(
                max_length=max_length, stride=stride, strategy=strategy, direction=self.truncation_side
            )
        else:
            self.backend_tokenizer.no_truncation()
        given: Any = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        first = self.backend_tokenizer.encode_batch(given, add_special_tokens=add_special_tokens)
        rows, sources = [], []
        for source, encoding in enumerate(first):
            windows = [encoding, *(encoding.overflowing if return_overflowing_tokens else ())]
            rows += windows
            sources += [source] * len(windows)
        columns: dict[str, list[Any]] = {"input_ids": [row.ids for row in rows]}
        if return_token_type_ids:
            columns["token_type_ids"] = [row.type_ids for row in rows]
        if return_attention_mask:
            columns["attention_mask"] = [row.attention_mask for row in rows]
        if return_offsets_mapping:
            columns["offset_mapping"] = [row.offsets for row in rows]
        if return_overflowing_tokens:
            return Encodings({**columns, "overflow_to_sample_mapping": sources}, rows)
        return Encodings({name: values[0] for name, values in columns.items()} if single else columns, rows)


def load_plain_tokenizer(folder: Path, *, vocabulary_size: int) -> PlainTokenizer:
    """Load the tokenizer of an exported folder, with the truncation and padding of its file switched off.

    Args:
        folder: of the model.
        vocabulary_size: rows of the model's word embedding.

    Raises:
        UserError: there is no tokenizer.json, it cannot be read, it has token ids without an embedding in the model, or
            its files name code.
    """
    where = f"tokenizer of {folder}"
    untrusted.check_tokenizer(folder)
    if not (folder / FILE).is_file():
        raise UserError(where, expected=FILE, found="none", fix=FIX)
    with as_user_error(where, expected=f"a {FILE} that the tokenizers library reads", fix=FIX):
        backend = Tokenizer.from_file(str(folder / FILE))
    backend.no_truncation()
    backend.no_padding()
    largest = max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
    if not 0 <= largest < vocabulary_size:
        found = str(largest) if largest >= 0 else "no vocabulary"
        raise UserError(where, expected=f"token ids below {vocabulary_size}", found=found, fix=FIX)
    settings = _settings(folder)
    backend.encode_special_tokens = bool(settings.get("split_special_tokens"))
    pad = settings.get("pad_token")
    token = pad.get("content") if isinstance(pad, dict) else pad
    side = "left" if settings.get("truncation_side") == "left" else "right"
    length = settings.get("model_max_length")
    return PlainTokenizer(
        backend, backend.token_to_id(token) if isinstance(token, str) else None, side,
        length if isinstance(length, int | float) else math.inf,
    )  # fmt: skip


def _settings(folder: Path) -> dict[str, Any]:
    """Return the settings in the files beside `tokenizer.json`; the later one wins, as in transformers."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", untrusted.TOKENIZER_CONFIG):
        if (folder / name).is_file():
            settings |= untrusted.read_object(folder / name, fix=FIX)
    return settings

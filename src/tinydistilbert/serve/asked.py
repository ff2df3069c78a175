"""Parses request bodies into texts, by the API of text-embeddings-inference, which is extended by objects for pairs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from tinydistilbert.serve.limits import Limits
from tinydistilbert.serve.model import Served

KEYS = ("inputs", "truncate", "truncation_direction", "raw_scores")
PAIR_KEYS = (("text", "text_pair"), ("question", "context"))
VALIDATION, OVERLOADED, BACKEND, UNHEALTHY = "validation", "overloaded", "backend", "unhealthy"
"""Error types, named as in text-embeddings-inference."""
Input = tuple[str, str | None]
"""A text and, for pairs, the second text; for span models, a question and its context."""
FORMS = (
    'inputs is a text, a pair ["a", "b"], or a list of those, each in brackets: [["a"], ["b"]] or [["a", "b"], …]; '
    'pairs may be objects: {"text": "a", "text_pair": "b"}, or {"question": "a", "context": "b"}'
)


class Refused(Exception):
    """A refused request.

    Args:
        status: HTTP status.
        message: what is wrong, without any of the texts.
        error_type: type of the error.
        headers: additional headers of the answer.
    """

    def __init__(
        self, status: int, message: str, error_type: str = VALIDATION, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.error_type, self.headers = status, message, error_type, dict(headers or {})


@dataclass(frozen=True)
class Asked:
    """A parsed request."""

    inputs: list[Input]
    is_batch: bool
    """Whether the answer is a list of answers instead of one."""
    truncate: bool
    """Whether texts that are too long are cut; otherwise they are refused."""
    lengths: list[int] = field(default_factory=list)
    """Bytes of each input."""


def read_request(body: bytes, model: Served, limits: Limits) -> Asked:
    """Parse the body of a request.

    Raises:
        Refused: 400, it is not JSON; 422, it has another form, or texts that the model does not accept; 413, it has too
            many texts, or a text is too long.
    """
    content = _json(body)
    if not isinstance(content, dict):
        raise Refused(422, 'expected an object: {"inputs": "a text"}')
    if unknown := [key for key in content if key not in KEYS]:
        shown = json.dumps(unknown[0][:40])
        raise Refused(422, f"unknown key {shown}; expected {', '.join(KEYS)}")
    if "inputs" not in content:
        raise Refused(422, "expected the key inputs; " + FORMS)
    truncate = _flag(content, "truncate")
    if _flag(content, "raw_scores"):
        raise Refused(422, "raw_scores: this server returns only probabilities; leave it out")
    side = model.predictor.truncation_side
    direction = content.get("truncation_direction", side)
    if not isinstance(direction, str) or direction.lower() != side:
        raise Refused(422, f'truncation_direction: this model needs texts that are cut at the {side}; write "{side}"')
    inputs, is_batch = _inputs(content["inputs"], model.texts_per_input)
    if len(inputs) > limits.texts:
        raise Refused(413, f"{len(inputs):,} texts in one request; at most {limits.texts:,} are allowed")
    lengths = [_check(one, model, limits, number if is_batch else None) for number, one in enumerate(inputs)]
    return Asked(inputs, is_batch, truncate, lengths)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise Refused(400, "the body is not UTF-8") from None
    except RecursionError:
        raise Refused(400, "the body is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise Refused(400, f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except ValueError:  # a constant, or a number of more digits than Python reads
        raise Refused(
            400, "the body is not JSON: it has a number that JSON does not allow or that is too long"
        ) from None


def _no_constant(_word: str) -> NoReturn:
    raise ValueError


def _flag(content: Mapping[str, Any], key: str) -> bool:
    value = content.get(key)
    if value is not None and not isinstance(value, bool):
        raise Refused(422, f"{key}: expected true or false")
    return bool(value)


def _inputs(given: Any, texts: int | None) -> tuple[list[Input], bool]:
    """Return the texts, and whether they are a batch.

    Args:
        given: the value of `inputs`.
        texts: number of texts per input of the model; None = unknown, as for text-embeddings-inference, which then
            takes two strings in a list as a pair.

    Raises:
        Refused: it has another form.
    """
    if not isinstance(given, list):
        return [_one(given)], False
    if not given:
        raise Refused(422, "inputs is empty; " + FORMS)
    if not any(isinstance(one, str) for one in given):
        return [_one(one) for one in given], True
    if not all(isinstance(one, str) for one in given):
        raise Refused(422, "inputs mixes texts and lists; " + FORMS)
    if texts == 1:
        return [(one, None) for one in given], True
    return [_one(given)], False


def _one(given: Any) -> Input:
    if isinstance(given, str):
        return given, None
    if isinstance(given, list) and len(given) in (1, 2) and all(isinstance(part, str) for part in given):
        return given[0], given[1] if len(given) == 2 else None
    if isinstance(given, dict) and all(isinstance(part, str) for part in given.values()):
        for first, second in PAIR_KEYS:
            if first in given and {*given} <= {first, second}:
                return given[first], given.get(second)
    raise Refused(422, FORMS)


def _check(one: Input, model: Served, limits: Limits, number: int | None) -> int:
    """Check a text and its pair; return their length in bytes."""
    where = "inputs" if number is None else f"inputs[{number}]"
    count = 1 if one[1] is None else 2
    if model.texts_per_input is not None and count != model.texts_per_input:
        span = 'a question and its context, {"question": "…", "context": "…"}'
        wanted = span if model.predictor.kind == "span" else ("one text", "two texts")[model.texts_per_input - 1]
        raise Refused(422, f"{where}: this model takes {wanted}; found {count}")
    total = 0
    for text in one:
        try:
            size = len((text or "").encode("utf-8"))
        except UnicodeEncodeError:
            raise Refused(422, f"{where}: not a text: it has half of a surrogate pair") from None
        if size > limits.text_bytes:
            raise Refused(413, f"{where}: {size:,} bytes; a text may have at most {limits.text_bytes:,}")
        total += size
    return total

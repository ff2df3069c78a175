"""The application: four paths, JSON answers, and refusals instead of unlimited growth."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from tinydistilbert import __version__
from tinydistilbert.optional import require
from tinydistilbert.predictor import CUT, Prediction
from tinydistilbert.serve.asked import BACKEND, OVERLOADED, UNHEALTHY, VALIDATION, Asked, Refused, read_request
from tinydistilbert.serve.batches import Batcher, Full
from tinydistilbert.serve.limits import LIMITS, Limits
from tinydistilbert.serve.model import Served
from tinydistilbert.serve.openapi import openapi

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

CLOSE = {"Connection": "close"}
"""Headers of answers sent before the request was read."""
LATER = {"Retry-After": "1"}
FRONT = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
SURE = 1.0
"""The highest probability."""


def application(model: Served, batcher: Batcher, limits: Limits = LIMITS) -> "Starlette":
    """Return the application that answers `/predict`, `/health`, `/info` and `/openapi.json`.

    Args:
        model: the served model.
        batcher: answers the texts.
        limits: limits beyond which requests are refused.

    Raises:
        UserError: starlette is not installed.
    """
    require("starlette", extra="serve")
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
    from starlette.routing import Route

    facts, description = info(model, limits), openapi(model, limits)
    in_work = 0

    async def predict(request: "Request") -> "Response":
        nonlocal in_work
        if in_work >= limits.requests:
            raise Refused(503, "too many requests at the same time", OVERLOADED, LATER | CLOSE)
        in_work += 1
        try:
            asked = read_request(await _body(request, limits), model, limits)
            predictions = await _answers(request, batcher, asked)
        finally:
            in_work -= 1
        answers = [as_items(one, model.defer_below) for one in predictions]
        return _json(answers if asked.is_batch else answers[0])

    async def health(_request: "Request") -> "Response":
        if not batcher.is_alive:
            raise Refused(503, "the model no longer answers", UNHEALTHY)
        return _json({"status": "ok"})

    async def show_info(_request: "Request") -> "Response":
        return _json(facts)

    async def describe(_request: "Request") -> "Response":
        return _json(description)

    def guarded(answer: "Callable[[Request], Awaitable[Response]]") -> "Callable[[Request], Awaitable[Response]]":
        """Wrap a handler to answer every error; what it prints contains no text of a request."""

        async def answered(request: "Request") -> "Response":
            try:
                return await answer(request)
            except Refused as why:
                return _refusal(why.status, why.message, why.error_type, why.headers)
            except ClientDisconnect:
                return _refusal(400, "the client disconnected", VALIDATION, CLOSE)  # nobody reads it
            except Exception as error:
                print(f"serve: a request failed: {type(error).__name__}", file=sys.stderr, flush=True)
                return _refusal(500, "the server failed on this request", BACKEND, CLOSE)

        return answered

    async def no_such(_request: "Request", error: Exception) -> "Response":
        assert isinstance(error, HTTPException)
        paths = "POST /predict, GET /health, GET /info, GET /openapi.json"
        return _refusal(error.status_code, f"{error.detail}; the paths are {paths}", VALIDATION, error.headers)

    return Starlette(
        routes=[
            Route("/predict", guarded(predict), methods=["POST"]),
            Route("/health", guarded(health)),
            Route("/info", guarded(show_info)),
            Route("/openapi.json", guarded(describe)),
        ],
        exception_handlers={HTTPException: no_such},
    )


def info(model: Served, limits: Limits) -> dict[str, Any]:
    """Return the content of `/info`: the facts of text-embeddings-inference, and further ones."""
    names = dict(enumerate(model.predictor.labels))
    labels = {"id2label": {str(i): name for i, name in names.items()}, "label2id": {n: i for i, n in names.items()}}
    return {
        "model_id": model.name, "model_sha": model.sha256 or None, "model_dtype": model.precision,
        "model_type": {"classifier": labels}, "kind": model.predictor.kind, "texts_per_input": model.texts_per_input,
        "defer_below": None if model.defer_below is None else min(model.defer_below, SURE),
        "max_input_length": model.predictor.text_limit, "max_client_batch_size": limits.texts,
        "max_concurrent_requests": limits.requests, "max_waiting_texts": limits.waiting,
        "max_text_bytes": limits.text_bytes, "max_request_bytes": limits.request_bytes, "version": __version__,
    }  # fmt: skip


def as_items(answer: Prediction, defer_below: float | None) -> list[dict[str, Any]]:
    """Return a prediction in the form of text-embeddings-inference: labels with scores, the most probable first.

    Regressions, entities and answers to questions are a list of one. The first item has the facts about the whole
    answer: `defer`, if the folder records from which confidence its model agrees with its teacher, and `cut_tokens`.
    """
    whole = {key: answer[key] for key in (CUT,) if key in answer}
    if "scores" not in answer:
        return [answer]
    given = answer.get("labels")
    items: list[dict[str, Any]] = [
        {"label": label, "score": score} | ({} if given is None else {"given": label in given})
        for label, score in sorted(answer["scores"].items(), key=lambda item: -item[1])
    ]
    if defer_below is not None:
        whole["defer"] = items[0]["score"] < defer_below
    items[0] |= whole
    return items


async def _body(request: "Request", limits: Limits) -> bytes:
    """Return the body of a request.

    Raises:
        Refused: 413, it is too large; 408, it does not arrive in time.
    """
    too_large = Refused(413, f"a request may have at most {limits.request_bytes:,} bytes", headers=CLOSE)
    is_too_large = int(request.headers.get("content-length", 0)) > limits.request_bytes
    if is_too_large and "expect" in request.headers:  # the client waits for permission to send
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in request.stream():
                is_too_large = is_too_large or len(body) + len(chunk) > limits.request_bytes
                if is_too_large:  # read the rest and drop it: many clients send everything before they read an answer
                    body.clear()
                else:
                    body += chunk
    except TimeoutError:
        if not is_too_large:
            raise Refused(408, f"the request did not arrive within {limits.seconds:g} s", headers=CLOSE) from None
    if is_too_large:
        raise too_large
    return bytes(body)


async def _answers(request: "Request", batcher: Batcher, asked: Asked) -> list[Prediction]:
    """Return the answers of the model; if the client disconnects, its remaining texts are not computed.

    Raises:
        Refused: 503, too many texts are waiting; 413, a text is too long and must not be cut; 424, the model fails on
            it.
    """
    from starlette.requests import ClientDisconnect

    try:
        waiting = [asyncio.wrap_future(one) for one in batcher.ask(asked.inputs, asked.lengths)]
    except Full:
        raise Refused(503, "too many texts are waiting for the model", OVERLOADED, LATER) from None
    answers = asyncio.gather(*waiting, return_exceptions=True)
    leaving = asyncio.ensure_future(_until_the_client_leaves(request))
    try:
        await asyncio.wait((answers, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answers.done():
            raise ClientDisconnect
    finally:
        leaving.cancel()
        answers.cancel()  # has no effect on finished ones
    outcomes = answers.result()
    for number, one in enumerate(outcomes):
        where = f"inputs[{number}]" if asked.is_batch else "inputs"
        if isinstance(one, BaseException):
            raise Refused(424, f"{where}: the model gave no answer", BACKEND)
        if CUT in one and not asked.truncate:
            limit = batcher.predictor.text_limit
            longer = f"{where}: {limit + one[CUT]:,} tokens; the model reads {limit:,}"
            raise Refused(413, longer + ': shorten it, or send "truncate": true')
    return [one for one in outcomes if not isinstance(one, BaseException)]


async def _until_the_client_leaves(request: "Request") -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> "Response":
    from starlette.responses import Response

    # Not JSONResponse, which handles lone surrogates and NaN differently: labels may contain anything.
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return Response(text, status, {**FRONT, **(headers or {})}, "application/json")


def _refusal(status: int, message: str, error_type: str, headers: Mapping[str, str] | None) -> "Response":
    return _json({"error": message, "error_type": error_type}, status, headers)

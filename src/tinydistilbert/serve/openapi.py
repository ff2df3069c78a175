"""The OpenAPI 3.1 description of the service, for client generators."""

from typing import Any

from tinydistilbert import __version__
from tinydistilbert.serve.limits import Limits
from tinydistilbert.serve.model import Served

TEXT = {"type": "string"}
ERRORS = {
    400: "Not JSON", 408: "The request did not arrive in time",
    413: "A text, the request or the number of texts is too large, or a text has more tokens than the model reads",
    422: "JSON of another form", 424: "The model gave no answer",
    503: "Too many requests: try again after Retry-After",
}  # fmt: skip
SPAN_ANSWER = {
    "answer": TEXT, "start": {"type": "integer"}, "end": {"type": "integer"}, "score": {"type": "number"},
    "no_answer": {"type": "number"},
}  # fmt: skip
_ENTITY = {
    "type": "object",
    "properties": {
        "label": TEXT, "text": TEXT, "start": {"type": "integer"}, "end": {"type": "integer"},
        "score": {"type": "number"},
    },
}  # fmt: skip
OF_CLASSES = {"label": TEXT, "score": {"type": "number"}}
ANSWERS: dict[str, dict[str, Any]] = {
    "classification": OF_CLASSES | {"defer": {"type": "boolean"}},
    "multi-label": OF_CLASSES | {"given": {"type": "boolean"}},
    "regression": {"score": {"type": "number"}},
    "span": SPAN_ANSWER,
    "token-classification": {"entities": {"type": "array", "items": _ENTITY}},
}
OPTIONAL = ("defer", "no_answer", "cut_tokens")


def openapi(model: Served, limits: Limits) -> dict[str, Any]:
    """Return the document at `/openapi.json`: the inputs and answers of this model."""
    answer = ANSWERS[model.predictor.kind] | {"cut_tokens": {"type": "integer"}}
    schemas = {
        "Input": _input(model),
        "PredictRequest": {
            "type": "object", "required": ["inputs"], "additionalProperties": False,
            "properties": {
                "inputs": {"oneOf": [_ref("Input"), {
                    "type": "array", "items": _ref("Input"), "minItems": 1, "maxItems": limits.texts,
                }]},
                "truncate": {
                    "type": ["boolean", "null"], "default": False,
                    "description": f"Cut texts of more than {model.predictor.text_limit} tokens; else they are refused",
                },
                "truncation_direction": {"type": "string", "enum": [model.predictor.truncation_side]},
                "raw_scores": {"type": ["boolean", "null"], "enum": [False, None]},
            },
        },
        "Item": {
            "type": "object", "properties": answer,
            "required": [name for name in answer if name not in OPTIONAL],
        },
        "Answer": {"type": "array", "items": _ref("Item"), "minItems": 1},
        "PredictResponse": {"oneOf": [_ref("Answer"), {"type": "array", "items": _ref("Answer")}]},
        "ErrorResponse": {
            "type": "object", "required": ["error", "error_type"], "properties": {"error": TEXT, "error_type": TEXT},
        },
    }  # fmt: skip
    refusals = {str(status): _response(text, "ErrorResponse") for status, text in ERRORS.items()}
    predict = {
        "summary": "Answers of the model", "operationId": "predict",
        "requestBody": {"required": True, "content": _content("PredictRequest")},
        "responses": {"200": _response("One answer, or one for each input of a list", "PredictResponse"), **refusals},
    }  # fmt: skip
    down = {"503": _response("The model no longer answers", "ErrorResponse")}
    return {
        "openapi": "3.1.0", "info": {"title": f"tinydistilbert: {model.name}", "version": __version__},
        "paths": {
            "/predict": {"post": predict},
            "/health": {"get": _get("health", "Whether the model answers") | {"responses": {"200": _fine(), **down}}},
            "/info": {"get": _get("info", "The model and the limits of the server")},
            "/openapi.json": {"get": _get("openapi", "This description")},
        },
        "components": {"schemas": schemas},
    }  # fmt: skip


def _input(model: Served) -> dict[str, Any]:
    """Return the schema of one input."""
    pair = {"type": "array", "items": TEXT, "minItems": 2, "maxItems": 2}
    single: list[dict[str, Any]] = [
        TEXT, {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 1}, _object("text"),
    ]  # fmt: skip
    both = [pair, _object("text", "text_pair"), _object("question", "context")]
    if model.predictor.kind == "span":
        return {"oneOf": [_object("question", "context"), pair]}
    return {"oneOf": single if model.texts_per_input == 1 else both if model.texts_per_input == 2 else [*single, *both]}


def _object(*names: str) -> dict[str, Any]:
    properties = dict.fromkeys(names, TEXT)
    return {"type": "object", "required": [*names], "properties": properties, "additionalProperties": False}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": _ref(name)}}


def _response(text: str, name: str) -> dict[str, Any]:
    return {"description": text, "content": _content(name)}


def _fine() -> dict[str, Any]:
    return {"description": "The model answers", "content": {"application/json": {"schema": {"type": "object"}}}}


def _get(name: str, summary: str) -> dict[str, Any]:
    return {"summary": summary, "operationId": name, "responses": {"200": _fine()}}

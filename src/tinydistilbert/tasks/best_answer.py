"""The answer of a span model to one question, with its probability, over all windows of the context."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.tasks.squad import best_answers, null_window


def best_answer(
    windows: Sequence[tuple[NDArray[np.float32], NDArray[np.int32]]], context: str, null_threshold: float | None
) -> dict[str, Any]:
    """Return the best answer over all windows of a context, given by logits and token offsets."""
    of_windows = [logits for logits, _ in windows]
    best = best_answers(of_windows, [offsets for _, offsets in windows], context, n_best=1)[0]
    in_context = np.concatenate([logits[offsets[:, 0] >= 0] for logits, offsets in windows]).astype(np.float64)
    if null_threshold is None:
        probability = float(np.exp(best.score - _log_sum_exp(in_context).sum())) if best.text else 0.0
        return {"answer": best.text, "start": best.start, "end": best.start + len(best.text), "score": probability}
    null = null_window(of_windows)[0].astype(np.float64)
    total = _log_sum_exp(np.concatenate([in_context, null[None]])).sum()
    probability, no_answer = float(np.exp(best.score - total)), float(np.exp(null.sum() - total))
    if null.sum() - best.score > null_threshold:
        return {"answer": "", "start": 0, "end": 0, "score": no_answer, "no_answer": no_answer}
    return {
        "answer": best.text, "start": best.start, "end": best.start + len(best.text), "score": probability,
        "no_answer": no_answer,
    }  # fmt: skip


def _log_sum_exp(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log-sum-exp of each column; scipy's takes a fifth of a second to import."""
    largest = values.max(axis=0)
    sums: NDArray[np.float64] = largest + np.log(np.exp(values - largest).sum(axis=0))
    return sums

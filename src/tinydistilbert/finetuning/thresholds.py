"""The thresholds in a fine-tuned model's config: when to predict a label, and when to predict "no answer"."""

from typing import Any

import numpy as np

from tinydistilbert.evaluation.scoring import ChosenThreshold, choose_threshold, plain_threshold
from tinydistilbert.finetuning.trainer import TaskTraining
from tinydistilbert.tasks.encoding import encode
from tinydistilbert.tasks.inference import predict
from tinydistilbert.tasks.label_thresholds import LABEL_THRESHOLDS
from tinydistilbert.tasks.squad import NULL_THRESHOLD


def set_threshold(training: TaskTraining, max_length: int) -> dict[str, Any]:
    """Set the trained model's threshold to the best one on the train examples held out for it, and return the facts.

    A span model has the null threshold, a multi-label model one threshold for each label. If too few examples could be
    held out, it is 0, or 0.5 for each label. A model that needs no threshold has none, even if the model that it was
    made from had one.
    """
    config: Any = training.model.config
    for key in (NULL_THRESHOLD, LABEL_THRESHOLDS):
        if hasattr(config, key):
            delattr(config, key)
    examples = training.examples
    if not examples.train.needs_threshold:
        return {}
    chosen = None
    if examples.threshold is not None:
        features = encode(examples.threshold, training.tokenizer, max_length)
        pad = training.batches.pad_token_id
        logits = predict(training.model, features, pad_token_id=pad, device=training.compute.device)
        chosen = choose_threshold(examples.threshold, features, logits)
    value = chosen.value if chosen else plain_threshold(examples.train)
    key = LABEL_THRESHOLDS if isinstance(value, np.ndarray) else NULL_THRESHOLD
    setattr(config, key, value.tolist() if isinstance(value, np.ndarray) else value)
    return {key: _facts(examples.task.headline, chosen, getattr(config, key))}


def _facts(headline: str, chosen: ChosenThreshold | None, value: Any) -> dict[str, Any]:
    """Return the facts about the threshold for `training.json`."""
    if isinstance(value, list):
        facts = {"value": value, "examples": chosen.examples if chosen else 0}
    else:
        counts = (chosen.examples, chosen.unanswerable) if chosen else (0, 0)
        facts = {"value": value, **dict(zip(("questions", "unanswerable"), counts, strict=True))}
    return facts | ({headline: round(chosen.score, 4)} if chosen else {})

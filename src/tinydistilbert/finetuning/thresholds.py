"""The thresholds of a fine-tuned model, in its config: when it gives a label, and when it says that none is there."""

from typing import Any

import numpy as np

from tinydistilbert.evaluation.scoring import ChosenThreshold, choose_threshold, plain_threshold
from tinydistilbert.finetuning.trainer import TaskTraining
from tinydistilbert.tasks.encoding import encode
from tinydistilbert.tasks.inference import predict
from tinydistilbert.tasks.label_thresholds import LABEL_THRESHOLDS
from tinydistilbert.tasks.squad import NULL_THRESHOLD


def set_threshold(training: TaskTraining, max_length: int) -> dict[str, Any]:
    """Give the trained model the threshold that is best on the train examples held out for it; gives the facts.

    Of a span model it is the null threshold, of a multi-label model one for each label. It is 0, or 0.5 for each label,
    where too few examples could be held out. A model that needs none has none, whatever the model had that it was made
    from.
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
    """What `training.json` says of it."""
    if isinstance(value, list):
        facts = {"value": value, "examples": chosen.examples if chosen else 0}
    else:
        counts = (chosen.examples, chosen.unanswerable) if chosen else (0, 0)
        facts = {"value": value, **dict(zip(("questions", "unanswerable"), counts, strict=True))}
    return facts | ({headline: round(chosen.score, 4)} if chosen else {})

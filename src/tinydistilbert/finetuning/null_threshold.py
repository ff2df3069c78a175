"""The null threshold of a fine-tuned span model: when it says that there is no answer; in the model's config."""

from typing import Any

from tinydistilbert.evaluation.scoring import choose_null_threshold
from tinydistilbert.finetuning.trainer import TaskTraining
from tinydistilbert.tasks.encoding import encode
from tinydistilbert.tasks.inference import predict
from tinydistilbert.tasks.squad import NULL_THRESHOLD


def set_null_threshold(training: TaskTraining, max_length: int) -> dict[str, Any]:
    """Give the trained model the threshold that is best on the train questions held out for it; gives the facts.

    It is 0 where too few questions with and without an answer could be held out. A model whose train questions all have
    an answer has none, whatever the model had that it was made from.
    """
    config: Any = training.model.config
    if hasattr(config, NULL_THRESHOLD):
        delattr(config, NULL_THRESHOLD)
    examples = training.examples
    if not examples.train.has_unanswerable:
        return {}
    chosen = None
    if examples.threshold is not None:
        features = encode(examples.threshold, training.tokenizer, max_length)
        pad = training.batches.pad_token_id
        logits = predict(training.model, features, pad_token_id=pad, device=training.compute.device)
        chosen = choose_null_threshold(examples.threshold, features, logits)
    setattr(config, NULL_THRESHOLD, chosen.value if chosen else 0.0)
    if chosen is None:
        return {NULL_THRESHOLD: {"value": 0.0, "questions": 0, "unanswerable": 0}}
    return {
        NULL_THRESHOLD: {
            "value": chosen.value, "questions": chosen.questions, "unanswerable": chosen.unanswerable,
            examples.task.headline: round(chosen.score, 4),
        }
    }  # fmt: skip

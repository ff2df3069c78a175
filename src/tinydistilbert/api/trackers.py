"""Experiment trackers for `on_log`: each function takes an open writer, run or module, and returns the callback.

```python
from torch.utils.tensorboard import SummaryWriter
from tinydistilbert.api.trackers import to_tensorboard

td.finetune(..., on_log=to_tensorboard(SummaryWriter("logs")))
```

No tracker is imported here, and nothing is sent automatically.
"""

import re
from collections.abc import Callable
from typing import Any

Event = dict[str, Any]
NOT_MEASURED = ("training", "seed", "step", "steps", "message", "tokens")


def measured(event: Event) -> dict[str, float]:
    """The numbers of an event, prefixed with its training; none for a message about the work."""
    prefix = f"{event.get('training', '')}, seed {event.get('seed', 0)}/"
    return {
        prefix + name: float(value)
        for name, value in event.items()
        if name not in NOT_MEASURED and isinstance(value, int | float)
    }


def to_tensorboard(writer: Any) -> Callable[[Event], None]:
    """For a `SummaryWriter`."""

    def log(event: Event) -> None:
        for name, value in measured(event).items():
            writer.add_scalar(name, value, event["step"])

    return log


def to_wandb(run: Any) -> Callable[[Event], None]:
    """For the result of `wandb.init`; the step of each training is logged as a separate number."""

    def log(event: Event) -> None:
        if numbers := measured(event):
            run.log({**numbers, f"{event['training']}, seed {event['seed']}/step": event["step"]})

    return log


def to_trackio(run: Any) -> Callable[[Event], None]:
    """For the result of `trackio.init`, which logs as wandb does."""
    return to_wandb(run)


def to_mlflow(mlflow: Any) -> Callable[[Event], None]:
    """For the module `mlflow`, with an active run."""

    def log(event: Event) -> None:
        if numbers := measured(event):
            # MLflow refuses other characters: commas, the brackets of `model (D)`, the @ of `rte@mnli`.
            named = {re.sub(r"[^\w/. -]", "", name): value for name, value in numbers.items()}
            mlflow.log_metrics(named, step=event["step"])

    return log

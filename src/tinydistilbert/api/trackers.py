"""Trackers of experiments behind `on_log`: each function takes what you have open there, and gives the callback.

```python
from torch.utils.tensorboard import SummaryWriter
from tinydistilbert.api.trackers import to_tensorboard

td.finetune(..., on_log=to_tensorboard(SummaryWriter("logs")))
```

Nothing of them is imported here, and nothing is sent by itself.
"""

from collections.abc import Callable
from typing import Any

Event = dict[str, Any]
NOT_MEASURED = ("training", "seed", "step", "steps", "message", "tokens")


def measured(event: Event) -> dict[str, float]:
    """The numbers of an event, each called after its training; none of a line about the work."""
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
    """For what `wandb.init` gave; the step of each training is a number of its own beside the others."""

    def log(event: Event) -> None:
        if numbers := measured(event):
            run.log({**numbers, f"{event['training']}, seed {event['seed']}/step": event["step"]})

    return log


def to_trackio(run: Any) -> Callable[[Event], None]:
    """For what `trackio.init` gave, which logs as wandb does."""
    return to_wandb(run)


def to_mlflow(mlflow: Any) -> Callable[[Event], None]:
    """For the module `mlflow`, with a run that is active."""

    def log(event: Event) -> None:
        if numbers := measured(event):
            named = {name.replace(",", ""): value for name, value in numbers.items()}  # which MLflow refuses
            mlflow.log_metrics(named, step=event["step"])

    return log

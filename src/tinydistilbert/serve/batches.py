"""One thread that answers the texts of all clients from a bounded queue, those of similar length together."""

import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from tinydistilbert.predictor import Prediction, Predictor
from tinydistilbert.serve.asked import Input

MOST = 64
"""Maximum number of texts answered together; `predict` cuts them into batches by tokens."""
LIKE, SLACK = 2, 64
"""Two texts have similar length if one is at most `LIKE` times as long as the other plus `SLACK` bytes."""


@dataclass(eq=False)
class Waiting:
    """A text that waits for the model."""

    given: Input
    length: int
    answer: "Future[Prediction]" = field(default_factory=Future)


class Full(Exception):
    """The queue has no room for the texts."""


class Batcher:
    """Answers texts in a separate thread, with the same results as `predict` up to rounding.

    A batch is the text that has waited longest and later ones of similar length: a short text does not pay for the
    padding of a long one, and no text waits for ever.

    Args:
        predictor: the model.
        limit: maximum number of waiting texts.
    """

    def __init__(self, predictor: Predictor, limit: int) -> None:
        self.predictor, self.limit = predictor, limit
        self._waiting: list[Waiting] = []
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread still answers texts."""
        return self._thread.is_alive() and not self._is_closed

    def ask(self, inputs: Sequence[Input], lengths: Sequence[int]) -> "list[Future[Prediction]]":
        """Return futures for the answers; one that is cancelled before its turn is not computed.

        Raises:
            Full: there is no room for all of them; none was accepted.
        """
        new = [Waiting(given, length) for given, length in zip(inputs, lengths, strict=True)]
        with self._changed:
            if self._is_closed or len(self._waiting) + len(new) > self.limit:
                self._waiting = [one for one in self._waiting if not one.answer.cancelled()]
            if self._is_closed or len(self._waiting) + len(new) > self.limit:
                raise Full
            self._waiting += new
            self._changed.notify()
        return [one.answer for one in new]

    def close(self) -> None:
        """Answer the waiting texts, and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            self._answer([one for one in batch if one.answer.set_running_or_notify_cancel()])

    def _next(self) -> list[Waiting]:
        """Return the next batch; empty = there will be no more."""
        with self._changed:
            while not self._waiting and not self._is_closed:
                self._changed.wait()
            if not self._waiting:
                return []
            batch = of_like_length(self._waiting)
            taken = set(map(id, batch))
            self._waiting = [one for one in self._waiting if id(one) not in taken]
            return batch

    def _answer(self, batch: list[Waiting]) -> None:
        if not batch:
            return
        try:
            pairs = [one.given[1] for one in batch if one.given[1] is not None]
            answers = self.predictor.predict([one.given[0] for one in batch], pairs or None)
        except Exception as error:
            if len(batch) > 1:  # one text must not spoil the answers of the others
                for one in batch:
                    self._answer([one])
                return
            # Do not print the error itself: its message may contain the text.
            print(f"serve: a text was not answered: {type(error).__name__}", file=sys.stderr, flush=True)
            batch[0].answer.set_exception(error)
            return
        for one, answer in zip(batch, answers, strict=True):
            one.answer.set_result(answer)


def of_like_length(waiting: Sequence[Waiting]) -> list[Waiting]:
    """Return the first text of the queue, and later ones that fit into the same batch."""
    first = waiting[0]
    is_pair, length = first.given[1] is not None, first.length
    like = (
        one
        for one in waiting
        if (one.given[1] is not None) is is_pair
        and one.length <= LIKE * length + SLACK
        and length <= LIKE * one.length + SLACK
    )
    return [one for one, _ in zip(like, range(MOST), strict=False)]

"""Silences the output of the exporter and its helpers."""

import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

_one_at_a_time = threading.RLock()
"""Output belongs to the whole process: without a lock, the later of two threads would restore the earlier's silence."""


@contextmanager
def without_output() -> Iterator[None]:
    """Keep standard output free for answers: NNCF shows bars there, and onnxscript 0.6 how many rules it applied."""
    with _one_at_a_time, redirect_stdout(io.StringIO()):
        yield


@contextmanager
def quietly() -> Iterator[None]:
    """Silence output as `without_output` does, and also warnings, and log messages up to warnings."""
    with without_output():
        before = logging.root.manager.disable
        try:
            logging.disable(logging.WARNING)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.disable(before)

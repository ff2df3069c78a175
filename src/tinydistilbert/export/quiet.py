"""Silence for what the exporter and its helpers say about themselves."""

import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

_one_at_a_time = threading.RLock()
"""What is silenced belongs to the process: of two threads, the later one would put back the silence of the earlier."""


@contextmanager
def without_output() -> Iterator[None]:
    """Keep standard output for answers: NNCF shows bars there, and onnxscript 0.6 how many rules it applied."""
    with _one_at_a_time, redirect_stdout(io.StringIO()):
        yield


@contextmanager
def quietly() -> Iterator[None]:
    """The same for warnings too, and for the log up to warnings."""
    with without_output():
        before = logging.root.manager.disable
        try:
            logging.disable(logging.WARNING)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.disable(before)

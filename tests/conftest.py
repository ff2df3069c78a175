"""What several test files need: a tiny real tokenizer, the folder with real data, and no way to the network."""

import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background jobs of scripts; tests send it
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_DEACTIVATE_ASYNC_LOAD", "1")  # a third of the time of loading a tiny model is for its threads

import pytest
from filelock import FileLock

from tests import earlier_runs, quick
from tests.faults.forks import Forks
from tests.shapes import check_shapes

if TYPE_CHECKING:  # the process that only hands out the tests to others imports no library of the package
    from transformers import PreTrainedTokenizerFast

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # as in `optional.require`
gc.disable()  # until the tests run: it would look for garbage among modules time and again while they are imported
check_shapes()  # before anything imports the package

WARNING = ("tinydistilbert.notices", "tinydistilbert.recipe.types")
"""The loggers of the package."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """What is here by now, most of it the libraries' modules, stays: no collection of garbage looks through it again.

    Looking through it takes a third of a second, and at its end pytest has that done five times.
    """
    gc.enable()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Say how a worker ended that should not have: xdist only says that it did."""
    if error:
        sys.stderr.write(f"\n{node.gateway.id} ended with {node.gateway._io.wait()}; less than 0: minus the signal\n")


@pytest.fixture(scope="session")
def tokenizer() -> "PreTrainedTokenizerFast":
    """`tiny.tokenizer`."""
    from tests import tiny

    return tiny.tokenizer()


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with the real data sets, or a skip that says what is missing."""
    folder = Path(os.environ.get("TINYDISTILBERT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (folder / "glue").is_dir():
        pytest.skip(
            f"no real data at {folder}: set TINYDISTILBERT_DATA to a folder with wikitext2/, glue/, imdb/, squad/"
        )
    return folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all workers of a run of the tests."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def traced(pytestconfig: pytest.Config, shared: Path) -> Path:
    """The folder with the graphs that were traced: that of earlier runs, or of the workers of this one alone."""
    if hasattr(pytestconfig, "cache") and earlier_runs.may_be_used():
        with FileLock(shared / "traced.lock"), suppress(OSError):  # a checkout that nobody may write to
            return earlier_runs.folder(pytestconfig.cache.mkdir("traced"))
    (shared / "traced").mkdir(exist_ok=True)
    return shared / "traced"


@pytest.fixture(scope="session", autouse=True)
def quick_processes(tmp_path_factory: pytest.TempPathFactory, traced: Path) -> Iterator[None]:
    """Nobody looks how busy and how fast the machine is, waits for its disk, or traces an architecture twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYDISTILBERT_TESTS_TRACED", str(traced))
        patch.setenv("TINYDISTILBERT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))  # never the user's
        quick.apply(patch.setattr)
        yield


@pytest.fixture(scope="module", autouse=True)
def swept() -> Iterator[None]:
    """What a file of tests leaves behind is thrown away once, and the rest of it is not looked through again."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def warnings_enabled() -> Iterator[None]:
    """A test after which the package's warnings go unheard fails, and not those that come after it."""
    yield
    silenced = [name for name in WARNING if not logging.getLogger(name).isEnabledFor(logging.WARNING)]
    logging.disable(logging.NOTSET)
    for name in silenced:
        logging.getLogger(name).disabled = False
    assert not silenced, "a library, or its settings of the log, has silenced them"


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[Forks]:
    """A process that has imported everything and forks a child for each trial: `forks.Forks`."""
    server = Forks(tmp_path_factory.mktemp("forks"), shared)
    yield server
    server.end()

"""The entry point: parse, call, exit. Every error is printed as one line on standard error, with its exit code."""

import io
import os
import shlex
import sys
from typing import Any

from tinydistilbert import signals
from tinydistilbert.cli.commands import call
from tinydistilbert.cli.parser import parse
from tinydistilbert.errors import (
    DeviceLost,
    DiskError,
    Interrupted,
    MissedTarget,
    NonFiniteLoss,
    OutOfMemory,
    RankLost,
    ReportedElsewhere,
    SourceLost,
    UploadFailed,
    UserError,
)
from tinydistilbert.optional import training_libraries
from tinydistilbert.training.launcher import own_rank
from tinydistilbert.training.ranks import is_to_report

EXIT_USER_ERROR, EXIT_FAILED, EXIT_DISK, EXIT_INTERRUPTED = 2, 1, 3, 130


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed or short of its target, 2 a mistake, 3 the disk, 130 stopped.

    After 3 and 130 the same command continues.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    _make_printable(sys.stdout, sys.stderr)
    arguments = sys.argv[1:] if argv is None else argv
    try:
        with signals.handled():
            try:
                with training_libraries(" ".join(["tinydistilbert", *arguments[:1]])):
                    call(parse(arguments), shlex.join(["tinydistilbert", *arguments]))
            finally:  # also after help was printed, which raises SystemExit
                sys.stdout.flush()
    except UserError as error:
        sys.exit(_fail(f"error: {error}", EXIT_USER_ERROR))
    except ReportedElsewhere:
        sys.exit(EXIT_FAILED)
    except (MissedTarget, NonFiniteLoss, OutOfMemory, DeviceLost, UploadFailed, SourceLost, RankLost) as error:
        sys.exit(_fail(f"error: {error}", EXIT_FAILED))
    except Interrupted as stop:
        sys.exit(_fail(str(stop), EXIT_INTERRUPTED))
    except DiskError as error:
        sys.exit(_fail(f"error: {error}", EXIT_DISK))
    except BrokenPipeError:  # the reader has seen enough: `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(_fail("stopped; the same command goes on from what is finished", EXIT_INTERRUPTED))


def _make_printable(*streams: Any) -> None:
    """Let streams take every character: files and pipes of Windows have a code page without arrows and most scripts.

    They get UTF-8, as all files of this package have; in a terminal, or with `PYTHONIOENCODING`, what the encoding
    lacks is replaced.
    """
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            if stream.isatty() or os.environ.get("PYTHONIOENCODING"):
                stream.reconfigure(errors="backslashreplace")
            else:
                stream.reconfigure(encoding="utf-8")


def _fail(message: str, code: int) -> int:
    if is_to_report():
        rank = own_rank()
        sys.stderr.write((f"rank {rank}: " if rank else "") + message + "\n")
    return code

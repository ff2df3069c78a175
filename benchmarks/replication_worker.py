"""A process of replication.py: it runs one job after another, and keeps loaded and tokenised data between them."""

import contextlib
import hashlib
import os
import signal
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import replication_jobs
import torch
from gpu_replication import adopt, call
from replication_jobs import DISTILL, Job, Setting

from tinydistilbert.evaluation import evaluate
from tinydistilbert.finetuning import soft_targets, trainer
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import encoding, recipe_splits
from tinydistilbert.tasks.base import Examples, Task
from tinydistilbert.tasks.encoding import FastTokenizer, Features

K, V = TypeVar("K"), TypeVar("V")
KEPT = 6
"""Splits whose examples, and whose tokens, a worker keeps."""


def keep_what_is_read() -> None:
    """Read and tokenise a split once in this process, not once for each training on it.

    A row has up to six trainings on a task, and tokenising all of SQuAD takes longer than an epoch of it on a GPU.
    """
    tokenised: OrderedDict[tuple[str, str, int], Features] = OrderedDict()

    def encode(examples: Examples, tokenizer: FastTokenizer, max_length: int) -> Features:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:  # not one of transformers' fast ones
            return encoding.encode(examples, tokenizer, max_length)
        name = hashlib.sha256(backend.to_str().encode()).hexdigest()
        key = examples.fingerprint, name, max_length
        return _kept(tokenised, key, lambda: encoding.encode(examples, tokenizer, max_length))

    for module in (trainer, soft_targets, evaluate):
        setattr(module, "encode", encode)  # noqa: B010 (mypy knows these as functions of the package)
    read: OrderedDict[tuple[Any, ...], Examples] = OrderedDict()
    load = recipe_splits.load_examples

    def load_examples(task: Task, split: str, **settings: Any) -> Examples:
        key = task.name, split, *(settings.get(name) for name in ("data", "limit", "seed", "held_out", "labels"))
        return _kept(read, key, lambda: load(task, split, **settings))

    setattr(recipe_splits, "load_examples", load_examples)  # noqa: B010


def _kept(kept: OrderedDict[K, V], key: K, make: Callable[[], V]) -> V:
    """What is kept under a key, made if it is not there; the oldest goes where they are too many."""
    if key not in kept:
        kept[key] = make()
        while len(kept) > KEPT:
            kept.popitem(last=False)
    return kept[key]


def prepare(setting: Setting, recipe: str) -> int:
    """The token blocks of a recipe's text, into the cache; gives the exit code."""
    job = Job(recipe, DISTILL)
    return call("prepare", replication_jobs.write_recipe(setting, job), "--output", setting.folder(job))


def do(setting: Setting, job: Job) -> int:
    """Do a job, or go on with it; gives the exit code of the last command."""
    file, output = replication_jobs.write_recipe(setting, job), setting.folder(job)
    if job.task == DISTILL:
        return call("distill", file, "--output", output)
    begun_with = setting.run / job.recipe / DISTILL
    if setting.is_distilled(job.recipe) and not (output / "student").exists():
        if code := call("prepare", file, "--output", output):
            return code
        for name in ("teacher", "student"):
            adopt(begun_with / name, output / name)
    code = call("evaluate", file, "--output", output)
    if not code and not setting.teachers_only:
        atomic.write_text(output / "done", "")
    return code


def work(connection: Connection, setting: Setting, log: Path) -> None:
    """Do the jobs that come over the connection, and answer each with its exit code and seconds; None ends it."""
    with log.open("a", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), sys.stdout.fileno())
        os.dup2(stream.fileno(), sys.stderr.fileno())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process says when to stop
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    if setting.device == "cuda":
        # cuDNN's attention makes a plan for each shape, and inputs here have a hundred.
        torch.backends.cuda.enable_cudnn_sdp(False)
    keep_what_is_read()
    with contextlib.suppress(EOFError):
        while (job := connection.recv()) is not None:
            begun = time.monotonic()
            try:
                code: Any = prepare(setting, job.recipe) if job.task == "prepare" else do(setting, job)
            except Exception:
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            if setting.device == "cuda":
                torch.cuda.empty_cache()  # what this job had is the others' now
            connection.send((code, time.monotonic() - begun))

"""The replication of results/replication, on a GPU within minutes or on a CPU: jobs for processes that share it.

Each job is a recipe on a task, in its own run folder. Finished jobs are skipped, stopped ones continue. README.md here
explains how to run it; `--collect` makes results/replication/results.jsonl from the run folders.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import common
import torch
from gpu_day import packed_commit
from replication_jobs import DISTILL, Job, Setting, is_chosen, planned

WORKERS = 10
"""Processes on a GPU: a model of this size keeps it waiting for the next launch."""
GRACE = 20.0
"""Seconds between asking a process to stop, when a training writes its checkpoint, and ending it."""
PIECE = 15 * common.MIB
"""Bytes of a file that is brought back."""
TAKEN = (
    "recipe.toml", "inputs.json", "notices.txt", "done", "results.jsonl", "training.json", "measurements.jsonl",
    "manifest.json", "made-from.json", "samples.jsonl", "predictions-*.parquet",
)  # fmt: skip
"""Of a run folder, what goes into the archive: all but weights, logs of single steps, and what was computed for use."""
MOST_SAVED = 60.0
"""Seconds between two writings of the archive, at most."""


@dataclass
class Worker:
    """A process and what it does."""

    number: int
    process: SpawnProcess
    connection: Connection
    job: Job | None = None
    begun: float = 0.0
    read: set[str] = field(default_factory=set)
    """Tasks whose examples it has."""


@dataclass
class Pool:
    """The processes, and the jobs that are left."""

    setting: Setting
    output: Path
    end: float
    """When everything stops, on the monotonic clock."""
    left: list[Job]
    workers: list[Worker] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)
    first_pace: float = 1.0
    """Assumed until a job is done: fewer processes than the estimates were read off need less."""
    paces: list[float] = field(default_factory=list)
    """Seconds over estimated seconds of the jobs that were done."""
    saved: float = 0.0

    def start(self, number: int) -> Worker:
        """A new process."""
        spawn = multiprocessing.get_context("spawn")
        connection, of_worker = spawn.Pipe()
        log = self.setting.run / f"worker-{number}.log"
        process = spawn.Process(target=_work, args=(of_worker, self.setting, log), daemon=False)
        process.start()
        of_worker.close()
        return Worker(number, process, connection)

    def pace(self) -> float:
        """How much longer jobs take than estimated: the median so far."""
        return sorted(self.paces)[len(self.paces) // 2] if self.paces else self.first_pace

    def next_for(self, worker: Worker) -> Job | None:
        """The first job that can be begun and fits into the time; of equals one whose examples the process has."""
        ready = list(filter(self.setting.is_ready, self.left))
        fitting = [job for job in ready if self.fits(job)]
        # A process keeps to its tasks, as long as it is not far out of order.
        known = (job for job in fitting[:4] if job.task in worker.read)
        return next(known, fitting[0] if fitting else None)

    def fits(self, job: Job) -> bool:
        """Whether there is time for it; what was begun in an earlier call needs less than estimated."""
        if self.end == float("inf"):
            return True
        share = 0.5 if self.setting.folder(job).exists() else 1.0
        return share * self.pace() * self.setting.seconds(job) < self.end - time.monotonic()

    def deal(self) -> None:
        """Give every idle process a job."""
        for worker in self.workers:
            if worker.job is None and (job := self.next_for(worker)) is not None:
                self.left.remove(job)
                worker.job, worker.begun = job, time.monotonic()
                worker.read.add(job.task)
                worker.connection.send(job)

    def run(self) -> None:
        """Until nothing is left that can be begun, or the time is over."""
        while True:
            self.deal()
            busy = [worker for worker in self.workers if worker.job is not None]
            if not busy or time.monotonic() >= self.end:
                break
            until = min(5.0, max(0.0, self.end - time.monotonic()))
            wait([worker.connection for worker in busy] + [worker.process.sentinel for worker in busy], until)
            for worker in busy:
                self.look_at(worker)
            if time.monotonic() - self.saved > MOST_SAVED:
                self.save()
        self.stop()
        self.save()

    def look_at(self, worker: Worker) -> None:
        """Take the answer of a process, if there is one; one that died is replaced, and its job is not tried again."""
        assert worker.job is not None
        if worker.connection.poll():
            try:
                code, _ = worker.connection.recv()
            except EOFError:
                code = None
        elif worker.process.is_alive():
            return
        else:
            code = None
        self.record(worker, "done" if code == 0 else f"failed ({code})")
        if code is None:
            self.workers[self.workers.index(worker)] = self.start(worker.number)

    def record(self, worker: Worker, state: str) -> None:
        """Write down how a job ended."""
        job, seconds = worker.job, time.monotonic() - worker.begun
        assert job is not None
        estimated = self.setting.seconds(job)
        row = {
            "job": job.name, "state": state, "seconds": round(seconds, 1), "estimated": round(estimated, 1),
            "process": worker.number, "toy": self.setting.toy, "packed": packed_commit(),
        }  # fmt: skip
        common.append(self.setting.run / "jobs.jsonl", [row])
        print(f"{job.name}: {state} after {seconds:.0f} s ({estimated:.0f} estimated)", flush=True)
        self.states[job.name] = state
        if state == "done":
            self.paces.append(seconds / estimated)
        worker.job = None

    def stop(self) -> None:
        """End all processes: those that are in the middle of a training write a checkpoint."""
        for worker in self.workers:
            worker.connection.send(None)
            if worker.job is not None:
                worker.process.terminate()
        end = time.monotonic() + GRACE
        for worker in self.workers:
            worker.process.join(max(0.0, end - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            if worker.job is not None:
                finished = worker.connection.poll() and worker.connection.recv()[0] == 0
                self.record(worker, "done" if finished else "out of time")

    def save(self) -> None:
        """The archive of everything so far but weights."""
        archive(self.setting, self.output)
        self.saved = time.monotonic()


def _work(connection: Connection, setting: Setting, log: Path) -> None:
    import replication_worker  # in the process: the main one needs neither torch nor its seconds

    replication_worker.work(connection, setting, log)


def archive(setting: Setting, output: Path) -> None:
    """Scores, predictions and logs of the processes, in pieces that are small enough to be brought back."""
    run = setting.run
    partial = output / "run.tar.gz"
    with tarfile.open(partial, "w:gz", compresslevel=3) as tar:
        for path in _files(run, TAKEN):
            tar.add(path, path.relative_to(run))
        for path in (*sorted(run.glob("worker-*.log")), run / "jobs.jsonl"):
            if path.exists():
                tar.add(path, path.name)
    _cut(partial)


def _files(run: Path, patterns: Sequence[str]) -> Iterator[Path]:
    for path in sorted(run.rglob("*")):
        place = path.relative_to(run)
        is_private = any(part.startswith(".") for part in place.parts) or place.parts[0] == "cache"
        if path.is_file() and not is_private and any(path.match(pattern) for pattern in patterns):
            yield path


def _cut(path: Path) -> None:
    """Cut a file into pieces `NAME.00`, `NAME.01` …, in place of itself."""
    for old in path.parent.glob(f"{path.name}.*"):
        old.unlink()
    with path.open("rb") as stream:
        for index, begin in enumerate(range(0, path.stat().st_size, PIECE)):
            stream.seek(begin)
            path.with_name(f"{path.name}.{index:02d}").write_bytes(stream.read(PIECE))
    path.unlink()


def bring(setting: Setting, jobs: Sequence[str], output: Path) -> None:
    """The fine-tuned students of some jobs (the first seed), or the named rows, in half precision, in pieces."""
    from tinydistilbert.models.loading import load_model, load_tokenizer
    from tinydistilbert.storage import atomic
    from tinydistilbert.tasks import TASKS

    folder = output / "models"
    for name in jobs:
        recipe, task, *wanted = name.split("/")
        made = {row["row"] for row in setting.plan["rows"] if row.get("recipe") == recipe}
        rows = made & {*wanted} if wanted else made - {"teacher"}
        for row in sorted(rows):
            slug = row.replace(" (D)", "-d").replace(" ", "-")
            model = setting.run / recipe / task / "tasks" / task / slug / "seed-0" / "model"
            if not model.is_dir() or atomic.is_released(model):
                continue
            loaded = load_model(model, TASKS[task].kind, require_head=True).half()
            target = folder / recipe / task / slug
            loaded.save_pretrained(target)
            load_tokenizer(model).save_pretrained(target)
    partial = output / "models.tar.gz"
    with tarfile.open(partial, "w:gz", compresslevel=3) as tar:
        tar.add(folder, "models")
    shutil.rmtree(folder)
    _cut(partial)


def prepare_texts(pool: Pool) -> None:
    """Tokenise the texts, once, before several processes would wait for each other to do it."""
    recipes = dict.fromkeys(job.recipe for job in pool.left if job.task == DISTILL)
    worker = pool.workers[0]
    for recipe in recipes:
        if pool.setting.lacks(Job(recipe, DISTILL)):
            continue
        worker.connection.send(Job(recipe, "prepare"))
        code, seconds = worker.connection.recv()
        print(f"{recipe}: text prepared in {seconds:.0f} s" if code == 0 else f"{recipe}: exit {code}", flush=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="The replication: students, teachers and baselines on eleven tasks.")
    parser.add_argument("--data", type=Path, default=common.DEFAULT_DATA, help="folder with wikitext2/, glue/ …")
    parser.add_argument("--models", type=Path, help="folder with minilm-l6-mlm/ and others; default: beside the data")
    parser.add_argument("--output", type=Path, default=common.ROOT / "runs" / "replication-out", help="what comes back")
    parser.add_argument("--run", type=Path, default=common.ROOT / "runs" / "replication", help="the run folders")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so many; 0 = when all is done")
    parser.add_argument("--workers", type=int, help=f"processes; default: {WORKERS}, on a CPU 1")
    parser.add_argument("--pace", type=float, default=1.0, help="seconds over estimated ones, until a job is done")
    parser.add_argument("--recipes", nargs="+", metavar="RECIPE[/TASK]", help="only these")
    parser.add_argument("--tasks", nargs="+", help=f"only these, or {DISTILL}")
    parser.add_argument(
        "--teachers-only",
        action="store_true",
        help="train the teachers of task-student, for the rows that learn from them",
    )
    parser.add_argument("--prepare", action="store_true", help="only tokenise the texts")
    parser.add_argument(
        "--bring",
        nargs="+",
        default=[],
        metavar="RECIPE/TASK[/ROW]",
        help="only bring these students, or this row, back in half precision",
    )
    parser.add_argument(
        "--collect", action="store_true", help="only write results/replication, of the run folders and of what it has"
    )
    parser.add_argument("--toy", action="store_true", help="very little of everything, to try the script out")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is not done; exit 1 where a job failed or was left out."""
    begun, chosen = time.monotonic(), parse(arguments)
    data = chosen.data.resolve()
    device = chosen.device if chosen.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    setting = Setting(
        data=data, models=(chosen.models or data.parent / "models").resolve(), run=chosen.run.resolve(),
        device=device, toy=chosen.toy, teachers_only=chosen.teachers_only,
    )  # fmt: skip
    output = chosen.output.resolve()
    for folder in (output, setting.run):
        folder.mkdir(parents=True, exist_ok=True)
    if chosen.collect:
        import replication_results

        replication_results.collect(setting, chosen.recipes, chosen.tasks)
        return
    if chosen.bring:
        bring(setting, chosen.bring, output)
        return
    count = chosen.workers or (WORKERS if device == "cuda" else 1)
    os.environ |= {
        "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "true",
        "TINYDISTILBERT_CACHE": str(setting.run / "cache"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count))),
        "PYTHONPATH": os.pathsep.join([str(common.ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        **({} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}),
    }  # fmt: skip
    wanted = [
        job
        for job in planned(setting)
        if is_chosen(job, chosen.recipes)
        and (not chosen.teachers_only or setting.recipes[job.recipe].finetune.models == ("teacher",))
        and (chosen.tasks is None or job.task in chosen.tasks)
    ]
    left = [job for job in wanted if not setting.is_done(job)]
    without = {job.name: lack for job in left if (lack := setting.lacks(job))}
    end = begun + 60 * chosen.minutes if chosen.minutes else float("inf")
    pool = Pool(setting, output, end, [job for job in left if job.name not in without], first_pace=chosen.pace)
    if pool.left:
        pool.workers = [pool.start(number) for number in range(1 if chosen.prepare else min(count, len(pool.left)))]
        if chosen.prepare:
            prepare_texts(pool)
            pool.left.clear()
        pool.run()
    for name, lack in without.items():
        print(f"{name}: left out, there is no {lack}")
    for job in pool.left:
        print(f"{job.name}: not begun")
    done = sum(map(setting.is_done, wanted))
    print(f"{done} of {len(wanted)} jobs are done after {time.monotonic() - begun:.0f} s")
    if not chosen.prepare and done < len(wanted):
        sys.exit(1)


if __name__ == "__main__":
    main()

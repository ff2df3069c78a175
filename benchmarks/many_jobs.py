"""Two studies whose processes die: task models on a Ray cluster that loses a node, and a sweep that is killed.

    python benchmarks/many_jobs.py --study ray      # twelve trainings on two nodes of one core, one of which is killed
    python benchmarks/many_jobs.py --study sweep    # twelve trials, two at a time; killed, and the same command again

Each reports what became of the jobs, and fails if one is missing. The model is the wheel's; nothing is downloaded.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import common

import tinydistilbert as td
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.storage import atomic

RESULTS = common.RESULTS / "many_jobs.jsonl"
TASK, ROW = "library-area", "model"
SPACE = """
["finetune.optimization.learning_rate"]
low = 1e-5
high = 1e-3
log = true
"""


def recipe(name: str, trainings: int, *, model: str, examples: int) -> Recipe:
    """So many short fine-tunings of one model, which differ in their seed."""
    return toml.from_dict(
        {
            "name": name, "device": "cpu", "checkpoint_minutes": 0.02,
            "finetune": {
                "model": model, "tasks": [TASK], "seeds": list(range(trainings)), "epochs": 2, "min_steps": 0,
                "train_examples": examples, "validation_examples": 32, "baselines": False, "keep": "all",
                "optimization": {"batch_size": 8}, "distillation": {"tasks": "none"},
            },
        },
        "the study",
    )  # fmt: skip


def training(run: RunFolder) -> list[int]:
    """The seeds whose training is on its way: it has done a step."""
    logs = run.path.glob(f"tasks/{TASK}/{ROW}/seed-*/model.partial/log.jsonl")
    return sorted(int(log.parents[1].name.removeprefix("seed-")) for log in logs if log.stat().st_size)


def by_ray(folder: Path, study: Recipe) -> dict[str, Any]:
    """The trainings on two nodes of one core each; one is killed while both train, and a new one joins."""
    import ray
    from ray.cluster_utils import Cluster

    run, lines = RunFolder(folder / "run"), list[str]()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    at_work: list[int] = []
    is_killed, is_over = threading.Event(), threading.Event()

    def kill_one() -> None:
        while len(training(run)) < 2 and not is_over.wait(0.05):
            pass
        at_work.extend(training(run))
        cluster.remove_node(nodes[1], allow_graceful=False)
        is_killed.set()

    def note(event: dict[str, Any]) -> None:
        if is_killed.is_set():
            is_killed.clear()
            cluster.add_node(num_cpus=1)  # which only the main thread can
        if message := event.get("message"):
            lines.append(str(message))
            print(message, flush=True)

    ray.init(address=cluster.address, log_to_driver=False, logging_level="warning")
    killer = threading.Thread(target=kill_one)
    try:
        killer.start()
        td.replicate(study, output=run.path, until="evaluate", jobs="ray", threads=1, quiet=True, on_log=note)
    finally:
        is_over.set()
        killer.join()
        ray.shutdown()
        cluster.shutdown()
    begun = [line.split(": ")[0] for line in lines if ": begun on " in line]
    repeated = sorted({name for name in begun if begun.count(name) > 1})
    seeds = [int(name.rpartition(" ")[2]) for name in repeated]
    return {
        **outcome(run, study), "at work when a node was killed": at_work, "begun again": seeds,
        "same bits as without a kill": [same_bits(run, study, seed, folder / "alone") for seed in seeds],
    }  # fmt: skip


def outcome(run: RunFolder, study: Recipe) -> dict[str, Any]:
    """How many jobs there are, and how many of them are finished and scored."""
    seeds = study.finetune.seeds
    return {"jobs": len(seeds), "finished": sum(atomic.is_finished(run.scores(TASK, ROW, seed)) for seed in seeds)}


def same_bits(run: RunFolder, study: Recipe, seed: int, folder: Path) -> bool:
    """Whether a training has the weights of one that this process makes without being killed."""
    settings = {"finetune.seeds": [seed]}
    output = folder / str(seed)
    td.replicate(study, output=output, until="finetune", threads=1, settings=settings, quiet=True)
    models = [each.task_model(TASK, ROW, seed) / "model.safetensors" for each in (run, RunFolder(output))]
    return models[0].read_bytes() == models[1].read_bytes()


def by_sweep(folder: Path, study: Recipe, trials: int) -> dict[str, Any]:
    """The trials two at a time, killed by SIGKILL when a third of them is finished, and the same command again."""
    from tinydistilbert.recipe.toml import to_toml

    (folder / "space.toml").write_text(SPACE, encoding="utf-8")
    (folder / "study.toml").write_text(to_toml(study), encoding="utf-8")
    output = folder / "sweep"
    arguments = ["sweep", folder / "study.toml", "--space", folder / "space.toml", "--output", output]
    command = [sys.executable, "-m", "tinydistilbert", *map(str, arguments), "--trials", str(trials)]
    command += ["--jobs", "2", "--threads", "1"]

    def finished() -> int:
        return len(list(output.glob(f"trials/*/tasks/{TASK}/{ROW}/seed-0/scores/manifest.json")))

    first = subprocess.Popen(command)
    while first.poll() is None and finished() < trials // 3:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = finished()
    manifests = {path: path.stat().st_mtime_ns for path in output.glob("trials/*/tasks/*/*/*/scores/manifest.json")}
    subprocess.run(command, check=True)
    kept = sum(path.stat().st_mtime_ns == time_ns for path, time_ns in manifests.items())
    return {
        "jobs": trials, "finished": finished(), "finished when it was killed": before, "kept as they were": kept,
        "left behind": len(list(output.glob("trials/*.lock"))),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=("ray", "sweep"), required=True)
    parser.add_argument("--jobs", type=int, default=12, help="trainings or trials (default: 12)")
    parser.add_argument("--model", default="offline", help="what is fine-tuned")
    parser.add_argument("--examples", type=int, default=96, help="that each training reads twice (default: 96)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON lines; the outcome is added")
    given = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="many-jobs-") as work:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        trainings = given.jobs if given.study == "ray" else 1
        study = recipe(f"many-jobs-{given.study}", trainings, model=given.model, examples=given.examples)
        folder = Path(work)
        outcome = by_ray(folder, study) if given.study == "ray" else by_sweep(folder, study, given.jobs)
    row = {"study": given.study, **outcome, "seconds": round(time.monotonic() - begun)}
    common.append(given.output, [row])
    print(", ".join(f"{name}: {value}" for name, value in row.items()))
    if outcome["finished"] != outcome["jobs"]:
        sys.exit(1)


if __name__ == "__main__":
    main()

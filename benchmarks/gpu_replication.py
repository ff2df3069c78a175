"""The replication of gpu_day.py: the offline pair on WikiText-2, and teacher, student and control on tasks of GLUE.

Distilling has its own run folder, and so has each task, which begins with the distilled models. A task that does not
fit into the time therefore takes nothing from the others, and tasks can run in parallel. Everything runs through the
package's command line, and a repeated call continues where it stopped.
"""

import argparse
import json
import os
import shutil
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import common

from tinydistilbert.cli.main import main as command_line

EPOCHS = 40.0
STEPS_SHARE = 0.6
"""Of the time, what steps may take at the speed of the KL at masked positions alone; here it is at more of them."""
TOKENS = 2_450_000
"""Of WikiText-2's training text, in blocks."""
BATCH_SIZE = 64
DOCUMENTS = {"full": 0, "quick": 100, "toy": 5}
MAX_STEPS = {"full": 0, "quick": 400, "toy": 3}
MODELS = ("teacher", "student", "control")
TASK_EPOCHS = {"sst2": 1, "mnli": 2, "qnli": 2, "qqp": 2}
"""Of the small ones 3."""
WHOLE_RUN = 25.0
"""Seconds that must be left for a task to be begun, where a task has taken none so far."""


def epochs(measured: Path, seconds: float) -> float:
    """Epochs that fit: at the speed that was measured of such a step, at most `EPOCHS`; half of them where none was."""
    rows = [json.loads(line) for line in measured.read_text(encoding="utf-8").splitlines()] if measured.exists() else []
    speeds = [row["value"] for row in rows if row["what"] == f"offline, {BATCH_SIZE} blocks, KL masked"]
    return min(EPOCHS, round(STEPS_SHARE * seconds * speeds[-1] / TOKENS, 1)) if speeds else EPOCHS / 2


def recipe(chosen: argparse.Namespace, tasks: Sequence[str], passes: float) -> str:
    """The whole replication as TOML, with the tasks that a run folder is for."""
    limits = ["train_examples = 24", "validation_examples = 20"] if chosen.size == "toy" else []
    validation = ["validation.blocks = 4", "validation.times = 1"] if chosen.size == "toy" else []
    counts = {name: count if chosen.size == "full" else 1 for name, count in TASK_EPOCHS.items() if name in tasks}
    lines = [
        'name = "gpu-day"', f'device = "{chosen.device}"', f"data = {json.dumps(str(chosen.data))}",
        f"teacher.model = {json.dumps(str(chosen.teacher))}", 'corpus.source = "wikitext2"',
        'student.architecture = "distilbert"',
        # What the ablation chose (docs/decisions/0012), in larger batches.
        "objective.mlm = 0", 'objective.kl_positions = "sampled"', "masking.rate = 0.3",
        f"corpus.max_train_documents = {DOCUMENTS[chosen.size]}",
        f"distill.epochs = {passes}", f"distill.max_steps = {MAX_STEPS[chosen.size]}", *validation,
        f"distill.optimization = {{ learning_rate = 2e-4, batch_size = {8 if chosen.size == 'toy' else BATCH_SIZE}, "
        "dropout = 0.0, attention_dropout = 0.0 }",
        "[finetune]", f"tasks = {json.dumps(list(tasks))}", f"models = {json.dumps(MODELS)}", "seeds = [0]",
        "epochs = 3", "min_steps = 0", *limits,
        "optimization = { learning_rate = 1e-4, batch_size = 32, attention_dropout = 0.0 }",
        'distillation.tasks = "none"',
        *(f"override.{name}.epochs = {count}" for name, count in counts.items()),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def call(*arguments: str | Path) -> int:
    """Run the command line in this process; gives its exit code."""
    print("$ tinydistilbert", *arguments, flush=True)
    try:
        command_line([str(argument) for argument in arguments])
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, flush=True)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def written(chosen: argparse.Namespace, name: str, tasks: Sequence[str]) -> Path:
    """The recipe file of a run folder; one that is there stays, so that the run goes on."""
    path = chosen.run / f"{name}.toml"
    if not path.exists():
        if name == "distill":
            passes = epochs(chosen.output / "measured.jsonl", chosen.seconds)
            (chosen.run / "epochs.json").write_text(json.dumps(passes), encoding="utf-8")
        else:
            passes = json.loads((chosen.run / "epochs.json").read_text(encoding="utf-8"))
        path.write_text(recipe(chosen, tasks, passes), encoding="utf-8")
    return path


def distill(chosen: argparse.Namespace) -> None:
    """Student and control."""
    begun = time.monotonic()
    code = call("distill", written(chosen, "distill", ["wnli"]), "--output", chosen.run / "distill")
    if code:
        raise SystemExit(code)
    seconds = time.monotonic() - begun
    rows = [json.loads(line) for line in (chosen.run / "distill" / "results.jsonl").read_text("utf-8").splitlines()]
    with (chosen.output / "results.jsonl").open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    for row in rows:
        print(row["model"], row["metric"], row["value"], f"{row['seconds']:.1f} s", row["details"], flush=True)
    print(f"distilled in {seconds:.1f} s", flush=True)


def finetune(chosen: argparse.Namespace) -> None:
    """Task after task, as long as there is time; exit 1 where one failed or was left out."""
    end, longest, failed = time.monotonic() + chosen.seconds, WHOLE_RUN, []
    for task in chosen.tasks:
        begun, output = time.monotonic(), chosen.run / task
        if begun + longest > end and chosen.size != "toy":
            print(f"left out, no time: {task}", flush=True)
            failed.append(task)
            continue
        try:
            file = written(chosen, task, [task])
            code = 0 if (output / "student").exists() else call("prepare", file, "--output", output)
            for name in MODELS if not code else ():
                adopt(chosen.run / "distill" / name, output / name)
            code = code or call("evaluate", file, "--output", output)
        except Exception:
            traceback.print_exc()
            code = 1
        print(f"{task}: exit {code} after {time.monotonic() - begun:.1f} s", flush=True)
        if code:
            failed.append(task)
        else:
            keep(chosen, task)
    if failed:
        raise SystemExit(f"without {', '.join(failed)}")


def adopt(finished: Path, target: Path) -> None:
    """Put a finished folder of another run here, without taking its room twice."""
    if not target.exists():
        partial = target.with_name(f".{target.name}.adopted")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(finished, partial, copy_function=os.link)
        partial.rename(target)


def keep(chosen: argparse.Namespace, task: str) -> None:
    """Write the scores, and how fast was trained, beside the other measurements."""
    output = chosen.run / task
    scores = [json.loads(line) for line in (output / "results.jsonl").read_text("utf-8").splitlines()]
    with (chosen.output / "results.jsonl").open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in scores if row["task"] == task)
    rows = []
    for path in sorted((output / "tasks" / task).glob("*/seed-*/model/training.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        trained = facts["train_examples"] * TASK_EPOCHS.get(task, 3)
        if facts["seconds"]:
            rows.append({
                "measure": "finetune", "what": f"{path.parts[-4]} on {task}", "value": trained / facts["seconds"],
                "unit": "examples/s", "size": chosen.size, "steps": facts["steps"], "seconds": facts["seconds"],
                "note": f"{facts['steps']} steps in {facts['seconds']} s",
            })  # fmt: skip
    common.append(chosen.output / "measured.jsonl", rows)


def parse() -> argparse.Namespace:
    """The command line, which gpu_day.py writes."""
    parser = argparse.ArgumentParser(description="A part of gpu_day.py.")
    parser.add_argument("part", choices=("distill", "finetune"))
    for name in ("data", "teacher", "output", "run"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--size", choices=("full", "quick", "toy"), required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--tasks", nargs="+", default=[])
    return parser.parse_args()


def main() -> None:
    """Work on one part."""
    chosen = parse()
    (distill if chosen.part == "distill" else finetune)(chosen)


if __name__ == "__main__":
    main()

"""Every path and file name of runs, ablations and sweeps."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydistilbert.storage import atomic

MEASUREMENTS = "measurements.jsonl"
"""In the folder of a stage: its measurements."""
LOG = "log.jsonl"
"""In the folder of a training: a line for each step and each validation."""
TRAINING_FACTS = "training.json"
"""In a fine-tuned model: the train examples used, of how many, and the steps and seconds of its training."""
SAMPLES = "samples.jsonl"
"""In a folder of scores: a few examples with labels and predictions."""
CARD = "README.md"
"""In a model's folder that may be shared: its card. No manifest lists it, because people write into it."""
AUGMENTED_EXAMPLES = "examples.parquet"
SOFT_TARGETS = "logits.npy"
BENCHMARK_TIMES, VARIANT_TIMES = "latencies.jsonl", "latencies.json"
"""Every single timing: of the stage benchmark, and of compressed variants."""
EXAMPLE_HASH = "example"
"""Column in files of predictions: the hash of the example's texts and label; version 0.1 did not write it."""
JOBS = "jobs"
"""In the folder of a study, the output of each of its parts while `--jobs` runs them; that of a failed part stays."""
_SECOND_DISTILLATION, _SECOND_DISTILLATION_FOLDER = " (D)", "-d"


def predictions_file(split: str | int) -> str:
    """Return the name of the file with the predictions on a split, or of a compressed variant by its number."""
    slug = re.sub(r"\W+", "-", str(split)).strip("-")
    return f"predictions-{slug}.parquet"


def row_folder(row: str) -> str:
    """Return the folder name of a row of the tables: `student-d` for `student (D)`; spaces become dashes."""
    return row.replace(_SECOND_DISTILLATION, _SECOND_DISTILLATION_FOLDER).replace(" ", "-")


def training_facts(model: Path) -> dict[str, Any]:
    """Return what `finetune` wrote about a model's training; empty for a model from elsewhere.

    Raises:
        UserError: the file has changed since it was written.
    """
    has_facts = (model / TRAINING_FACTS).is_file()
    if not has_facts and atomic.is_finished(model):  # lost, or never written
        has_facts = TRAINING_FACTS in atomic.read_manifest(model, verify=False)["files"]
    if not has_facts:
        return {}
    facts: dict[str, Any] = atomic.read_json(atomic.intact(model, TRAINING_FACTS))
    return facts


@dataclass(frozen=True)
class VariantFolder:
    """The steps from a task model to one compressed variant, each in a finished folder."""

    path: Path

    @property
    def name(self) -> str:
        """`whole`, `keep-N` (per cent of heads and neurons) or `layers-N`."""
        return self.path.name

    @property
    def pruned(self) -> Path:
        """The model just after pruning."""
        return self.path / "cut"

    @property
    def recovered(self) -> Path:
        """The pruned model after recovery fine-tuning."""
        return self.path / "model"

    @property
    def trimmed(self) -> Path:
        """The model with a smaller vocabulary."""
        return self.path / "trimmed"

    @property
    def onnx(self) -> Path:
        """The model exported in fp32."""
        return self.path / "onnx"

    @property
    def int8(self) -> Path:
        """The exported model in int8."""
        return self.path / "int8"

    def openvino(self, precision: str) -> Path:
        """The exported model for OpenVINO, in bf16 or int8."""
        return self.path / f"openvino-{precision}"


@dataclass(frozen=True)
class CompressedFolder:
    """The results of `compress` for the model of one task."""

    path: Path

    @property
    def best(self) -> Path:
        """The chosen variant."""
        return self.path / "best"

    @property
    def summary(self) -> Path:
        """Measurements, predictions and times of all variants."""
        return self.path / "summary"

    @property
    def soft_targets(self) -> Path:
        """The predictions of the teachers of recovery fine-tuning."""
        return self.path / "targets"

    def just_pruned(self) -> list[Path]:
        """The pruned models before recovery fine-tuning."""
        return sorted(self.path.glob("*/cut"))

    def models(self) -> list[Path]:
        """Every model of every variant, exported or not; the chosen one is in `best` too."""
        names = ("onnx/*.onnx", "model.onnx", "model.xml", "model*.safetensors")
        files = (path.relative_to(self.path) for name in names for path in self.path.glob(f"*/*/{name}"))
        return sorted({self.path.joinpath(*path.parts[:2]) for path in files})

    def variant(self, name: str) -> VariantFolder:
        """The folder of a variant: `whole`, `keep-N` or `layers-N`."""
        return VariantFolder(self.path / name)


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The recipe of the run, as it ran."""
        return self.path / "recipe.toml"

    @property
    def inputs(self) -> Path:
        """Fingerprints of the data and local models, and revisions of the hub models, with which the run began."""
        return self.path / "inputs.json"

    @property
    def given_data(self) -> Path:
        """Data that a program passed in memory, not as files."""
        return self.path / "data"

    @property
    def notices(self) -> Path:
        """The notices of the run, one per line; missing if there were none."""
        return self.path / "notices.txt"

    @property
    def lost(self) -> Path:
        """Task models whose processes failed (`--jobs`), by title, with the reason; missing if none failed."""
        return self.path / "failed.json"

    @property
    def results(self) -> Path:
        """The measurements of all finished stages."""
        return self.path / "results.jsonl"

    @property
    def report(self) -> Path:
        """The report page."""
        return self.path / "report.html"

    @property
    def teacher(self) -> Path:
        """The teacher, adapted if the recipe says so."""
        return self.path / "teacher"

    @property
    def student(self) -> Path:
        """The distilled student."""
        return self.path / "student"

    @property
    def control(self) -> Path:
        """The control: layers cut as for the student, not distilled."""
        return self.path / "control"

    @property
    def model_card(self) -> Path:
        """The student's card."""
        return self.student / CARD

    @property
    def comparisons(self) -> Path:
        """The rows of the tables compared with one another, example by example."""
        return self.path / "comparisons"

    @property
    def benchmark(self) -> Path:
        """Sizes and latencies."""
        return self.path / "benchmark"

    def encoder(self, name: str) -> Path:
        """The folder of `teacher`, `student` or `control`."""
        return self.path / name

    def task(self, task: str) -> Path:
        """The folder of everything that belongs to one task."""
        return self.path / "tasks" / task

    def task_model(self, task: str, row: str, seed: int) -> Path:
        """The folder of a fine-tuned model."""
        return self._seed(task, row, seed) / "model"

    def scores(self, task: str, row: str, seed: int) -> Path:
        """The folder with predictions and measurements of a task model."""
        return self._seed(task, row, seed) / "scores"

    def _seed(self, task: str, row: str, seed: int) -> Path:
        return self.task(task) / row_folder(row) / f"seed-{seed}"

    def scores_of_seeds(self, task: str, row: str) -> list[Path]:
        """The score folders of a row on a task, finished or not."""
        return sorted((self.task(task) / row_folder(row)).glob("seed-*/scores"))

    def all_scores(self) -> list[Path]:
        """Every score folder; unfinished ones have another name, so a folder without a manifest is damaged."""
        return sorted(self.path.glob("tasks/*/*/seed-*/scores"))

    def all_task_models(self) -> list[Path]:
        """Every fine-tuned model."""
        return sorted(self.path.glob("tasks/*/*/seed-*/model"))

    def augmented(self, task: str) -> Path:
        """Copies of the train examples with words replaced."""
        return self.task(task) / "augmented"

    def rows(self, task: str, split: str) -> Path:
        """The rows of a large split, as they were read and checked; made again if missing."""
        return self.task(task) / "rows" / split

    def soft_targets(self, task: str) -> Path:
        """The predictions of the task's teachers on the train examples."""
        return self.task(task) / "targets"

    def cut_teacher(self, task: str) -> Path:
        """The layers of the task's fine-tuned teacher from which second distillations start."""
        return self.task(task) / "cut-teacher"

    def compressed(self, task: str) -> CompressedFolder:
        """The compressed variants of the task's model."""
        return CompressedFolder(self.task(task) / "compressed")


@dataclass(frozen=True)
class AblationFolder:
    """The paths of one ablation."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The recipe that all rows vary."""
        return self.path / "ablation.toml"

    @property
    def results(self) -> Path:
        """The measurements of all finished rows."""
        return self.path / "results.jsonl"

    @property
    def report(self) -> Path:
        """The report page."""
        return self.path / "report.html"

    @property
    def table(self) -> Path:
        """The table alone."""
        return self.path / "ablation.md"

    @property
    def references(self) -> RunFolder:
        """The run with what all rows share: the teacher, and the scores of the teacher and the control."""
        return RunFolder(self.path / "base")

    def row(self, name: str, seed: int) -> RunFolder:
        """The run of a row with a seed; `name` is the name of its folder."""
        return RunFolder(self.path / "rows" / name / f"seed-{seed}")


@dataclass(frozen=True)
class SweepFolder:
    """The paths of one sweep."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The recipe that all trials vary."""
        return self.path / "sweep.toml"

    @property
    def space(self) -> Path:
        """The search space, in words."""
        return self.path / "space.txt"

    @property
    def journal(self) -> Path:
        """Optuna's record of the trials, if no other storage was named."""
        return self.path / "trials.log"

    @property
    def best(self) -> Path:
        """The recipe of the best trial so far."""
        return self.path / "best.toml"

    @property
    def report(self) -> Path:
        """The report page."""
        return self.path / "report.html"

    @property
    def table(self) -> Path:
        """The table alone."""
        return self.path / "sweep.md"

    @property
    def base(self) -> RunFolder:
        """The run with what all trials share: the adapted teacher."""
        return RunFolder(self.path / "base")

    def trial(self, number: int) -> RunFolder:
        """The run of a trial."""
        return RunFolder(self.path / "trials" / f"{number:04d}")

    def lock(self, number: int) -> Path:
        """The lock of the process that works on a trial."""
        return self.path / "trials" / f"{number:04d}.lock"


def run_of_task_model(model: Path) -> tuple[RunFolder, str, str] | None:
    """Return run, task and row of a model at RUN/tasks/TASK/ROW/seed-N/model; None for any other path."""
    parts = model.absolute().parts
    if len(parts) < 6 or parts[-5] != "tasks":
        return None
    run, task, row = RunFolder(Path(*parts[:-5])), parts[-4], parts[-3]
    return (run, task, row.replace(_SECOND_DISTILLATION_FOLDER, _SECOND_DISTILLATION)) if run.recipe.is_file() else None


def states(run: RunFolder, section: str, key: str) -> bool:
    """Whether the run's recipe contains a key; recipes of versions older than the key do not."""
    stored: dict[str, Any] = tomllib.loads(run.recipe.read_text(encoding="utf-8"))
    return key in stored.get(section, {})


def released_models(run: RunFolder) -> list[Path]:
    """The models of the run whose weights were deleted because nothing needed them any more."""
    made = [run.teacher, run.control, *run.path.glob("tasks/*/cut-teacher"), *run.all_task_models()]
    made += run.path.glob("tasks/*/compressed/*/*")
    return sorted(path for path in made if atomic.is_finished(path) and atomic.is_released(path))

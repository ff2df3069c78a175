"""The model card of a student: README.md with the header that the Hugging Face hub reads, and what was measured."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import ModelCardData

from tinydistilbert import __version__
from tinydistilbert.recipe.schema import OFFLINE_TEACHER, PYTHON_DOCS, Recipe, recipe_hash
from tinydistilbert.report import paper_tables
from tinydistilbert.report.card_text import EARLIER, card, code, escaped, without_tags, write
from tinydistilbert.report.inheritance import OFFLINE_ON_HUB, UNKNOWN, model_source, text_source
from tinydistilbert.report.read import read_run
from tinydistilbert.report.speed import speed_table
from tinydistilbert.report.summary import summarize
from tinydistilbert.report.table import to_markdown
from tinydistilbert.results import Measurement
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.tasks import tasks_of

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
MODELS = {OFFLINE_TEACHER: OFFLINE_ON_HUB}
CORPORA = {"wikitext2": "Salesforce/wikitext", PYTHON_DOCS: None}
"""Names on the hub of our own names for models and texts."""


def hub_name(name: str, known: Mapping[str, str | None]) -> str | None:
    """Return the hub's name of a model or data set; None for a path on this machine, which means nothing elsewhere."""
    if name in known:
        return known[name]
    return name if HUB_NAME.fullmatch(name) and not Path(name).exists() else None


def shown_name(name: str) -> str:
    """Return how a card names a model or text: our own and the hub's names unchanged, the last part of a path."""
    is_known = name in MODELS or name.partition(":")[0] in CORPORA or hub_name(name, {}) is not None
    return name if is_known else Path(name).name


def _number(value: float | tuple[float, float], scale: float = 1) -> str:
    """Return the text of a setting that may change from the first step to the last."""
    ends = value if isinstance(value, tuple) else (value,)
    return " → ".join(f"{scale * end:g}" for end in ends)


def _header(recipe: Recipe, name: str, licence: str) -> ModelCardData:
    corpus = hub_name(recipe.corpus.source.partition(":")[0], CORPORA)
    return ModelCardData(
        model_name=name,
        license=licence,
        library_name="transformers",
        pipeline_tag="fill-mask",
        tags=["distillation", "tinydistilbert", "fill-mask"],
        base_model=hub_name(recipe.teacher.model, MODELS),
        datasets=[corpus] if corpus else None,
    )


def model_card(measurements: Sequence[Measurement], recipe: Recipe, *, name: str) -> str:
    """Return the text of README.md for a student folder.

    Args:
        measurements: measurements of the run that made the student; if empty, the card says that nothing was measured.
        recipe: what the student was made with.
        name: the heading, usually the name of the folder.
    """
    objective, tasks = recipe.objective, tasks_of(recipe.finetune)
    weights = ", ".join(f"{term} {_number(getattr(objective, term))}" for term in objective.terms)
    layers = recipe.student.layers
    cut = f"`{layers}`" if isinstance(layers, str) else ", ".join(map(str, layers))
    random = recipe.student.initialization == "random"
    start = "The student began with random weights" if random else f"Layers copied from it: {cut}"
    measured = [
        table
        for table in (
            paper_tables.pretraining_table(measurements),
            *paper_tables.score_tables(measurements, tasks),
            speed_table(measurements),
        )
        if table.is_measured
    ]
    corpus, masked, temperature = recipe.corpus, _number(recipe.masking.rate, 100), _number(objective.temperature)
    base = hub_name(recipe.teacher.model, MODELS)
    sources = [
        model_source("Weights", recipe.teacher.model, base),
        text_source(corpus.source, hub_name(corpus.source.partition(":")[0], CORPORA)),
    ]
    parts = [
        f"# {escaped(name)}\n",
        summarize(measurements, tasks).verdict + "\n" if measurements else "Nothing was measured on this model yet.\n",
        f"{EARLIER} that holds this file:\n",
        '```python\nfrom transformers import pipeline\n\npipeline("fill-mask", model="path/to/folder")\n```\n',
        "## How it was made\n",
        f"- Teacher: {code(shown_name(recipe.teacher.model))}. {start}.",
        f"- Text: {code(shown_name(corpus.source))} in blocks of {corpus.block_size} tokens, {masked} % masked.",
        f"- Objective: {weights}; temperature {temperature}; KL at {objective.kl_positions} positions.",
        f"- Recipe {code(recipe.name)}, {recipe_hash(recipe)}; seed {recipe.seed}; tinydistilbert {__version__}.\n",
        *(["## Measured\n", *(to_markdown(table) for table in measured)] if measured else []),
        "## Limits\n",
        "Scores on tasks are those of copies of this model that were fine-tuned on them, not of this model as it is. "
        "`SentenceTransformer` opens it and pools tokens as for the teacher; how well it compares texts was not "
        "measured. It has the biases of its teacher and of the text; check for them before it decides anything about "
        "people.\n",
        "## Licence and data\n",
        *[source.line for source in sources],
    ]
    header = _header(recipe, name, sources[0].licence or UNKNOWN)
    return card(header, without_tags("\n".join(parts)))


def write_card(run: Path) -> Path:
    """Write the card of a run's student as `student/README.md` and return its path.

    Raises:
        UserError: `run` is not a run folder.
    """
    settings, measurements = read_run(run)
    return write(RunFolder(run).student, model_card(measurements, settings, name=f"{run.resolve().name}/student"))

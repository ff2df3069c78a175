"""Custom tasks, from the recipe's section `finetune.custom`."""

from tinydistilbert.errors import UserError
from tinydistilbert.recipe.schema import CustomTask
from tinydistilbert.tasks.base import Kind, ScoreTable, Task
from tinydistilbert.tasks.hash_split import scored_share

METRICS: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1", "matthews_correlation"),
    "regression": ("pearson", "spearman", "pearson_spearman_mean"),
    "span": ("exact_match", "f1"),
    "multi-label": ("micro_f1", "macro_f1", "exact_match"),
    "token-classification": ("entity_f1", "entity_precision", "entity_recall"),
}
TABLE = ScoreTable(
    "custom", "Your tasks", "Tasks from the files or data sets that the recipe names in finetune.custom, in points."
)
HEADLINES: dict[Kind, str] = {
    "classification": "accuracy", "regression": "pearson_spearman_mean", "span": "f1",
    "multi-label": "micro_f1", "token-classification": "entity_f1",
}  # fmt: skip


def custom_task(name: str, settings: CustomTask) -> Task:
    """Return the task that a recipe section describes; its classes are known once its train split is read.

    Raises:
        UserError: one column is used for two purposes, several label columns are given for a kind other than
            multi-label, or a token classification task has a second text.
    """
    where = f"finetune.custom.{name}"
    is_span = settings.kind == "span"
    text, text_pair = settings.text, settings.text_pair or None
    if is_span:
        text, text_pair = "question" if text == CustomTask().text else text, text_pair or "context"
    if text_pair and settings.kind == "token-classification":
        fix = "leave text_pair (--text-pair) out"
        raise UserError(f"{where}.text_pair", expected="one text for each example", found=repr(text_pair), fix=fix)
    label_columns = () if isinstance(settings.label, str) else settings.label
    if label_columns and settings.kind != "multi-label":
        expected, found = "one column of labels", f"{len(label_columns)}: {', '.join(label_columns)}"
        fix = 'set kind = "multi-label" (--kind multi-label) if each column is a label that a text has or does not have'
        raise UserError(f"{where}.label", expected=expected, found=found, fix=fix)
    if not label_columns and not isinstance(settings.label, str):
        raise UserError(f"{where}.label", expected="a column", found="none", fix="name it (--label)")
    label = settings.label if isinstance(settings.label, str) else ", ".join(label_columns)
    columns = [text, *([text_pair] if text_pair else []), *([] if is_span else label_columns or [label])]
    if len(set(columns)) < len(columns):
        found = ", ".join(columns)
        fix = "name a different column for each of text, text_pair and label"
        raise UserError(where, problem=f"one column is named twice: {found}", fix=fix)
    share = scored_share(settings.validation, f"{where}.validation")
    return Task(
        name=name, title=name, table=TABLE, kind=settings.kind, text=text, text_pair=text_pair,
        label=label, label_columns=label_columns, label_separator=settings.label_separator, labels=(),
        labels_from_data=True,
        metrics=METRICS[settings.kind], headline=HEADLINES[settings.kind],
        files={"train": settings.train, "validation": settings.train if share else settings.validation},
        scored_share=share, quoting=settings.quoting,
        max_length=settings.max_length or (384 if is_span else 128), doc_stride=128 if is_span else 0,
        may_lack_answer=is_span, answer_units=settings.answer_units,
    )  # fmt: skip

"""The examples of a task that a recipe requests: which split, how many, and what is held out of the train split."""

from pathlib import Path

from tinydistilbert.models.lengths import trained_length
from tinydistilbert.models.loading import load_config, load_tokenizer, longest_input
from tinydistilbert.recipe.schema import Finetune, Recipe
from tinydistilbert.tasks import HELD_OUT, load_examples
from tinydistilbert.tasks.base import Examples, Task


def held_out_of_train(finetune: Finetune, task_name: str) -> int | None:
    """Return how many train texts are held out for scoring or choosing; 0 = a tenth, None = none."""
    if finetune.score_on == "train":
        return finetune.settings(task_name).validation_examples
    return 0 if finetune.select == "heldout" else None


def length_for(finetune: Finetune, task: Task, given: str | Path) -> int:
    """Return the maximum input length for a task model from elsewhere, in tokens.

    It is the length in the recipe, else the length the model was trained with, so that its score describes how it is
    used; if that is unknown, the task's length, limited by the model's position embeddings.
    """
    if stated := finetune.stated_max_length(task.name):
        return stated
    config, tokenizer = load_config(given), load_tokenizer(given)
    reach = longest_input(config)
    return trained_length(Path(given), tokenizer.model_max_length, reach) or min(task.max_length, reach)


def scored_split(finetune: Finetune, task: Task) -> str:
    """Return the split of the task that the tables show."""
    return HELD_OUT if finetune.score_on == "train" else task.evaluation[0]


def recipe_examples(recipe: Recipe, task: Task, split: str, *, limit: int = 0) -> Examples:
    """Return the examples of a split, loaded by `load_examples` with the recipe's data, seed and hold-out.

    Raises:
        UserError: the split is missing or wrong.
    """
    return load_examples(
        task, split, data=recipe.data, corpus=recipe.corpus, limit=limit, seed=recipe.seed,
        held_out=held_out_of_train(recipe.finetune, task.name),
    )  # fmt: skip


def whole_train_split(recipe: Recipe, task: Task) -> Examples:
    """Return all examples of the train split, including those that the recipe holds out or leaves out.

    Raises:
        UserError: the split is missing or wrong.
    """
    return load_examples(task, task.train, data=recipe.data, corpus=recipe.corpus, limit=0, seed=recipe.seed)

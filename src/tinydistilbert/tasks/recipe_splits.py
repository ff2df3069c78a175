"""The examples that a recipe wants of a task: which split, how many, and what of the train split is held out."""

from pathlib import Path

from tinydistilbert.models.lengths import trained_length
from tinydistilbert.models.loading import load_config, load_tokenizer, longest_input
from tinydistilbert.recipe.schema import Finetune, Recipe
from tinydistilbert.tasks import HELD_OUT, load_examples
from tinydistilbert.tasks.base import Examples, Task


def held_out_of_train(finetune: Finetune, task_name: str) -> int | None:
    """How many train examples are never trained on, because they are scored or choose; 0 = a tenth, None = none."""
    if finetune.score_on == "train":
        return finetune.settings(task_name).validation_examples
    return 0 if finetune.select == "heldout" else None


def length_for(finetune: Finetune, task: Task, given: str | Path) -> int:
    """Tokens that are read of an input of a task by a task model from elsewhere.

    They are as many as the recipe states, else as many as the model was trained with, so that its score belongs to what
    is used; where that is unknown, the task's own length, as far as the model's position embeddings reach.
    """
    if stated := finetune.stated_max_length(task.name):
        return stated
    config, tokenizer = load_config(given), load_tokenizer(given)
    reach = longest_input(config)
    return trained_length(Path(given), tokenizer.model_max_length, reach) or min(task.max_length, reach)


def scored_split(finetune: Finetune, task: Task) -> str:
    """The split of the task that the tables show."""
    return HELD_OUT if finetune.score_on == "train" else task.evaluation[0]


def recipe_examples(recipe: Recipe, task: Task, split: str, *, limit: int = 0) -> Examples:
    """Examples of a split, as `load_examples` gives them with the recipe's data, seed and hold-out.

    Raises:
        UserError: the split is missing or wrong.
    """
    return load_examples(
        task, split, data=recipe.data, corpus=recipe.corpus, limit=limit, seed=recipe.seed,
        held_out=held_out_of_train(recipe.finetune, task.name),
    )  # fmt: skip


def whole_train_split(recipe: Recipe, task: Task) -> Examples:
    """All examples of the train split, also those that the recipe holds out or leaves out.

    Raises:
        UserError: the split is missing or wrong.
    """
    return load_examples(task, task.train, data=recipe.data, corpus=recipe.corpus, limit=0, seed=recipe.seed)

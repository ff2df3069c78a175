"""The recipe: presets load, mistakes are told in one line with the cure, what is shown can be read again."""

import dataclasses

import pytest

from tinydistilbert import recipe, recipe_file
from tinydistilbert.errors import UserError


@pytest.mark.parametrize("name", list(recipe_file.presets()))
def test_every_preset_loads_and_survives_being_shown(name: str) -> None:
    loaded = recipe_file.load(name)
    assert loaded.name == name
    assert recipe_file.from_toml(recipe_file.to_toml(loaded), "shown") == loaded
    assert recipe_file.presets()[name].startswith("# ")


def test_the_presets_are_all_there() -> None:
    assert {"quickstart", "minilm", "seed", "distilbert"} <= set(recipe_file.presets())


def test_the_seed_takes_its_27_steps() -> None:
    distill = recipe_file.load("seed").distill
    blocks_per_step = distill.optimization.batch_size * distill.optimization.gradient_accumulation_steps
    assert -(-36_718 * distill.epochs // blocks_per_step) == 27


def test_a_part_of_a_section_keeps_the_defaults_of_that_section() -> None:
    changed = recipe_file.from_toml("[finetune.optimization]\nlearning_rate = 1e-4", "here").finetune.optimization
    assert changed == dataclasses.replace(recipe.Finetune().optimization, learning_rate=1e-4)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("objectiv.kl = 3", ["key objectiv", "did you mean 'objective'"]),
        ("[objective]\ntemprature = 2", ["key objective.temprature", "did you mean 'temperature'"]),
        ("[objective]\ntemperature = 'hot'", ["key objective.temperature", "'hot'"]),
        ("[objective]\ntemperature = 0", ["key objective.temperature", "greater than 0"]),
        ("[objective]\nkl = 0\nmlm = 0\ncosine = 0", ["only zeros"]),
        ("[masking]\nmask_share = 0.8\nrandom_share = 0.3", ["mask_share + random_share <= 1"]),
        ("[masking]\nrate = 1.5", ["key masking.rate", "less than 1"]),
        ("[student]\nlayers = 'odd'", ["key student.layers", "'authors'"]),
        ("[student]\nlayers = [0, 1]\nnum_hidden_layers = 2", ["found both"]),
        ("[finetune]\ntasks = ['colla']", ["'colla'", "did you mean 'cola'"]),
        ("[finetune.override.cola]\nepoch = 3", ["finetune.override.cola.epoch", "did you mean 'epochs'"]),
        ("[finetune.override.collar]\nepochs = 3", ["'collar'", "did you mean 'cola'"]),
        ("seed = -1", ["key seed", "greater than or equal to 0"]),
        ("x =", ["mine.toml", "TOML"]),
    ],
)
def test_mistakes_are_told_in_one_line(text: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        recipe_file.from_toml(text, "mine.toml")
    message = str(caught.value)
    assert message.startswith("mine.toml") and "\n" not in message
    for part in (*parts, "expected", "found"):
        assert part in message


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        recipe_file.load("quikstart")


def test_the_hash_names_the_content_and_not_the_place() -> None:
    base = recipe_file.load("quickstart")
    assert recipe.recipe_hash(base) == recipe.recipe_hash(dataclasses.replace(base, data="/elsewhere", device="cpu"))
    assert recipe.recipe_hash(base) != recipe.recipe_hash(dataclasses.replace(base, seed=1))


def test_settings_of_a_task_are_the_sections_with_its_override() -> None:
    section = recipe_file.from_toml("[finetune.override.cola]\nepochs = 9\nlearning_rate = 1e-3", "here").finetune
    assert section.settings("cola").epochs == 9 and section.settings("cola").optimization.learning_rate == 1e-3
    assert section.settings("rte") == section.settings("sst2") == dataclasses.replace(section, override={})

"""The recipe: presets load, mistakes are told in one line with the cure, what is shown can be read again."""

import dataclasses
import tomllib
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinydistilbert import run_folder, run_record
from tinydistilbert.cli import main
from tinydistilbert.cli.request import request
from tinydistilbert.errors import UserError
from tinydistilbert.recipe import schema, toml, types
from tinydistilbert.recipe.types import highest, ramp_at, seconds_of


@pytest.mark.parametrize("name", list(toml.presets()))
def test_every_preset_loads_and_survives_being_shown(name: str) -> None:
    loaded = toml.load(name)
    assert loaded.name == name
    assert toml.from_toml(toml.to_toml(loaded), "shown") == loaded
    assert toml.presets()[name].startswith("# ")


def test_the_presets_are_all_there() -> None:
    known = {"quickstart", "minilm", "seed", "distilbert", "wikitext2", "ablation", "small-glue", "squad", "table3"}
    assert known | {"task-student"} == set(toml.presets())


def test_the_seed_takes_its_27_steps() -> None:
    distill = toml.load("seed").distill
    blocks_per_step = distill.optimization.batch_size * distill.optimization.gradient_accumulation_steps
    assert -(-36_718 * distill.epochs // blocks_per_step) == 27


def test_a_part_of_a_section_keeps_the_defaults_of_that_section() -> None:
    changed = toml.from_toml("[finetune.optimization]\nlearning_rate = 1e-4", "here").finetune.optimization
    assert changed == dataclasses.replace(schema.Finetune().optimization, learning_rate=1e-4)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("objectiv.kl = 3", ["key objectiv", "did you mean 'objective'"]),
        ("[objective]\ntemprature = 2", ["key objective.temprature", "did you mean 'temperature'"]),
        ("finetune.learning_rate = 1e-4", ["did you mean 'finetune.optimization.learning_rate'?"]),
        ("temperature = 3", ["did you mean 'objective.temperature' or 'finetune.distillation.temperature'?"]),
        ("[objective]\ntemperature = 'hot'", ["key objective.temperature", "'hot'"]),
        ("[objective]\ntemperature = 0", ["key objective.temperature", "a number > 0 or two of them (start, end)"]),
        ("objective.kl = 'x'", ["key objective.kl:", "a number >= 0 or two of them (start, end)", "'x'"]),
        ("objective.kl = [5, -1]", ["key objective.kl:", "a number >= 0 or two of them (start, end)", "[5, -1]"]),
        ("objective.kl = [1, 2, 3]", ["key objective.kl:", "a number >= 0 or two of them (start, end)", "[1, 2, 3]"]),
        ("objective.matched_layers = [0, -1]", ["'uniform', 'copied' or a list of whole numbers >= 0", "[0, -1]"]),
        ("student.layers = [0, 2, 5]\nobjective.matched_layers = [0, 1]", ["3 layers, one for each", "[0, 1]"]),
        ("student.num_hidden_layers = 3\nobjective.matched_layers = [0, 1]", ["3 layers, one for each", "[0, 1]"]),
        ("objective.matched_layers = []", ["key objective.matched_layers", "at least one layer"]),
        ("[objective]\nkl = 0\nmlm = 0\ncosine = 0", ["all terms have the weight 0"]),
        ("[masking]\nmask_share = 0.8\nrandom_share = 0.3", ["mask_share + random_share <= 1"]),
        ("[masking]\nrate = 1.5", ["key masking.rate", "a number > 0 and < 1 or two"]),
        ("[student]\nlayers = 'odd'", ["key student.layers", "'distilbert'"]),
        ("[student]\nlayers = []", ["key student.layers", "at least one layer"]),
        ("[student]\nlayers = [0, 1]\nnum_hidden_layers = 2", ["both num_hidden_layers and a list"]),
        ("[finetune]\ntasks = ['colla']", ["'colla'", "did you mean 'cola'"]),
        ("[finetune.override.cola]\nepoch = 3", ["finetune.override.cola.epoch", "did you mean 'epochs'"]),
        ("[finetune.override.collar]\nepochs = 3", ["'collar'", "did you mean 'cola'"]),
        ("finetune.override = 3", ["key finetune.override:", "a table of keys"]),
        ("distill.time_budget = '20x'", ["key distill.time_budget", "a duration such as 20m, 1h30m or 90s", "'20x'"]),
        ("distill.time_budget = 20", ["key distill.time_budget", "a duration such as 20m, 1h30m or 90s", "20"]),
        ("[distill]\ntime_budget = '20m'\nmax_steps = 5", ["key distill", "both time_budget and max_steps"]),
        ("distill.time_budget = '0m'", ["key distill.time_budget", "a duration above zero", "'0m'"]),
        ("ablate.seeds = []", ["key ablate.seeds", "at least one seed", "[]"]),
        ("ablate.seeds = [0, 0]", ["key ablate.seeds", "each once", "[0, 0]"]),
        ("finetune.seeds = []", ["key finetune.seeds", "at least one seed", "[]"]),
        ('name = ""', ["key name", "a text that is not empty", "''"]),
        ("distill.cache.kind = 'topk'", ["key distill.cache.kind", "'top-k'"]),
        ("distill.cache.kinds = 'top-k'", ["key distill.cache.kinds", "did you mean 'kind'"]),
        ("seed = -1", ["key seed", "greater than or equal to 0"]),
        ("x =", ["mine.toml", "TOML"]),
    ],
)
def test_mistakes_are_told_in_one_line(text: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        toml.from_toml(text, "mine.toml")
    message = str(caught.value)
    assert message.startswith("mine.toml") and "\n" not in message
    for part in (*parts, "; "):
        assert part in message


NOTEBOOK = "objective.reduction = 'notebook'\n"
HIDDEN = "distill.cache.kind = 'hidden'\n"
TOP_K = "distill.cache.kind = 'top-k'\nobjective.cosine = 0\n"


@pytest.mark.parametrize(
    ("allowed", "refused", "parts"),
    [
        *(
            (NOTEBOOK, f"objective.{term} = 1", [f"{term} has a weight"])
            for term in ("relation", "attention", "hidden")
        ),
        (NOTEBOOK, "objective.kl_positions = 'masked'", ["key objective.kl_positions", "'all'", "'masked'"]),
        (NOTEBOOK, "objective.kl_positions = 'sampled'", ["key objective.kl_positions", "'all'", "'sampled'"]),
        (NOTEBOOK, "objective.kl = [5, 1]", ["key objective.kl:", "one number", "[5.0, 1.0]"]),
        (NOTEBOOK, "objective.temperature = [2, 1]", ["key objective.temperature:", "one number", "[2.0, 1.0]"]),
        (NOTEBOOK, HIDDEN, ["key distill.cache.kind", "'hidden'"]),
        *(
            (HIDDEN, f"objective.{term} = 1", [f"the term {term} reads"])
            for term in ("relation", "attention", "hidden")
        ),
        ("distill.compile = true", "objective.hidden = 1", ["key distill.compile", "the term hidden reads"]),
        (HIDDEN, "masking.rate = [0.5, 0.15]", ["key masking.rate", "[0.5, 0.15]"]),
        (TOP_K, "masking.rate = [0.5, 0.15]", ["key masking.rate", "[0.5, 0.15]"]),
        (TOP_K, "objective.relation = 1", ["the term relation reads"]),
        (TOP_K, "objective.temperature = [4, 1]", ["key objective.temperature", "[4.0, 1.0]"]),
        ("distill.cache.kind = 'top-k'\nobjective.cosine = 0", "objective.cosine = [1, 0]", ["key objective.cosine"]),
    ],
)
def test_what_does_not_go_together_is_refused_and_each_part_alone_is_not(
    allowed: str, refused: str, parts: list[str]
) -> None:
    toml.from_toml(allowed, "one")
    toml.from_toml(refused, "other")
    together = toml.merge(tomllib.loads(allowed), tomllib.loads(refused))
    with pytest.raises(UserError) as caught:
        toml.from_dict(together, "mine.toml")
    message = str(caught.value)
    assert message.startswith("mine.toml, key ") and "\n" not in message
    for part in (*parts, "; "):
        assert part in message


@pytest.mark.parametrize(
    "text",
    [
        HIDDEN + "objective.kl_positions = 'sampled'\nobjective.kl = [5, 1]\nobjective.temperature = [4, 1]",
        TOP_K + "objective.kl_positions = 'sampled'\nobjective.kl = [5, 1]",
        "[masking]\nsmoothing = 0.7\nwhole_words = true",
        "[objective]\nmatched_layers = [0, 3]",
        "[objective]\nmatched_layers = [0, 3]\n[student]\nlayers = [1, 2]",
        "[distill]\ntime_budget = '1h30m'\nepochs = 9",
    ],
)
def test_what_does_go_together_is_taken(text: str) -> None:
    loaded = toml.from_toml(text, "here")
    assert toml.from_toml(toml.to_toml(loaded), "shown") == loaded


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ("'30 %' = { masking.rat = 0.3 }", ["row '30 %' of ablate.rows, key masking.rat", "did you mean 'rate'"]),
        ("'30 %' = { masking.rate = 3 }", ["row '30 %' of ablate.rows, key masking.rate", "< 1"]),
        (
            "hot = { objective = { kl = 0, mlm = 0, cosine = 0 } }",
            ["row 'hot' of ablate.rows", "all terms have the weight 0"],
        ),
        ("hot = { objective.reduction = 'notebook', objective.kl_positions = 'masked' }", ["row 'hot'", "'masked'"]),
        ("hot = 3", ["key ablate.rows.hot", "a table of keys"]),
        ("hot = {}", ["row 'hot' of ablate.rows", "expected a change"]),
    ],
)
def test_a_wrong_row_of_an_ablation_is_named(rows: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        toml.from_toml(f"[ablate.rows]\n{rows}", "mine.toml")
    message = str(caught.value)
    assert message.startswith("mine.toml") and "\n" not in message
    for part in (*parts, "; "):
        assert part in message


def test_a_row_is_checked_against_the_recipe_that_it_changes() -> None:
    # Neither the recipe nor the row is wrong; together they are.
    row = "ablate.rows.relations.objective.relation = 1"
    toml.from_toml(row, "here")
    with pytest.raises(UserError, match=r"row 'relations' of ablate\.rows, key distill\.cache\.kind"):
        toml.from_toml(f"{row}\n{HIDDEN}", "here")


def test_rows_of_any_name_survive_being_shown() -> None:
    changes = {"masking": {"rate": [0.5, 0.15]}, "student": {"layers": [0, 2]}, "corpus": {"source": 'a "b" \\ c'}}
    rows = {"rate 30 %": changes, "größer": changes, 'say "x" \\': changes, "😀": changes, "a.b": changes}
    loaded = toml.from_dict({"ablate": {"rows": rows}}, "here")
    assert toml.from_toml(toml.to_toml(loaded), "shown") == loaded
    assert loaded.ablate.rows == rows


@settings(max_examples=30, deadline=None)
@given(st.text(min_size=1), st.text())
@example("\x7f", "\x7f\x00\x1f\x85\u2028\r\n\t\"\\'")
def test_every_text_survives_being_written(name: str, text: str) -> None:
    rows = {name: {"corpus": {"text_column": text}}}
    loaded = toml.from_dict({"name": name, "corpus": {"text_column": text}, "ablate": {"rows": rows}}, "here")
    assert toml.from_toml(toml.to_toml(loaded), "shown") == loaded
    assert loaded.name == name and loaded.ablate.rows == rows


def test_changes_replace_lists_and_go_into_tables() -> None:
    base = {"a": {"b": [1, 2], "c": 3}, "d": [4], "e": {"f": 1}}
    changes = {"a": {"b": 5}, "d": [6, 7], "e": 8}
    assert toml.merge(base, changes) == {"a": {"b": 5, "c": 3}, "d": [6, 7], "e": 8}


def test_one_value_is_a_list_where_only_a_list_can_be_meant() -> None:
    base = toml.from_toml(
        "[student]\nlayers = [0, 2]\n[masking]\nrate = [0.5, 0.2]\n[objective]\nmatched_layers = [1, 3]", "here"
    )
    # As the command line gives them: as text, laid over settings that are lists.
    changes = {
        "student": {"layers": "even"}, "masking": {"rate": "0.3"}, "objective": {"matched_layers": "1"},
        "finetune": {"tasks": "cola", "seeds": "3"},
    }  # fmt: skip
    changed = toml.from_dict(toml.merge(schema.to_dict(base), changes), "here")
    assert changed.student.layers == "even" and changed.masking.rate == 0.3
    assert changed.objective.matched_layers == (1,)
    assert changed.finetune.tasks == ("cola",) and changed.finetune.seeds == (3,)


def test_mistakes_leave_with_exit_code_2_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main(["distill", "quickstart", "--distill.time_budget", "20x", "--dry-run"])
    printed = capsys.readouterr().err
    assert stopped.value.code == 2 and printed.count("\n") == 1
    assert "key distill.time_budget: expected a duration such as 20m" in printed


@pytest.mark.parametrize(
    ("value", "values"),
    [(3.0, [3, 3, 3, 3, 3]), ((0.0, 1.0), [0, 0.25, 0.5, 0.75, 1]), ((0.5, 0.1), [0.5, 0.4, 0.3, 0.2, 0.1])],
)
def test_ramps_go_evenly_from_the_first_step_to_the_last(
    value: float | tuple[float, float], values: list[float]
) -> None:
    assert [ramp_at(value, step, 5) for step in range(5)] == pytest.approx(values)
    assert ramp_at(value, 0, 1) == values[0]
    assert highest(value) == max(values)


@pytest.mark.parametrize(("text", "seconds"), [("20m", 1200), ("1h30m", 5400), ("90s", 90), ("1.5h", 5400), ("", 0)])
def test_durations_by_hand(text: str, seconds: int) -> None:
    assert seconds_of(toml.from_toml(f"distill.time_budget = '{text}'", "here").distill.time_budget) == seconds


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        toml.load("quikstart")


def test_the_hash_names_the_content_and_not_the_place() -> None:
    base = toml.load("quickstart")
    assert schema.recipe_hash(base) == schema.recipe_hash(dataclasses.replace(base, data="/elsewhere", device="cpu"))
    assert schema.recipe_hash(base) != schema.recipe_hash(dataclasses.replace(base, seed=1))


def test_settings_of_a_task_are_the_sections_with_its_override() -> None:
    section = toml.from_toml("[finetune.override.cola]\nepochs = 9\nlearning_rate = 1e-3", "here").finetune
    assert section.settings("cola").epochs == 9 and section.settings("cola").optimization.learning_rate == 1e-3
    assert section.settings("rte") == section.settings("sst2") == dataclasses.replace(section, override={})


@pytest.mark.parametrize(
    ("text", "current"),
    [
        ('[student]\nlayers = "authors"', '[student]\nlayers = "distilbert"'),
        ('[finetune]\nselect = "published"', '[finetune]\nselect = "reported"'),
    ],
)
def test_a_deprecated_spelling_is_the_same_recipe_with_one_warning(
    text: str, current: str, caplog: pytest.LogCaptureFixture
) -> None:
    types._warn_of_renamed.cache_clear()
    before, now = toml.from_toml(text, "here"), toml.from_toml(current, "here")
    assert before == now and toml.to_toml(before) == toml.to_toml(now)
    assert toml.from_toml(text, "there") == now
    (warning,) = caplog.messages
    old, new = text.split()[-1].strip('"'), current.split()[-1].strip('"')
    assert f"{old!r} is a deprecated spelling; write {new!r}" in warning


@pytest.mark.parametrize(
    ("old", "key", "value"),
    [
        ("second_distillation = true", "tasks", "span"),
        ("second_distillation = false", "tasks", "none"),
        ("distillation_temperature = 3.0", "temperature", 3.0),
        ("distillation_weight = 0.25", "soft", 0.25),
    ],
)
def test_a_renamed_key_is_the_current_one_with_one_warning(
    old: str, key: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    types._warn_of_renamed.cache_clear()
    recipe = toml.from_toml(f"[finetune]\n{old}", "here")
    assert getattr(recipe.finetune.distillation, key) == value
    (warning,) = caplog.messages
    assert f"finetune.{old.split()[0]} is a deprecated" in warning and f"finetune.distillation.{key}" in warning
    row = toml.from_toml(f"[ablate.rows.one.finetune]\n{old}", "here").ablate.rows["one"]
    assert row == {"finetune": {"distillation": {key: value}}}
    name, text = old.split(" = ")
    flagged = request(["replicate", "minilm", f"--finetune.{name}", text]).recipe
    assert getattr(flagged.finetune.distillation, key) == value
    with pytest.raises(UserError, match=rf"finetune\.{name}.*the same setting is given as finetune"):
        toml.from_dict({"finetune": {name: value, "distillation": {key: value}}}, "here")


def test_a_list_of_one_fraction_needs_no_brackets() -> None:
    made = toml.from_toml('compress.keep = 0.5\n[finetune]\nselect = "heldout"\nlearning_rates = 5e-5', "a file")
    assert made.compress.keep == (0.5,) and made.finetune.learning_rates == (5e-5,)


PUBLISHED = sorted(
    path for path in (Path(__file__).parents[2] / "results").glob("*/*.toml") if path.name != "rows.toml"
)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_published_recipe_loads(path: Path) -> None:
    assert toml.load(str(path)).name in (path.parent.name, path.stem)
    assert len(PUBLISHED) >= 6


def test_renamed_values_leave_the_hash_of_a_recipe_as_measurements_have_it() -> None:
    """So do keys that came later, where they are not set; the hashes are those of version 0.1."""
    custom_task = schema.CustomTask(train="a.csv", validation="b.csv")
    recipes = {
        "49c805411a36": schema.Recipe(),
        "b979407c0dd4": schema.Recipe(finetune=schema.Finetune(custom={"mine": custom_task})),
        "ca6e6082769d": schema.Recipe(finetune=schema.Finetune(select="reported")),
    }
    assert {schema.recipe_hash(recipe): recipe for recipe in recipes.values()} == recipes
    assert schema.recipe_hash(schema.Recipe(corpus=schema.Corpus(quoting="none"))) not in recipes
    other = schema.Finetune(custom={"mine": dataclasses.replace(custom_task, quoting="none")})
    assert schema.recipe_hash(schema.Recipe(finetune=other)) not in recipes


def test_a_run_folder_with_a_deprecated_spelling_is_one_of_the_same_recipe(tmp_path: Path) -> None:
    stored = toml.to_toml(schema.Recipe())
    assert 'layers = "distilbert"' in stored
    (tmp_path / "recipe.toml").write_text(stored.replace('layers = "distilbert"', 'layers = "authors"'))
    assert run_record.is_begun(run_folder.RunFolder(tmp_path), schema.Recipe())

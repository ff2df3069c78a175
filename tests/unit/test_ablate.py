"""The rows of an ablation, and what is made of their measurements, with numbers worked by hand."""

import dataclasses
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tinydistilbert import results
from tinydistilbert.ablate.study import slug, study_of, variations
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Ablate, Recipe
from tinydistilbert.report import figures, published
from tinydistilbert.report.ablation import Ablation, Variation, ablation_table, findings, write_ablation
from tinydistilbert.results import Measurement
from tinydistilbert.tasks import HELD_OUT

ROWS = (
    Variation("baseline", {}),
    Variation("without KL", {"objective": {"kl": 0.0}}, -2.96),
    Variation("hot", {"a": 1}),
)


def recipe(text: str = "") -> Recipe:
    return toml.from_toml(text, "test")


def scored(row: str, task: str, seed: int, value: float, tuned: int = 0, **other: Any) -> Measurement:
    metric = {"rte": "accuracy", "stsb": "pearson_spearman_mean"}[task]
    given: dict[str, Any] = {"examples": 50, "examples_total": 50, "train_examples": 100, "train_examples_total": 2490}
    return Measurement(
        row,
        task,
        metric,
        value,
        HELD_OUT,
        seed=seed,
        details={"finetune_seed": tuned, "warnings": []},
        **given,
        **other,
    )


def pretrained(row: str, seed: int, kl: float) -> list[Measurement]:
    details = {"steps": 160, "tokens": 2_600_000}
    return [
        Measurement(row, "pretraining", metric, value, "validation", False, seed=seed, seconds=120, details=details)
        for metric, value in (("kl", kl), ("mlm", kl + 2))
    ]


def study() -> Ablation:
    """Two seeds; the scores of RTE and STS-B by row and seed."""
    values = {
        "teacher": {0: (0.70, 0.90)}, "baseline": {0: (0.60, 0.80), 1: (0.62, 0.82)},
        "without KL": {0: (0.58, 0.76), 1: (0.62, 0.80)},
    }  # fmt: skip
    measurements = [
        scored(row, task, seed, value)
        for row, seeds in values.items()
        for seed, pair in seeds.items()
        for task, value in zip(("rte", "stsb"), pair, strict=True)
    ]
    for row, kls in {"baseline": (1.0, 1.2), "without KL": (1.5, 1.8)}.items():
        measurements += [m for seed, kl in enumerate(kls) for m in pretrained(row, seed, kl)]
    settings = recipe('name = "x"\n[finetune]\ntasks = ["rte", "stsb"]\nseeds = [0]\n[ablate]\nseeds = [0, 1]')
    return Ablation(settings, ROWS, measurements)


def cells(table: Any, row: str) -> dict[str, str]:
    (table_row,) = [r for r in table.rows if r.cells[0].text == row]
    return {
        heading: f"{cell.text} ({cell.detail})" if cell.detail else cell.text
        for heading, cell in zip(table.columns, table_row.cells, strict=True)
    }


def test_the_table_has_medians_ranges_and_changes_worked_by_hand() -> None:
    table = ablation_table(study())
    # Means: baseline 70, 72; without KL 67, 71, so seed by seed -3 and -1.
    assert cells(table, "baseline") == {
        "Row": "baseline (the recipe as it is)", "Published Δ": "–", "Mean of 2": "71.0 (70.0 to 72.0)", "Δ": "–",
        "RTE": "61.0 (60.0–62.0)", "STS-B": "81.0 (80.0–82.0)", "KL": "1.100 (1.000 to 1.200)",
        "Masked LM": "3.100 (3.000 to 3.200)", "Steps": "160", "Tokens": "2.60 M", "Minutes": "2.0",
    }  # fmt: skip
    without = cells(table, "without KL")
    assert without["Row"] == "without KL (objective.kl = 0)" and without["Published Δ"] == "−2.96"
    assert without["Mean of 2"] == "69.0 (67.0 to 71.0)" and without["Δ"] == "−2.0 (−3.0 to −1.0)"
    assert without["KL"] == "1.650 (1.500 to 1.800)"
    # The teacher was fine-tuned once: 80 against 70 and 72.
    assert cells(table, "teacher")["Δ"] == "+9.0 (+8.0 to +10.0)" and cells(table, "teacher")["KL"] == "–"
    assert set(cells(table, "hot").values()) == {"hot (a = 1)", "–"}
    assert [row.kind for row in table.rows] == ["baseline", "measured", "derived", "derived"]


def test_several_seeds_of_the_fine_tuning_count_each_for_itself() -> None:
    measured = [
        scored("baseline", "rte", 0, 0.50, tuned=0), scored("baseline", "rte", 0, 0.60, tuned=1),
        scored("hot", "rte", 0, 0.53, tuned=0), scored("hot", "rte", 0, 0.59, tuned=1),
        scored("control", "rte", 7, 0.40, tuned=0), scored("control", "rte", 7, 0.40, tuned=1),
    ]  # fmt: skip
    ablation = Ablation(recipe('[finetune]\ntasks = ["rte"]\nseeds = [0, 1]'), ROWS, measured)
    assert ablation.change("hot") == pytest.approx([-0.01, 0.03])
    assert ablation.change("control") == pytest.approx([-0.20, -0.10])


def test_a_change_that_rounds_to_nothing_has_no_sign() -> None:
    measured = [
        scored(row, task, 0, value)
        for row, task, value in (
            ("baseline", "rte", 0.6), ("baseline", "stsb", 0.8), ("hot", "rte", 0.5997), ("hot", "stsb", 0.8)
        )
    ]  # fmt: skip
    ablation = dataclasses.replace(study(), measurements=measured)
    assert cells(ablation_table(ablation), "hot")["Δ"] == "0.0"
    assert findings(ablation)[-1].endswith("hot, 0.0 points, with one seed.")


def test_a_row_without_all_tasks_has_no_mean() -> None:
    ablation = study()
    kept = [m for m in ablation.measurements if (m.model, m.task, m.seed) != ("without KL", "rte", 1)]
    assert dataclasses.replace(ablation, measurements=kept).change("without KL") == pytest.approx([-0.03])


def test_marks_and_notes_say_what_the_numbers_rest_on() -> None:
    table = ablation_table(dataclasses.replace(study(), failures={"hot": "seed 0: not finite"}))
    assert {cell.marks for cell in table.rows[1].cells[2:3]} == {"†§"}
    notes = " ".join(table.notes)
    assert "§ scored on examples of the train split that were not trained on: RTE 50, STS-B 50." in notes
    assert "Medians over 2 seeds of the distillation; " in notes and "Table 4" in notes
    assert "hot: failed, seed 0: not finite." in notes and "Not finished" not in notes
    assert "Not finished yet, or not with every seed: hot." in " ".join(ablation_table(study()).notes)
    one = dataclasses.replace(study(), recipe=recipe('[finetune]\ntasks = ["rte"]\nseeds = [0]'))
    assert "One seed" in " ".join(ablation_table(one).notes)


def test_without_tasks_the_table_has_the_losses_alone() -> None:
    measured = [m for seed in (0, 1) for m in pretrained("baseline", seed, 1.0 + seed)]
    table = ablation_table(Ablation(recipe(), ROWS, measured))
    assert table.columns == ("Row", "Published Δ", "KL", "Masked LM", "Steps", "Tokens", "Minutes")
    assert "held out of the train" not in table.caption


def test_findings_name_the_best_rows() -> None:
    lowest, highest = findings(study())
    assert lowest == "Lowest KL: baseline, 1.100 nats."
    sentence = "No row has a higher task mean than the baseline; the next: without KL, −2.0 points"
    assert highest == f"{sentence}, over the seeds −3.0 to −1.0."
    better = [*pretrained("hot", 0, 0.9), scored("hot", "rte", 0, 0.65), scored("hot", "stsb", 0, 0.80)]
    lowest, highest = findings(dataclasses.replace(study(), measurements=[*study().measurements, *better]))
    assert lowest == "Lowest KL: hot, 0.900 nats; the baseline has 1.100."
    assert highest == "Highest task mean: hot, +2.5 points, with one seed."
    assert findings(Ablation(recipe(), ROWS, [])) == []


def test_page_and_markdown_hold_every_row_and_escape_its_name(tmp_path: Path) -> None:
    script = "<script>alert(1)</script>"
    ablation = study()
    rows = (*ablation.variations, Variation(script, {"masking": {"rate": 0.3}}))
    measured = [*ablation.measurements, *pretrained(script, 0, 1.4)]
    table = write_ablation(
        tmp_path,
        dataclasses.replace(ablation, variations=rows, measurements=measured),
        command="tinydistilbert ablate x",
    )
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "3 of 4 rows measured" in page and "tinydistilbert ablate x" in page
    assert not re.search(r'(src|href)="(?!#)', page), "nothing is fetched"
    text = (tmp_path / "ablation.md").read_text()
    assert all(row.cells[0].text in text for row in table.rows)
    assert text.count("\n| ") == 2 + len(table.rows)


def test_the_figure_places_changes_published_ones_and_kl() -> None:
    effect = figures.Effect
    svg = figures.effects([effect("a", [-2.0, -1.0, 4.0], -2.96, [1.0, 2.0]), effect("b", [], None, []),
                           effect("c", [1.0], None, [4.0])])  # fmt: skip
    assert svg is not None
    words = {element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert {"a", "c", "Published", "Measured"} <= words and "b" not in words
    points = re.findall(
        r'<use xlink:href="#[^"]+" x="([0-9.]+)" y="([0-9.]+)" style="(?:fill|stroke): var\(--(\w+)', svg
    )
    student = [(float(x), float(y)) for x, y, colour in points if colour == "student"]
    control = [float(x) for x, _, colour in points if colour == "control"]
    (a, c), (kl_a, kl_c) = student[:2], student[2:4]
    # Medians -1 and 1 are as far apart as -2.96 and -0.96; the KL axis is logarithmic: 1.5 to 4.
    assert (a[0] - control[0]) / (c[0] - a[0]) == pytest.approx((2.96 - 1) / 2, abs=1e-3)
    assert a[1] < c[1] and kl_a[1] == a[1] and kl_a[0] < kl_c[0]
    assert figures.effects([effect("b", [], None, [])]) is None


def test_table_4_is_that_of_the_paper() -> None:
    rows = {row.name: row for row in variations(recipe())}
    assert {name: row.published for name, row in rows.items()} == {
        "baseline": None, "without KL": -2.96, "without cosine": -1.46, "without masked LM": -0.31,
        "random initialisation": -3.69,
    }  # fmt: skip
    assert rows["random initialisation"].description == "student.initialization = random"
    assert "arXiv:1910.01108v4, Table 4" in published.ABLATION
    assert [row.name for row in variations(recipe("[ablate]\ntable4 = false"))] == ["baseline"]


def test_a_row_of_table_4_that_changes_nothing_is_left_out() -> None:
    settings = recipe('[objective]\ncosine = 0\n[student]\ninitialization = "random"')
    assert [row.name for row in variations(settings)] == ["baseline", "without KL", "without masked LM"]


def test_slugs_are_folder_names() -> None:
    names = ["mask rate 30 → 15 %", "pure [MASK]", "cosine × 4", "../up"]
    assert [slug(name) for name in names] == ["mask-rate-30-15", "pure-mask", "cosine-4", "up"]


def test_every_run_differs_from_the_recipe_by_its_row_alone(tmp_path: Path) -> None:
    text = 'name = "x"\nadapt.tokens = 1000\n[finetune]\ntasks = ["rte"]\nmodels = ["teacher", "control"]\n'
    text += "[ablate]\nseeds = [4, 5]"
    settings = recipe(text + '\nrows = { "hot" = { objective.temperature = 4.0 } }')
    made = study_of(settings, tmp_path / "study", log=print)
    assert [(t.variation.name if t.variation else "", t.seed) for t in made.trials][:2] == [
        ("baseline", 4),
        ("without KL", 4),
    ]
    assert len(made.trials) == 2 * 6
    hot = made.trials[5].recipe
    assert made.trials[5].folder.path == tmp_path / "study" / "rows" / "hot" / "seed-4"
    assert (hot.name, hot.seed, hot.objective.temperature) == ("x/hot", 4, 4.0)
    assert (hot.finetune.models, hot.finetune.score_on, hot.ablate) == (("student",), "train", Ablate())
    assert (hot.teacher.model, hot.adapt.tokens) == (str(tmp_path / "study" / "base" / "teacher"), 0)
    base = made.references.recipe
    assert (base.finetune.models, base.adapt.tokens, base.seed) == (("teacher", "control"), 1000, settings.seed)
    more = recipe(
        text + '\nrows = { "hot" = { objective.temperature = 4.0 }, "cold" = { objective.temperature = 1.0 } }'
    )
    later = [trial.recipe for trial in study_of(more, tmp_path / "study", log=print).trials]
    assert all(trial.recipe in later for trial in made.trials), "a row that is added changes no other"


@pytest.mark.parametrize("preset", sorted(toml.presets()))
def test_every_preset_can_be_ablated(preset: str, tmp_path: Path) -> None:
    """Also where the recipe has second distillations from its teachers, which rows leave out."""
    made = study_of(toml.load(preset), tmp_path, log=pytest.fail)
    for trial in made.runs:
        assert toml.from_toml(toml.to_toml(trial.recipe), trial.title) == trial.recipe
    encoder = toml.load(preset).finetune.teacher
    assert [trial.recipe.finetune.teacher for trial in made.runs[:2]] == [encoder, ""]


def test_the_preset_has_the_rows_of_the_paper_and_its_own() -> None:
    rows = variations(toml.load("ablation"))
    in_preset = len(toml.load("ablation").ablate.rows)
    assert in_preset >= 7 and len(rows) == 1 + 4 + in_preset and len({slug(row.name) for row in rows}) == len(rows)


def test_results_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    results.write(tmp_path / "results.jsonl", study().measurements)
    again = dataclasses.replace(study(), measurements=results.read(tmp_path / "results.jsonl"))
    assert ablation_table(again) == ablation_table(study())

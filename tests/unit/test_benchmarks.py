"""The benchmarks' own arithmetic, and that the ways which are compared minimise the same."""

import itertools
import mmap
import multiprocessing
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cache_payoff
import common
import corpus_scaling
import distill_throughput
import narrowing
import numpy as np
import pytest
import rank_scaling
import reference_ways
import shrink_kinds
import step_memory
import study_scaling
import throughput_ways
import torch
import torch.nn.functional as F
from transformers import BertForMaskedLM

from tests import tiny
from tinydistilbert.benchmark import turns
from tinydistilbert.cli.request import request
from tinydistilbert.losses import terms as losses
from tinydistilbert.models import narrow
from tinydistilbert.models.narrow import Widths
from tinydistilbert.models.size import Size


def model(seed: int, vocabulary: int = 232, layers: int = 2) -> BertForMaskedLM:
    settings = {"vocab_size": vocabulary, "num_hidden_layers": layers, "initializer_range": 0.2}
    return tiny.model(seed=seed, **tiny.WIDER, **settings)


def vocabulary() -> object:
    return reference_ways.Vocabulary(size=232, cls=2, sep=3, pad=0, mask=4, special=(0, 1, 2, 3, 4))


def lines_batch() -> dict[str, torch.Tensor]:
    """Three rows of text, the second with three positions of padding."""
    rows = np.arange(5, 29).reshape(3, 8)
    rows[:, 0], rows[:, -1] = 2, 3
    rows[1, 4:] = [3, 0, 0, 0]
    batch = reference_ways.masked_batch(rows, vocabulary(), np.random.default_rng(5))
    assert (batch["labels"] != -100).any()
    return batch


def test_the_notebooks_rows_keep_blank_lines_and_cut_long_ones() -> None:
    rows = reference_ways.notebook_rows([[], [7, 8], list(range(5, 205))], vocabulary())
    assert rows.shape == (3, 128)
    assert rows[0, :3].tolist() == [2, 3, 0] and not rows[0, 2:].any()
    assert rows[1, :5].tolist() == [2, 7, 8, 3, 0]
    assert rows[2].tolist() == [2, *range(5, 131), 3]


def test_the_notebooks_tokens_are_the_mean_of_the_text() -> None:
    rows = reference_ways.notebook_rows([[], [7] * 6] * 20, vocabulary())  # 2 and 8 tokens, [CLS] and [SEP] among them
    batch, tokens = next(reference_ways.notebook_batches(rows, vocabulary(), 0))
    assert batch["input_ids"].shape == (16, 128)
    assert tokens == 16 * 5


def test_the_authors_sequences_are_cut_wrapped_and_never_very_short() -> None:
    made = reference_ways.authors_sequences([[7] * 9, [8] * 10, [9] * 30], 16, vocabulary())
    assert made == [[2, *[8] * 10, 3], [2, *[9] * 14, 3], [2, *[9] * 14, 3]]  # 9 + 2 is too short, and so is the rest


def test_the_authors_batches_have_one_length_bin_and_as_many_positions_as_asked_for() -> None:
    random = np.random.default_rng(0)
    lengths = [*range(12, 129)] * 40
    batches = reference_ways.grouped_by_length(lengths, 512, random)
    assert len({index for batch in batches for index in batch}) == sum(map(len, batches))
    for batch in batches:
        batch_lengths = [lengths[index] for index in batch]
        assert len({(length - 3) // 4 for length in batch_lengths}) == 1
        assert 512 - 128 < len(batch_lengths) * max(batch_lengths) <= 512
    useful = sum(lengths[index] for batch in batches for index in batch)
    assert useful > 0.95 * sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    with pytest.raises(ValueError, match="give more text"):
        reference_ways.grouped_by_length([20], 512, random)


def test_the_notebooks_loss_is_its_formula() -> None:
    student, teacher, batch = model(1), model(2), lines_batch()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        loss = reference_ways.notebook_loss(student, teacher, batch)
        s, t = (m(**inputs, output_hidden_states=True) for m in (student, teacher))
    kl = losses.notebook_kl(s.logits, t.logits, 2.0)
    mlm = F.cross_entropy(s.logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)
    cosine = 1 - F.cosine_similarity(s.hidden_states[-1][:, 0], t.hidden_states[-1][:, 0]).mean()
    assert float(loss) == pytest.approx(float(kl + mlm + cosine), rel=1e-5)


@pytest.mark.parametrize("only_masked", [False, True])
def test_the_authors_loss_is_ours(only_masked: bool) -> None:
    student, teacher, batch = model(1), model(2), lines_batch()
    with torch.no_grad():
        terms = reference_ways.authors_terms(student, teacher, batch, only_masked=only_masked)
    with_positions = throughput_ways.with_positions(batch)
    if only_masked:
        with_positions["soft"] = with_positions["masked"]
    objective = throughput_ways.LIBRARY_WAYS["ours_masked" if only_masked else "ours_all"]
    loss = throughput_ways.our_loss(student, teacher, objective, with_positions)
    assert float(loss) == pytest.approx(float(reference_ways.authors_loss(terms)), rel=1e-5)


def test_micro_steps_add_up_gradients_and_read_the_loss_and_its_terms() -> None:
    student, teacher, batch = model(1), model(2), lines_batch()
    read = reference_ways.authors_micro_step(student, teacher, batch, only_masked=False)
    once = student.get_input_embeddings().weight.grad.clone()
    reference_ways.authors_micro_step(student, teacher, batch, only_masked=False)
    assert torch.allclose(student.get_input_embeddings().weight.grad, 2 * once)
    assert read[0] == pytest.approx(5 * read[1] + 2 * read[2] + read[3], rel=1e-5)
    reference_ways.notebook_micro_step(student, teacher, batch)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_useful_operations_are_counted_by_hand() -> None:
    student, teacher = Size(0, 10, 2, 4, 8, 8), Size(0, 20, 4, 4, 8, 16)
    # 6 tokens in inputs of 3: matrices 2 x 10 a token, attention 4 x 3 x 4 x 2; head at 2 positions 2 x 4 x (4 + 8).
    layers, head, teacher_layers = 6 * (20 + 96), 2 * 96, 6 * (40 + 192)
    assert (
        turns.distillation_operations(student, teacher, 6, 3, 2, cached=False)
        == 3 * (layers + head) + teacher_layers + head
    )
    assert turns.distillation_operations(student, teacher, 6, 3, 2, cached=True) == 3 * (layers + head) + head


class Orders:
    """The end of a connection that has so many turns to give."""

    def __init__(self, turns: int) -> None:
        self.left, self.sent = [0.0] * turns, []

    def send(self, message: object) -> None:
        self.sent.append(message)

    def recv(self) -> float | None:
        return self.left.pop() if self.left else None


def test_the_clock_counts_each_turn_by_itself_and_ends_when_there_are_no_more() -> None:
    orders = Orders(2)
    clock = throughput_ways.Clock(orders)
    clock.between_steps()
    clock.count(7, 100)
    clock.between_steps()
    clock.count(5)
    with pytest.raises(throughput_ways.Finished):
        clock.between_steps()
    ready, first, second = orders.sent
    assert ready is None
    assert (first.tokens, first.operations, second.tokens, second.operations) == (7, 100, 5, 0)
    assert first.seconds > 0 and first.peak_mib > 1


def test_the_clock_goes_on_until_the_turn_is_long_enough() -> None:
    orders = Orders(1)
    orders.left = [3600.0]
    clock = throughput_ways.Clock(orders)
    clock.between_steps()
    clock.between_steps()
    assert orders.sent == [None]


def sample(speed: float, operations: float = 0.0) -> object:
    return turns.Sample(tokens=speed * 2, operations=operations * 2, seconds=2.0, peak_mib=100.0)


def test_ratios_are_medians_over_rounds_that_both_ways_have() -> None:
    samples = {
        "ours_all": {0: sample(20), 1: sample(30), 2: sample(60)},
        "notebook": {0: sample(10), 2: sample(10)},
        "authors_all": {0: sample(10), 1: sample(10), 2: sample(10)},
        "ours_masked": {0: sample(90, 3e9), 1: sample(90, 6e9)},
    }
    assert distill_throughput.summary(samples, [5e9, 9e9, 7e9]) == {
        "notebook": 4.0, "authors_all": 3.0, "authors_masked": None, "cached_masked": None,
        "peak_share": round(4.5 / 7, 3),
    }  # fmt: skip


class Recorded:
    """A process whose turns cost nothing."""

    def __init__(self, way: str, order: list[str], speed: object) -> None:
        self.way, self.order, self.speed = way, order, speed
        self.setup = SimpleNamespace(precision="fp32")

    def take(self, seconds: float) -> object:
        self.order.append(self.way)
        return self.speed


def test_ways_alternate_and_the_first_round_is_whole_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    monkeypatch.setattr(distill_throughput, "matrix_rate", lambda _: 1e9)
    turns = [Recorded(way, order, sample(1)) for way in "abc"]
    samples, rates = distill_throughput.alternate(turns, 2, 0.0, float("inf"))
    assert order == ["a", "b", "c", "b", "c", "a"] and rates == [1e9] * 6
    order.clear()
    samples, _ = distill_throughput.alternate(turns, 2, 0.0, deadline=0.0)
    assert order == ["a", "b", "c"] and {way: len(rounds) for way, rounds in samples.items()} == dict.fromkeys("abc", 1)


def test_step_times_leave_out_the_first_steps_and_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0, 11.0, 13.0, 16.0])
    monkeypatch.setattr(common.time, "perf_counter", lambda: next(now))
    times = common.StepTimes(lambda step, _: [{"counted": torch.arange(step + 1)}, {"counted": torch.arange(100)}])
    for step in range(5):
        assert len(times(step)) == 2
    assert times.measured() == (103 + 104, 5.0)  # of steps 2 and 3, which begin at 11 and end at 16


def test_a_cache_pays_after_as_many_epochs_as_save_what_it_cost() -> None:
    assert turns.break_even(30.0, 20.0, 5.0) == 2.0
    assert turns.break_even(30.0, 5.0, 5.0) is None
    assert turns.break_even(30.0, float("nan"), 5.0) is None


def test_caches_are_compared_with_a_live_teacher_of_the_same_objective() -> None:
    assert {way: cache_payoff.live_way(way) for way in cache_payoff.WAYS} == {
        "live": "live", "hidden, 1 view": "live", "hidden, 4 views": "live", "live, no cosine": "live, no cosine",
        "top-k, 1 view": "live, no cosine", "top-k, 4 views": "live, no cosine",
    }  # fmt: skip


def layer_of(wide: Widths) -> dict[str, torch.Tensor]:
    """Random matrices of one layer, in the names of `narrow`."""
    torch.manual_seed(3)
    shapes = {
        "query": (8, 8),
        "key": (8, 8),
        "value": (8, 8),
        "attention output": (8, 8),
        "rows": (6, 8),
        "output": (8, 6),
    }
    assert (wide.hidden, wide.rows) == (8, 6)
    return {name: torch.randn(*shape) for name, shape in shapes.items()}


def test_heads_are_scored_by_the_norms_of_their_own_products() -> None:
    wide = Widths(hidden=8, heads=4, rows=6)
    layer = layer_of(wide)
    looks, writes = narrowing.looking(layer, wide), narrowing.writing(layer, wide)
    for head in range(4):
        of_head = slice(2 * head, 2 * head + 2)
        assert looks[head] == pytest.approx(float((layer["query"][of_head].T @ layer["key"][of_head]).norm()), rel=1e-5)
        written = layer["attention output"][:, of_head] @ layer["value"][of_head]
        assert writes[head] == pytest.approx(float(written.norm()), rel=1e-5)


def test_another_choice_changes_its_axis_only_and_only_inside_the_with() -> None:
    wide, thin = Widths(hidden=8, heads=4, rows=6), Widths(hidden=4, heads=2, rows=3)
    layer = layer_of(wide)
    ordinary = narrow._kept(layer, wide, thin)
    best = sorted(narrowing.looking(layer, wide).topk(2).indices.tolist())
    assert ordinary["heads"].tolist() == [place for head in best for place in (2 * head, 2 * head + 1)]
    with narrowing.choosing(narrowing.WAYS["heads: the first"], 0):
        first = narrow._kept(layer, wide, thin)
    assert first["heads"].tolist() == [0, 1, 2, 3] and torch.equal(first["rows"], ordinary["rows"])
    with narrowing.choosing(narrowing.WAYS["rows: weakest"], 0):
        weakest = narrow._kept(layer, wide, thin)
    assert not set(weakest["rows"].tolist()) & set(ordinary["rows"].tolist())
    assert torch.equal(weakest["heads"], ordinary["heads"])
    assert all(map(torch.equal, narrow._kept(layer, wide, thin).values(), ordinary.values()))


def test_dimensions_can_be_those_of_the_largest_embeddings() -> None:
    words = torch.tensor([[0.0, 3.0, -1.0, 2.0], [0.0, 1.0, 1.0, 2.0]])
    weights = {"bert.embeddings.word_embeddings.weight": words, "bert.embeddings.LayerNorm.weight": torch.arange(4.0)}
    assert (words @ narrow._BASES["slice"](weights, 2)).tolist() == words[:, 2:].tolist()
    with narrowing.choosing(narrowing.WAYS["dimensions: embedding norm"], 0):
        basis = narrow._BASES["slice"](weights, 2)
    assert (words @ basis).tolist() == words[:, [1, 3]].tolist()


def test_narrow_students_are_shown_as_means_over_their_seeds() -> None:
    runs = [narrowing.Run("slice", 192, seed, 60, {"mlm": 7.0, "kl": 3.0}, {"mlm": 5.0 + seed, "kl": 1.0 + seed})
            for seed in (0, 1)]  # fmt: skip
    cells = [cell.strip() for cell in narrowing.shown(runs).splitlines()[-1].split("|")[1:-1]]
    assert cells == ["slice", "192", "7.00 / 3.00", "5.50 / 1.50", "2", "1.000 to 2.000", "1.000"]


def test_a_repeated_text_is_as_long_as_asked_for_and_repeats_no_paragraph(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    corpus_scaling.write_text(path, ["one two\nthree", "four"], 60)
    assert path.read_text().split("\n\n")[:4] == ["one two\nthree", "four", "one two (1)\nthree (1)", "four (1)"]
    assert len(path.read_text().replace("\n\n", "")) == 60


def test_a_table_has_aligned_columns() -> None:
    assert turns.table(("way", "n"), [("a", "10")]) == "| way | n  |\n| --- | -- |\n| a   | 10 |"


def test_the_peak_is_counted_anew_and_anonymous_memory_is_seen() -> None:
    if common.anonymous_mib() is None:
        pytest.skip("no /proc here")
    with common.AnonymousPeak(interval=0.001) as seen:
        before = common.anonymous_mib()
        # Mapped, for what the allocator gives may be memory that the process has had before.
        with mmap.mmap(-1, 64 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as large:
            for page in range(0, len(large), mmap.PAGESIZE):
                large[page] = 1
            deadline = time.monotonic() + 60
            while seen.mib < before + 48 and time.monotonic() < deadline:
                time.sleep(0.001)
            common.restart_peak()
            peak = common.peak_mib()
    assert before + 48 <= seen.mib < before + 128
    assert peak > 64


def test_what_is_kept_for_the_backward_pass_is_counted_once_and_weights_are_not() -> None:
    weight, inputs = torch.ones(4, 4, requires_grad=True), torch.ones(8, 4, requires_grad=True)

    def loss(scale: float) -> torch.Tensor:
        grown = (inputs @ weight).exp()  # keeps its inputs, the weight, and what it gives
        return (grown * grown).sum() * scale  # which the square keeps too, once more

    kept = step_memory.Kept(loss, [weight])
    assert kept(2.0) == loss(2.0) and kept.most == 2 * 8 * 4 * 4
    assert kept(1.0).backward() is None and weight.grad is not None


@pytest.mark.long
def test_work_in_a_fresh_process_gives_its_answer_or_ends_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    assert common.in_fresh_process(1, abs, -3) == 3
    fork = multiprocessing.get_context("fork")  # once is enough: five seconds of imports
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: fork)
    with pytest.raises(SystemExit, match="ZeroDivisionError"):
        common.in_fresh_process(1, divmod, 1, 0)


def question(context: str, asked: str, answer: str) -> dict[str, Any]:
    return {
        "context": context,
        "question": asked,
        "answers": {"text": [answer], "answer_start": [context.index(answer)]},
    }


def test_sets_for_shrink_are_made_of_questions(tmp_path: Path) -> None:
    context = "In 1889 Gustave Eiffel built it. It stands in Paris. Nobody asked about this."
    rows = [
        question(context, "Who built it?", "Gustave Eiffel"), question(context, "When was it built?", "1889"),
        question(context, "Where does it stand?", "Paris"), question(context, "Who was it?", "Eiffel"),
        question(context, "What stands?", "It"), question("Nothing.", "Which one?", "Nothing"),
    ]  # fmt: skip
    assert shrink_kinds.asked("How many years, and why?") == ["number", "why"] and not shrink_kinds.asked("What?")
    assert [row["kinds"] for row in shrink_kinds.paragraphs(rows)] == ["who|when|where", ""]
    tagged = [
        (row["text"], [(row["text"][one["start"] : one["end"]], one["label"]) for one in row["entities"]])
        for row in shrink_kinds.sentences(rows)
    ]
    assert tagged == [
        ("In 1889 Gustave Eiffel built it.", [("1889", "WHEN"), ("Gustave Eiffel", "WHO")]),
        ("It stands in Paris.", [("Paris", "WHERE")]),
    ]
    labelled = [*shrink_kinds.sst2([{"sentence": 'a "fine" film, ', "label": 1}])]
    assert shrink_kinds.write(tmp_path / "a.csv", labelled).read_text() == 'text,label\n"a ""fine"" film,",positive\n'
    facts = {"kept": 0.92, "milliseconds": 1.25, "bytes": 14_100_000}
    row = {"set": "sst2", "rows": {"train": 1000}, "estimated_seconds": 127, "seconds": 920, "processor_seconds": 117}
    assert "92.0 %" in shrink_kinds.shown([row | {"facts": facts}]) and "14.1" in shrink_kinds.shown(
        [row | {"facts": facts}]
    )


def test_the_sum_over_processes_is_a_share_of_their_step() -> None:
    cost = rank_scaling.RankCost(4096.0, 6.0, 0.3, 16.0, 2.0, 0.8, 70_000_000, 47_000_000, 70_100_000.0)
    assert rank_scaling.cells(cost, 2) == ["256", "6.00", "5.0%", "5.0%", "70.0", "47.0", "70.1"]
    assert rank_scaling.cells(cost, 1) == ["256", "6.00", "", "", "", "", ""]
    assert len(rank_scaling.HEAD) == 7


def test_a_study_is_timed_by_jobs_and_by_commands_begun_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[list[str]] = []
    codes = itertools.repeat(0)

    class Begun:
        def __init__(self, command: list[str], *, env: dict[str, str], stdout: int) -> None:
            assert "OMP_NUM_THREADS" not in env
            begun.append(command)

        def wait(self) -> int:
            return next(codes)

    monkeypatch.setattr(study_scaling.subprocess, "Popen", Begun)
    costs = study_scaling.measure_studies(tmp_path, ["one", "two", "three"] * 30, "offline", [1, 2])
    assert list(costs) == ["--jobs 1", "--jobs 2", "2 commands at once, each with all cores"]
    asked = []
    for command in begun:
        whole = request(command[command.index("tinydistilbert") + 1 :])
        assert whole.recipe.finetune.epochs == 1 and whole.output.parent == tmp_path
        asked.append((whole.recipe.finetune.seeds, whole.jobs))
    assert asked == [((0, 1, 2, 3), 1), ((0, 1, 2, 3), 2), ((0, 2), None), ((1, 3), None)]
    assert study_scaling.cells("--jobs 2", study_scaling.StudyCost(60.0, 100.0)) == [
        "4",
        "--jobs 2",
        "60",
        "100",
        "240",
    ]
    assert study_scaling.measure_studies(tmp_path, ["one"], "offline", []) == {}
    codes = iter([0, 3])
    with pytest.raises(SystemExit, match=r"failed: .*finetune"):
        study_scaling.measure_studies(tmp_path, ["one"] * 50, "offline", [1, 2])

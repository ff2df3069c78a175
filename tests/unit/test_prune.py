"""Heads, neurons and layers that leave a model: what is left computes what the whole model computes without them."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from tests import tiny
from tests.tiny import assert_equal_up_to_rounding
from tinydistilbert.compress.importance import Importance, head_and_neuron_importance, mask_gradients, masked
from tinydistilbert.compress.prune import drop_layers, layer_operations, most_important_layers, prune, units_to_keep
from tinydistilbert.errors import UserError
from tinydistilbert.finetuning.examples import task_examples, training_examples
from tinydistilbert.finetuning.finetune import finetune
from tinydistilbert.finetuning.soft_targets import SoftTargetSource, make_soft_targets
from tinydistilbert.losses.terms import kl
from tinydistilbert.models import pruned
from tinydistilbert.models.capture import capturing
from tinydistilbert.models.dropout import quick_dropout
from tinydistilbert.models.first_token import first_token_only
from tinydistilbert.models.heads import parameter_count
from tinydistilbert.models.loading import load_model, load_tokenizer, save_model
from tinydistilbert.models.pruned import Shapes, parts_of, shapes_of
from tinydistilbert.models.student import cut_student
from tinydistilbert.pipeline import task_models
from tinydistilbert.recipe import schema, toml
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import TASKS, tasks_of
from tinydistilbert.training.device import Compute
from tinydistilbert.training.job import Batch

CPU = torch.device("cpu")
LAYERS, HEADS, SIZE, HIDDEN, NEURONS, VOCABULARY = 3, 4, 8, 32, 48, 232
SIZES = {**tiny.WIDER, "num_hidden_layers": LAYERS, "max_position_embeddings": 64, "pad_token_id": 0}
EVERY_FAMILY = pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "electra"])
EVERY_HEAD = pytest.mark.parametrize("head", ["masked-lm", "classification", "span"])
KEPT_HEADS = ((0, 2), (3,), (0, 1, 2, 3))
KEPT_NEURONS = (tuple(range(0, 48, 2)), tuple(range(8)), tuple(range(40, 48)))


def new_model(family: str, head: str) -> PreTrainedModel:
    labels = {"num_labels": 3} if head == "classification" else {}
    return tiny.model(family, head, **SIZES, initializer_range=0.2, **labels)


def scrambled(family: str, head: str = "classification") -> PreTrainedModel:
    return tiny.scrambled(new_model(family, head))


def inputs() -> dict[str, Tensor]:
    """Three rows, the second padded."""
    ids = torch.randint(5, VOCABULARY, (3, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 6:], ids[1, 6:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    output = model(**inputs())
    if "logits" in output:
        return output.logits
    return torch.stack((output.start_logits, output.end_logits))


def masks(kept: tuple[tuple[int, ...], ...], count: int) -> list[Tensor]:
    return [torch.zeros(1, count).index_fill(1, torch.tensor(indices), 1.0) for indices in kept]


def by_rank(model: PreTrainedModel) -> Importance:
    """Of all heads and neurons of a layer, the earlier the more important; every layer and weight alike."""
    layers = parts_of(model)
    heads = [torch.arange(layer.heads, 0, -1) * 4.0 * layer.head_size for layer in layers]
    neurons = [torch.arange(layer.neurons, 0, -1) * 2.0 for layer in layers]
    return Importance(heads, neurons, torch.arange(len(layers), 0.0, -1))


def hard(model: PreTrainedModel, batch: Batch) -> Tensor:
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return F.cross_entropy(output.logits, batch["labels"])


def labelled() -> Batch:
    return inputs() | {"labels": torch.tensor([2, 0, 1])}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@EVERY_HEAD
@EVERY_FAMILY
def test_the_pruned_model_computes_what_the_whole_one_does_with_the_rest_masked_to_zero(
    family, head, attention
) -> None:
    model = scrambled(family, head)
    model.set_attn_implementation(attention)
    with masked(model, masks(KEPT_HEADS, HEADS), masks(KEPT_NEURONS, NEURONS)):
        expected = logits(model)
    whole = logits(model)
    pruned.keep(model, KEPT_HEADS, KEPT_NEURONS)
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(whole, expected, atol=1e-2)


@EVERY_FAMILY
def test_the_first_token_path_agrees_with_the_whole_layer_of_a_pruned_model(family) -> None:
    model = scrambled(family)
    pruned.keep(model, KEPT_HEADS, KEPT_NEURONS)
    expected = logits(model)
    with first_token_only(model):
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)


@EVERY_FAMILY
def test_a_pruned_model_trains_with_quick_dropout(family) -> None:
    model = scrambled(family).train()
    pruned.keep(model, KEPT_HEADS, KEPT_NEURONS)
    with quick_dropout(model), first_token_only(model):
        hard(model, labelled()).backward()
    assert all(layer.query.weight.grad.abs().sum() > 0 for layer in parts_of(model))


@EVERY_FAMILY
def test_queries_keys_and_values_of_a_pruned_model_can_be_taken_out(family) -> None:
    model = scrambled(family)
    pruned.keep(model, KEPT_HEADS, KEPT_NEURONS)
    with capturing(model, (), (0, 1, 2)) as seen:
        logits(model)
    assert [seen.attention[layer].query.shape for layer in range(3)] == [(3, heads, 11, SIZE) for heads in (2, 1, 4)]


@EVERY_HEAD
@EVERY_FAMILY
def test_saved_and_loaded_it_gives_the_same_weights_and_logits(family, head, tmp_path: Path, tokenizer) -> None:
    model = scrambled(family, head)
    pruned.keep(model, KEPT_HEADS, KEPT_NEURONS)
    save_model(model, tokenizer, tmp_path)
    loaded = load_model(tmp_path, head, require_head=True).eval()
    assert type(loaded) is type(model)
    assert shapes_of(loaded.config) == Shapes((2, 1, 4), (24, 8, 8))
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    assert_equal_up_to_rounding(logits(loaded), logits(model))


def test_a_pruned_encoder_gets_a_new_head_as_any_other(tmp_path: Path, tokenizer) -> None:
    model = scrambled("distilbert", "masked-lm")
    pruned.keep(model, KEPT_HEADS, KEPT_NEURONS)
    save_model(model, tokenizer, tmp_path)
    loaded = load_model(tmp_path, "classification", labels=("no", "yes")).eval()
    encoder_weights = model.base_model.state_dict()
    assert all(torch.equal(value, encoder_weights[key]) for key, value in loaded.base_model.state_dict().items())
    assert logits(loaded).shape == (3, 2)


@EVERY_FAMILY
def test_plain_transformers_refuses_a_pruned_folder(family, tmp_path: Path, tokenizer) -> None:
    model = scrambled(family)
    pruned.keep(model, KEPT_HEADS, KEPT_NEURONS)
    save_model(model, tokenizer, tmp_path)
    for loader in (AutoModel, AutoModelForSequenceClassification):
        with pytest.raises(RuntimeError, match="mismatch"):
            loader.from_pretrained(tmp_path)


def test_a_pruned_folder_that_lacks_a_weight_is_refused(tmp_path: Path, tokenizer) -> None:
    from safetensors.torch import load_file, save_file

    model = scrambled("bert")
    pruned.keep(model, KEPT_HEADS, KEPT_NEURONS)
    save_model(model, tokenizer, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 missing, such as bert\.encoder\.layer\.1\.output\.dense\.weight"):
        load_model(tmp_path, "classification", require_head=True)


@pytest.mark.parametrize(
    "shapes",
    [
        {"heads": [2, 1], "intermediate": [24, 8, 8]},
        {"heads": [2, 1, 5], "intermediate": [24, 8, 8]},
        {"heads": [2, 1, 0], "intermediate": [24, 8, 8]},
        {"heads": [2, 1, 4]},
        [2, 1, 4],
    ],
)
def test_shapes_that_cannot_be_are_refused(shapes, tmp_path: Path, tokenizer) -> None:
    model = scrambled("bert")
    save_model(model, tokenizer, tmp_path)
    settings = atomic.read_json(tmp_path / "config.json")
    atomic.write_json(tmp_path / "config.json", settings | {"pruned": shapes})
    with pytest.raises(UserError, match=r"config\.json: pruned\.(heads|intermediate): expected 3 numbers from 1 to"):
        load_model(tmp_path, "classification")


def test_pruning_twice_is_pruning_once() -> None:
    twice, once = scrambled("bert"), scrambled("bert")
    pruned.keep(twice, [(0, 2, 3)] * 3, [tuple(range(8, 32))] * 3)
    pruned.keep(twice, [(1, 2)] * 3, [tuple(range(4, 12))] * 3)
    pruned.keep(once, [(2, 3)] * 3, [tuple(range(12, 20))] * 3)
    assert shapes_of(twice.config) == shapes_of(once.config) == Shapes((2,) * 3, (8,) * 3)
    assert all(torch.equal(value, once.state_dict()[key]) for key, value in twice.state_dict().items())
    assert_equal_up_to_rounding(logits(twice), logits(once))


def test_a_model_with_no_weights_yet_can_be_given_shapes() -> None:
    with torch.device("meta"):
        model = new_model("bert", "classification")
    pruned.give_shapes(model, Shapes((1, 2, 3), (8, 16, 24)))
    assert [(layer.heads, layer.neurons) for layer in parts_of(model)] == [(1, 8), (2, 16), (3, 24)]
    assert all(parameter.is_meta for parameter in model.parameters())


def test_other_families_are_refused() -> None:
    model = new_model("modernbert", "masked-lm")
    with pytest.raises(UserError, match="expected a family among bert, distilbert, roberta, xlm-roberta"):
        pruned.keep(model, KEPT_HEADS, KEPT_NEURONS)
    with pytest.raises(UserError, match="modernbert"):
        drop_layers(model, (0, 1))


def test_no_student_is_cut_from_a_pruned_teacher() -> None:
    teacher = scrambled("bert", "masked-lm")
    pruned.keep(teacher, KEPT_HEADS, KEPT_NEURONS)
    with pytest.raises(UserError, match="no student can be cut from a pruned model"):
        cut_student(teacher, schema.Student(), seed=0)


@EVERY_FAMILY
def test_gradients_by_masks_are_those_of_single_examples(family) -> None:
    model, batch = scrambled(family), labelled()
    heads, neurons, layers = mask_gradients(model, batch, hard)
    step = 1e-3
    model.double()
    for row in range(3):
        example = {name: value[row : row + 1] for name, value in batch.items()}

        def loss(head: float = 1.0, neuron: float = 1.0, layer: float = 1.0, example: Batch = example) -> float:
            of_heads, of_neurons = (
                [torch.ones(1, count, dtype=torch.float64) for _ in range(LAYERS)] for count in (HEADS, NEURONS)
            )
            of_heads[1][0, 2], of_neurons[2][0, 5] = head, neuron
            of_layers = [torch.ones(1, dtype=torch.float64), torch.full((1,), layer, dtype=torch.float64)]
            with torch.no_grad(), masked(model, of_heads, of_neurons, of_layers):
                return float(hard(model, example))

        for name, gradient in (("head", heads[1][row, 2]), ("neuron", neurons[2][row, 5]), ("layer", layers[1][row])):
            slope = (loss(**{name: 1 + step}) - loss(**{name: 1 - step})) / (2 * step)
            assert float(gradient) == pytest.approx(slope, rel=2e-3, abs=2e-4), name


def test_a_layer_masked_to_zero_is_a_layer_dropped() -> None:
    model = scrambled("bert")
    ones = [
        [torch.ones(1, layer.heads) for layer in parts_of(model)],
        [torch.ones(1, layer.neurons) for layer in parts_of(model)],
    ]
    with masked(model, *ones, [torch.ones(1), torch.zeros(1), torch.ones(1)]):
        expected = logits(model)
    drop_layers(model, (0, 2))
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)


def test_importance_is_a_mean_over_examples_however_they_are_batched() -> None:
    model, batch = scrambled("distilbert"), labelled()
    whole = head_and_neuron_importance(model, [batch], hard)
    parts = [{name: value[rows] for name, value in batch.items()} for rows in (slice(0, 1), slice(1, 3))]
    apart = head_and_neuron_importance(model, parts, hard)
    for one, other in zip((*whole.heads, *whole.neurons, whole.layers), (*apart.heads, *apart.neurons, apart.layers),
                          strict=True):  # fmt: skip
        torch.testing.assert_close(one, other)
    assert [len(layer) for layer in whole.heads] == [HEADS] * 3
    assert [len(layer) for layer in whole.neurons] == [NEURONS] * 3


def test_what_writes_nothing_is_not_important_and_what_is_important_goes_last() -> None:
    model = scrambled("bert")
    layer = parts_of(model)[1]
    with torch.no_grad():
        layer.attention_output.weight[:, 2 * SIZE : 3 * SIZE] = 0
        layer.outer.weight[:, 16:24] = 0
    importance = head_and_neuron_importance(model, [labelled()], hard)
    assert (importance.heads[1] == 0).tolist() == [False, False, True, False]
    assert (importance.neurons[1] == 0).nonzero().flatten().tolist() == list(range(16, 24))
    before = logits(model)
    total = 3 * (HEADS * 4 * HIDDEN * SIZE + NEURONS * 2 * HIDDEN)
    prune(model, importance, keep=1 - (4 * HIDDEN * SIZE + 8 * 2 * HIDDEN) / total)
    assert shapes_of(model.config) == Shapes((4, 3, 4), (48, 40, 48))
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)


def test_the_model_is_as_it_was_after_it_was_judged() -> None:
    model = scrambled("bert").train()
    before = copy.deepcopy(model.state_dict())
    head_and_neuron_importance(
        model, [labelled()], lambda m, b: kl(m(input_ids=b["input_ids"]).logits, torch.eye(3), 2)
    )
    assert model.training and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("kind", ["single_label_classification", "regression"])
def test_examples_that_pull_in_opposite_directions_cancel_in_regression_only(kind) -> None:
    model = scrambled("bert")
    model.config.problem_type = kind
    batch = {name: value[:1].repeat(2, 1) for name, value in inputs().items()} | {"sign": torch.tensor([1.0, -1.0])}

    def opposite(model: PreTrainedModel, batch: Batch) -> Tensor:
        return (model(**{name: batch[name] for name in inputs()}).logits[:, 0] * batch["sign"]).mean()

    importance = head_and_neuron_importance(model, [batch], opposite)
    every = torch.cat([*importance.heads, *importance.neurons, importance.layers])
    assert (every < 1e-6).all() if kind == "regression" else (every > 1e-6).float().mean() > 0.9


def test_spans_can_be_judged_too() -> None:
    model, batch = scrambled("distilbert", "span"), inputs() | {"start": torch.tensor([1, 2, 3])}
    importance = head_and_neuron_importance(
        model, [batch], lambda m, b: F.cross_entropy(m(**{k: b[k] for k in inputs()}).start_logits, b["start"])
    )
    assert all((layer > 0).all() for layer in importance.heads) and (importance.layers > 0).all()


def test_where_nothing_matters_something_stays() -> None:
    model = scrambled("bert")
    nothing = Importance([torch.zeros(4)] * 3, [torch.zeros(48)] * 3, torch.zeros(3))
    kept = units_to_keep(model, nothing, keep=0.5)
    assert all(kept.heads) and all(len(layer) % 8 == 0 and layer for layer in kept.neurons)


def test_a_model_that_is_pruned_already_can_be_judged_and_pruned_again() -> None:
    model = scrambled("roberta")
    prune(model, by_rank(model), keep=0.6)
    first = shapes_of(model.config)
    importance = head_and_neuron_importance(model, [labelled()], hard)
    assert tuple(len(layer) for layer in importance.heads) == first.heads
    prune(model, importance, keep=0.6)
    assert sum(shapes_of(model.config).intermediate) < sum(first.intermediate)


def test_heads_and_neurons_go_by_importance_for_their_cost() -> None:
    # A head has 4 · 32 · 8 = 1024 weights, eight neurons 2 · 32 · 8 = 512; four heads and six groups a layer, 7168.
    # Against the mean of their layer: heads 0.27, 2.4, 0.53 and 0.8; neurons 0.5, but eight of each layer 3.5.
    model = scrambled("bert")
    heads = [torch.tensor([1.0, 9.0, 2.0, 3.0]), torch.tensor([0.1, 0.9, 0.2, 0.3]), torch.tensor([10.0, 90, 20, 30])]
    first = torch.cat([torch.full((8,), 3.5), torch.full((40,), 0.5)])
    importance = Importance(heads, [first, first.flip(0) / 100, first], torch.ones(3))
    # At least one head and one group a layer: 3 · 1536 = 4608 weights. Then the heads of 0.8: 3072. Together 7680.
    kept = units_to_keep(model, importance, keep=7680 / 21504)
    assert kept.heads == ((1, 3),) * 3
    assert kept.neurons == (tuple(range(8)), tuple(range(40, 48)), tuple(range(8)))
    more = units_to_keep(model, importance, keep=(7680 + 1023) / 21504)
    assert more.heads == kept.heads  # no other head can be paid for, but a group can
    assert sum(map(len, more.neurons)) == 32


def test_long_inputs_make_heads_dearer() -> None:
    # Of one token among n, a head has 8 · 32 · 8 operations in matrices and 4 · n · 8 in attention's products.
    kept = {
        length: units_to_keep(
            model := scrambled("bert"), by_rank(model), target_flops=layer_operations(model, length) / 2, length=length
        )
        for length in (1, 512)
    }
    assert sum(map(len, kept[512].heads)) < sum(map(len, kept[1].heads))


def test_all_is_kept_where_all_is_asked_for() -> None:
    model = scrambled("bert")
    before = logits(model)
    kept = prune(model, by_rank(model), keep=1.0)
    assert kept.heads == (tuple(range(4)),) * 3 and kept.neurons == (tuple(range(48)),) * 3
    assert_equal_up_to_rounding(logits(model), before)


@EVERY_FAMILY
def test_targets_are_reached_and_nearly_used_up(family) -> None:
    shrunk = {}
    for name, target in (("keep", 0.5), ("target_parameters", 20_000), ("target_flops", 400_000)):
        model = scrambled(family)
        whole = parameter_count(model)
        prune(model, by_rank(model), **{name: target}, length=16)
        assert all(layer.neurons % 8 == 0 and layer.heads for layer in parts_of(model))
        shrunk[name] = model, whole
    weights = sum(layer.heads * 4 * HIDDEN * SIZE + layer.neurons * 2 * HIDDEN for layer in parts_of(shrunk["keep"][0]))
    assert 21504 / 2 - 512 < weights <= 21504 / 2
    assert 20_000 - 8 * 65 < parameter_count(shrunk["target_parameters"][0]) <= 20_000
    # Of one neuron 4 · 16 · 32 = 2048 operations.
    assert 400_000 - 8 * 2048 < layer_operations(shrunk["target_flops"][0], 16) <= 400_000


def test_operations_are_two_for_a_weight_and_a_token_and_attentions_products() -> None:
    model = scrambled("bert")
    whole = 3 * (2 * 10 * 12 * 0 + 2 * 10 * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * NEURONS) + 2 * 2 * 10 * 10 * HIDDEN)
    assert layer_operations(model, 10) == whole
    pruned.keep(model, KEPT_HEADS, KEPT_NEURONS)
    less = 2 * 10 * (4 * HIDDEN * SIZE * 7 + 2 * HIDDEN * 40) + 2 * 2 * 10 * 10 * SIZE * 7
    assert layer_operations(model, 10) == less


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, "the pruning's target: expected exactly one of keep, target_parameters, target_flops, found 0"),
        ({"keep": 0.5, "target_flops": 1e6}, "found 2"),
        ({"keep": 0.2}, r"keep: expected at least 0\.214, found 0\.200"),  # 4608 / 21504
        ({"keep": 1.2}, "keep: expected a share of at most 1, found 1.2"),
        ({"target_parameters": 1000}, r"target_parameters: expected at least \d\d,\d\d\d, found 1,000; raise it"),
        ({"target_flops": 1000}, "target_flops: expected at least"),
    ],
)
def test_targets_that_cannot_be_reached_are_refused_and_nothing_is_pruned(target, message) -> None:
    model = scrambled("bert")
    with pytest.raises(UserError, match=message):
        prune(model, by_rank(model), **target)
    assert not pruned.is_pruned(model.config) and parts_of(model)[0].heads == HEADS


@EVERY_HEAD
@EVERY_FAMILY
def test_dropped_layers_are_gone_from_the_folder_too(family, head, tmp_path: Path, tokenizer) -> None:
    model = scrambled(family, head)
    kept = parts_of(model)[2].inner.weight
    pruned.keep(model, KEPT_HEADS, KEPT_NEURONS)
    drop_layers(model, (0, 2))
    assert shapes_of(model.config) == Shapes((2, 4), (24, 8))
    assert torch.equal(parts_of(model)[1].inner.weight, kept[40:48])
    save_model(model, tokenizer, tmp_path)
    assert_equal_up_to_rounding(logits(load_model(tmp_path, head, require_head=True).eval()), logits(model))


def test_a_folder_with_layers_dropped_and_nothing_else_is_plain(tmp_path: Path, tokenizer) -> None:
    model = scrambled("distilbert")
    drop_layers(model, (1,))
    save_model(model, tokenizer, tmp_path)
    assert_equal_up_to_rounding(
        logits(AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()), logits(model)
    )


@pytest.mark.parametrize("layers", [(), (0, 3), (1, 1), (-1,)])
def test_layers_that_do_not_exist_are_refused(layers) -> None:
    with pytest.raises(UserError, match="expected different layers among 0 to 2"):
        drop_layers(scrambled("bert"), layers)


def test_the_most_important_layers_stay_in_their_order() -> None:
    importance = Importance([], [], torch.tensor([0.2, 0.9, 0.1, 0.9, 0.3]))
    assert most_important_layers(importance, 3) == (1, 3, 4)
    assert most_important_layers(importance, 1) == (1,)


@pytest.fixture
def run(tmp_path: Path) -> schema.Recipe:
    """CoLA with one word that tells the label, for a few epochs, the second distillation with terms on layers."""
    rows = [
        {"sentence": f"{who} {'came to see' if label else 'walked to'} the tower", "label": label}
        for who in ("a teacher", "the student", "many people", "some cats", "the old engineer", "she")
        for label in (0, 1)
    ]
    for split in ("train", "validation"):
        path = tmp_path / "data" / TASKS["cola"].folder / f"{split}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    optimization = schema.Optimization(learning_rate=3e-3, batch_size=4)
    settings = schema.Finetune(
        tasks=("cola",), epochs=6.0, min_steps=0, optimization=optimization,
        distillation=schema.TaskDistillation(soft=0.5, hidden=0.1),
    )  # fmt: skip
    return schema.Recipe(name="tiny", data=str(tmp_path / "data"), finetune=settings)


@pytest.mark.long
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_pruned_folder_is_fine_tuned_further_alone_and_with_a_teacher(
    family, run: schema.Recipe, tmp_path: Path, tokenizer
) -> None:
    task = TASKS["cola"]
    torch.manual_seed(0)
    save_model(new_model(family, "masked-lm"), tokenizer, tmp_path / "encoder")

    def finetuned(start: str, output: str, source: SoftTargetSource | None = None) -> None:
        finetune(
            run.finetune, task_examples(run, task, source), tmp_path / start, tmp_path / output,
            compute=Compute.of(run, CPU), row=output, seed=0, soft_targets=source,
        )  # fmt: skip

    finetuned("encoder", "teacher")
    model = load_model(tmp_path / "teacher", "classification", require_head=True)
    pruned.keep(model, KEPT_HEADS, KEPT_NEURONS)
    drop_layers(model, (0, 2))
    save_model(model, tokenizer, tmp_path / "pruned")

    examples, _ = training_examples(run, task, augmented=None, soft=True)
    teachers = (tmp_path / "teacher",)
    make_soft_targets(examples, teachers, tmp_path / "targets", tokenizer=tokenizer, max_length=128, device=CPU)
    for name, source in (("alone", None), ("with-teacher", SoftTargetSource(tmp_path / "targets", teachers))):
        finetuned("pruned", name, source)
        again = load_model(tmp_path / name, "classification", require_head=True)
        assert shapes_of(again.config) == Shapes((2, 4), (24, 8))
        for before, after in zip(parts_of(model), parts_of(again), strict=True):
            assert not torch.equal(before.attention_output.weight, after.attention_output.weight)
        log = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in log if "learning_rate" in line]
        assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.long
@pytest.mark.real
@pytest.mark.parametrize("keep", [0.75, 0.35])
def test_the_law_holds_for_a_real_encoder(data: Path, keep) -> None:
    folder = data.parent / "models" / "minilm-l6-mlm"
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}")
    model, tokenizer = load_model(folder, "masked-lm").eval(), load_tokenizer(folder)
    batch = dict(tokenizer(["Paris is the capital of France.", "A river."], return_tensors="pt", padding=True))

    def masked_lm(model: PreTrainedModel, batch: Batch) -> Tensor:
        return F.cross_entropy(model(**batch).logits.flatten(0, 1), batch["input_ids"].flatten())

    importance = head_and_neuron_importance(model, [batch], masked_lm)
    kept = units_to_keep(model, importance, keep=keep)
    layers = parts_of(model)
    of_heads, of_neurons = masks(kept.heads, layers[0].heads), masks(kept.neurons, layers[0].neurons)
    with torch.no_grad():
        with masked(model, of_heads, of_neurons):
            expected = model(**batch).logits
        pruned.keep(model, kept.heads, kept.neurons)
        pruned_logits = model(**batch).logits
    torch.testing.assert_close(pruned_logits, expected, rtol=1e-5, atol=1e-4)  # of logits up to about 20


def test_layers_of_a_teacher_are_ranked_by_its_answers_in_the_order_of_the_tasks_classes(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "".join(f"the {word} house {number},{label}\n" for number in range(9)
                   for word, label in (("old", "bad"), ("new", "fine"), ("small", "good")))  # fmt: skip
    (tmp_path / "own.csv").write_text(f"text,label\n{rows}")
    custom = {"train": str(tmp_path / "own.csv"), "validation": "10%"}
    chosen = toml.from_dict({"finetune": {"tasks": ["own"], "custom": {"own": custom}}}, "test")
    task = tasks_of(chosen.finetune)["own"]
    names = {0: "good", 1: "bad", 2: "fine"}
    model = tiny.model(head="classification", id2label=names, label2id={name: i for i, name in names.items()})
    save_model(model, tokenizer, tmp_path / "teacher")
    before, ranked = model.classifier.weight.clone(), []
    monkeypatch.setattr(task_models, "importance_on", lambda model, *_: ranked.append(model) or None)
    monkeypatch.setattr(task_models, "most_important_layers", lambda *_: (0,))
    run = cast("Any", SimpleNamespace(recipe=chosen))
    assert task_models._important_layers(run, task, model, tmp_path / "teacher") == (0,)
    assert torch.equal(ranked[0].classifier.weight, before[[1, 2, 0]]), "bad, fine, good"
    assert torch.equal(model.classifier.weight, before), "the student is cut from it as it is"

"""Exports a fine-tuned model to a folder that plain ONNX Runtime runs: model, tokenizer, class names, hashes.

Torch's exporter traces the model, with ONNX Runtime's attention operator (`fused_attention.py`) and, in the last layer,
only the token that the head reads. The folder is made only if the exported model reproduces torch's logits.
"""

import ast
import math
import shutil
import tempfile
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from tinydistilbert.errors import UserError
from tinydistilbert.export import fused_attention as fusion
from tinydistilbert.export.quiet import quietly
from tinydistilbert.models.first_token import first_token_only
from tinydistilbert.models.heads import head_of, vocabulary_input, vocabulary_matrix
from tinydistilbert.models.lengths import MAX_LENGTH, read_length
from tinydistilbert.models.loading import ELMO, Head, load_config, load_model, load_tokenizer, longest_input, save_model
from tinydistilbert.models.pooling import read_pooling, write_pooling
from tinydistilbert.models.runtimes import (
    EARLIER_FILE,
    EXPORT_KEY,
    EXTERNAL,
    MODEL_FILE,
    TEXTS,
    ModelInputs,
    OnnxRuntime,
    exported_facts,
    is_exported,
    onnx_file,
)
from tinydistilbert.models.task_head import output_layer
from tinydistilbert.models.tokenizer_files import save_tokenizer
from tinydistilbert.models.torch_runtime import uses_token_types
from tinydistilbert.models.untrusted import CONFIG
from tinydistilbert.optional import require
from tinydistilbert.run_folder import CARD, TRAINING_FACTS, training_facts
from tinydistilbert.storage import atomic, disk

OPSET = 20
"""The first ONNX opset with GELU as one operator."""
TOLERANCE = 1e-4
"""Largest accepted difference to torch's logits, relative to the largest logit if that is above 1."""
MAX_EMBEDDED_BYTES = 2_000_000_000
"""Bytes of weights that fit into the model file, a protocol buffer of at most 2 GiB; more go into a separate file."""
HALF_LOSS = 2**-8
"""Share of a regression head's largest weight that float16 may round away; for ordinary weights it is 2**-11."""
TRIALS = ((1, 1), (1, 7), (2, 16), (5, 33))
"""(batch, length) of the inputs whose logits are compared with torch's."""


def export(
    model_folder: Path, output: Path, *, tokenizer: PreTrainedTokenizerFast | None = None, fused: bool = True,
    max_length: int | None = None,
) -> None:  # fmt: skip
    """Make the finished folder `output` with `onnx/model.onnx` and everything needed to use it.

    Inputs are `input_ids`, `attention_mask` and, for BERT, `token_type_ids` (int64, any batch and length); outputs are
    `logits`, or `start_logits` and `end_logits` for span models.

    Args:
        model_folder: a model with a classification, multi-label, regression, token-classification, span or masked-LM
            head.
        output: a folder that does not exist yet.
        tokenizer: by default the one in `model_folder`.
        max_length: tokens of a text that users of the folder read; by default as many as `load` reads with the model in
            `model_folder`.
        fused: use ONNX Runtime's attention operator if the family allows it; other programs may not know it.

    Raises:
        UserError: the model is incomplete, has an unknown head or family, or differs from its manifest; its family
            cannot be exported; or `output` exists.
    """
    atomic.check_new(output)
    onnx = require("onnx", extra="onnx")
    require("onnxscript", extra="onnx")
    model, head = _torch_model(model_folder)
    tokenizer = tokenizer or load_tokenizer(model_folder)
    if model.config.model_type == ELMO:
        raise UserError(str(model_folder), problem="ELMo cannot be exported", fix="run it in torch, as load() does")
    fused = fused and model.config.model_type in fusion.FUSABLE_FAMILIES
    trials = [_random_inputs(model, *shape, seed=seed) for seed, shape in enumerate(TRIALS)]
    expected = [_logits(model, head, inputs) for inputs in trials]
    longest = longest_input(model.config)
    read = read_length(model_folder, tokenizer.model_max_length, longest, span=head == "span")
    max_length = min(max_length or read, longest)
    facts = {
        "format": "onnx", "head": head, "precision": "fp32", "fused": fused, "longest_input": longest,
        MAX_LENGTH: max_length,
    }  # fmt: skip
    if TEXTS in (of_training := training_facts(model_folder)):
        facts[TEXTS] = of_training[TEXTS]
    with disk.disk_errors(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / Path(MODEL_FILE).name
        proto = _traced(model_folder, model, head, fused=fused)
        is_large = sum(weight.nbytes for weight in model.parameters()) >= MAX_EMBEDDED_BYTES
        if is_large:
            onnx.save_model(proto, str(file), save_as_external_data=True, location=f"{file.name}{EXTERNAL}")
        else:
            onnx.save_model(proto, str(file))
        offset = output_layer(model).bias.item() if head == "regression" else None
        _check_parity(model_folder, OnnxRuntime(file, threads=1), trials, expected, offset)
        with atomic.unfinished(output, exported_from=model_folder.name) as folder:
            for part in Path(temporary).iterdir():
                atomic.write_bytes((folder / MODEL_FILE).with_name(part.name), part.read_bytes())
            model.config.save_pretrained(folder)
            config = atomic.read_json(folder / CONFIG)
            in_browser = in_browsers("fp32") | ({"use_external_data_format": True} if is_large else {})
            names = general_names(model.config)
            atomic.write_json(folder / CONFIG, {**names, **config, IN_BROWSERS: in_browser, EXPORT_KEY: facts})
            truncates = head not in ("span", "masked-lm")  # contexts are read in windows
            save_tokenizer(tokenizer, folder, model.config, longest=max_length, truncates=truncates)


IN_BROWSERS = "transformers.js_config"
"""Key in the `config.json` of an exported folder that transformers.js reads."""


def in_browsers(precision: str) -> dict[str, Any]:
    """Return the setting by which transformers.js uses the only model file by default."""
    return {"dtype": {"int8": "q8"}.get(precision, precision)}


def general_names(config: PretrainedConfig) -> dict[str, Any]:
    """Return sizes under their common names, if the family uses other names.

    DistilBERT's `dim` is `hidden_size` elsewhere; programs that read exported models look for either name.
    """
    family_names = {**config.attribute_map, "intermediate_size": "hidden_dim"}
    return {general: getattr(config, name) for general, name in family_names.items() if hasattr(config, name)}


def copy_beside(exported: Path, folder: Path) -> None:
    """Copy the files of an exported folder except its model, config, manifest and card."""
    written_anew = (CONFIG, atomic.MANIFEST, CARD, EARLIER_FILE, f"{EARLIER_FILE}.data")
    for file in exported.iterdir():
        if file.is_file() and file.name not in written_anew:
            shutil.copyfile(file, folder / file.name)


def exported_weights(folder: Path) -> int:
    """Return the number of weights of an exported model, without constants and int8 scales."""
    if (stored := exported_facts(folder).get("parameters")) is not None:
        return int(stored)
    onnx = require("onnx", extra="onnx")
    kinds = {onnx.TensorProto.FLOAT, onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    return sum(
        math.prod(tensor.dims)
        for tensor in onnx.load(onnx_file(folder), load_external_data=False).graph.initializer
        if tensor.data_type in kinds and not tensor.name.endswith((".scale", ".zero"))
    )


def to_half(model_folder: Path, output: Path) -> None:
    """Make the finished folder `output`: the torch model with float16 weights, half as large, for GPUs.

    Transformers loads it with `dtype="auto"`; `load_model` converts it back to single precision.

    Raises:
        UserError: the model is incomplete, has an unknown head or family, or differs from its manifest; a weight is too
            large for float16; or `output` exists.
    """
    atomic.check_new(output)
    model, head = _torch_model(model_folder)
    tokenizer = load_tokenizer(model_folder)
    largest = max(float(weight.detach().abs().max()) for weight in model.parameters())
    if largest > torch.finfo(torch.float16).max:
        problem = f"float16 holds weights up to {torch.finfo(torch.float16).max:g}, and the largest here is {largest:g}"
        raise UserError(str(model_folder), problem=problem, fix="keep it in single precision")
    if head == "regression":
        _check_half_scores(model_folder, model)
    with atomic.unfinished(output, made_from=model_folder.name) as folder:
        longest = longest_input(model.config)
        length = read_length(model_folder, tokenizer.model_max_length, longest, span=head == "span")
        save_model(model.half(), tokenizer, folder, max_length=None if head == "masked-lm" else length)
        if head == "masked-lm":
            write_pooling(read_pooling(model_folder), model.config, folder)
        if facts := training_facts(model_folder):  # they have the length even if it is the model's maximum
            atomic.write_json(folder / TRAINING_FACTS, facts)


def _check_half_scores(folder: Path, model: PreTrainedModel) -> None:
    """Refuse a regression head whose labels are so large or small that float16 cannot tell its scores apart.

    Raises:
        UserError: this is the case.
    """
    layer = output_layer(model)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    lost = float((weight - weight.half().float()).abs().max())
    step = float(np.spacing(np.float16(bias.abs().max())))
    if lost > HALF_LOSS * float(weight.abs().max()) or step > float(weight.norm()) / 10:
        problem = "float16 is too coarse for the scores of this regression"
        raise UserError(str(folder), problem=problem, fix="keep it in single precision")


def _torch_model(folder: Path) -> tuple[PreTrainedModel, Head]:
    """Return the model in `folder`, in evaluation mode, and its head."""
    if is_exported(folder):
        fix = "give the folder that it was exported from"
        raise UserError(str(folder), expected="a torch model", found="an exported model", fix=fix)
    head = head_of(folder, load_config(folder))
    return load_model(folder, head, require_head=True).eval(), head


class _Named(nn.Module):
    """The model with plain tensors as inputs and outputs, for the exporter."""

    def __init__(self, model: PreTrainedModel, head: Head, *, fused: bool) -> None:
        super().__init__()
        self.model, self.head, self.fused = model, head, fused

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        mask = attention_mask.to(torch.int32)[:, None, None] if self.fused else attention_mask
        inputs = {"input_ids": input_ids, "attention_mask": mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        if self.head == "masked-lm":
            hidden = vocabulary_input(self.model, self.model.base_model(**inputs).last_hidden_state)
            # Flattened, because the product with a tied embedding then needs no transposed copy of the embedding.
            return F.linear(hidden.flatten(0, 1), *vocabulary_matrix(self.model)).view(*input_ids.shape, -1)
        outputs: Any = self.model(**inputs)
        return (outputs.start_logits, outputs.end_logits) if self.head == "span" else outputs.logits


def _traced(folder: Path, model: PreTrainedModel, head: Head, *, fused: bool) -> Any:
    """Return the model as a tidy ONNX protocol buffer; with `fused`, `model` itself is changed."""
    first_token = head not in ("span", "masked-lm", "token-classification")
    if fused:
        fusion.fuse(model, first_token=first_token)
    inputs = {name: torch.from_numpy(array) for name, array in _random_inputs(model, 2, 7, seed=0).items()}
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=longest_input(model.config))}
    try:
        with quietly(), torch.no_grad(), first_token_only(model) if first_token and not fused else nullcontext():
            program = torch.onnx.export(
                _Named(model, head, fused=fused).eval(), (), kwargs=inputs, dynamo=True, opset_version=OPSET,
                input_names=list(inputs), output_names=["start_logits", "end_logits"] if head == "span" else ["logits"],
                dynamic_shapes=dict.fromkeys(inputs, shape), verbose=False,
            )  # fmt: skip
    except Exception as error:  # any class of exception; the exporter's message is a page long
        found = f"{model.config.model_type}: {type(error).__name__}"
        fix = f"use a model of {', '.join(fusion.FUSABLE_FAMILIES)}"
        raise UserError(str(folder), expected="a model that torch.onnx exports", found=found, fix=fix) from error
    assert program is not None, "the dynamo exporter returns a program"
    return _tidied(program.model_proto)


def _tidied(proto: Any) -> Any:
    """Return the model with nodes and weights named by their module, and without other traces of the exporter.

    The exporter writes each node's source lines, with their paths, and outdated shapes of weights that it has
    transposed (ONNX Runtime's quantization fails on those).
    """
    graph = proto.graph
    names = {weight.name: weight.name.removeprefix("model.") for weight in graph.initializer}
    used: Counter[str] = Counter()
    for node in graph.node:
        module = _module_of(node)
        used[name := f"{module}.{node.op_type}"] += 1
        node.name = name if used[name] == 1 else f"{name}_{used[name]}"
        if node.op_type == "MatMul" and node.input[1] in names:
            names[node.input[1]] = f"{module}.weight"  # it is transposed: (inputs, outputs)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    kept = [value for value in graph.value_info if value.name not in names]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    for weight in graph.initializer:
        weight.name = names[weight.name]
    for item in (proto, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    return proto


def _module_of(node: Any) -> str:
    """Return the module of a node, such as `bert.encoder.layer.0.output.dense`."""
    scopes = {item.key: item.value for item in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "[]")
    modules = [name.removeprefix("model.") for name in ast.literal_eval(scopes)[:-1] if name.startswith("model.")]
    return modules[-1] if modules else "graph"


def _random_inputs(model: PreTrainedModel, batch: int, length: int, *, seed: int) -> ModelInputs:
    """Return random tokens; every row except the first ends in padding."""
    generator = np.random.default_rng(seed)
    config: Any = model.config
    pad = config.pad_token_id or 0
    ids = (
        pad + generator.integers(1, config.vocab_size, (batch, length))
    ) % config.vocab_size  # any token except `pad`
    ends = np.append(length, generator.integers(1, length + 1, batch - 1))[:, None]
    mask = (np.arange(length) < ends).astype(np.int64)
    inputs = {"input_ids": np.where(mask, ids, pad), "attention_mask": mask}
    if uses_token_types(model):
        inputs["token_type_ids"] = (np.arange(length) >= ends // 2).astype(np.int64) * mask
    return inputs


def _logits(model: PreTrainedModel, head: Head, inputs: ModelInputs) -> NDArray[np.float32]:
    """Return the logits of the torch model."""
    with torch.inference_mode():
        outputs = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        logits = torch.stack((outputs.start_logits, outputs.end_logits), dim=-1) if head == "span" else outputs.logits
    return np.asarray(logits.numpy())


def _check_parity(
    folder: Path, runtime: OnnxRuntime, trials: list[ModelInputs], expected: list[NDArray[np.float32]],
    offset: float | None,
) -> None:  # fmt: skip
    """Compare the logits of an exported model with torch's.

    Regression logits may have any size around any offset: differences are relative to the distance from the offset.
    """
    for inputs, logits in zip(trials, expected, strict=True):
        largest = float(np.abs(logits).max())
        size, rounding = max(1.0, largest), 0.0
        if offset is not None:
            size, rounding = float(np.abs(logits - offset).max()), 8 * float(np.spacing(np.float32(largest)))
        difference = float(np.abs(runtime(inputs) - logits).max())
        if not difference <= TOLERANCE * size + rounding:
            problem = (
                f"the exported model's logits differ from torch's by {difference / size:.2g} of their size, more than "
            )
            problem += f"{TOLERANCE:g}, on inputs of shape {inputs['input_ids'].shape}"
            fix = "use other versions of torch and onnxruntime; with these it cannot be exported"
            raise UserError(str(folder), problem=problem, fix=fix)

"""The chunked losses equal the plain ones on full logits, in value and gradient, whatever the chunks."""

import inspect
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tinydistilbert.losses import terms as losses
from tinydistilbert.losses import vocabulary, whole_chunks
from tinydistilbert.losses.vocabulary import TeacherHead, TeacherTop

POSITIONS, MASKED, VOCABULARY = 20, 9, 50


@pytest.fixture(params=[(7, 3), (20, 20), (1, 1), (512, 16)])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(vocabulary, "CHUNK", request.param[0])
    monkeypatch.setattr(vocabulary, "ROWS", request.param[1])
    yield


def made(*, bias: bool = True) -> tuple[list[Tensor], TeacherHead, Tensor]:
    """The student's inputs, weight and bias; the teacher, of another width; labels."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    student = [draw(POSITIONS, 8), draw(VOCABULARY, 8), *([draw(VOCABULARY)] if bias else [])]
    teacher = TeacherHead(draw(POSITIONS, 6), draw(VOCABULARY, 6), draw(VOCABULARY) if bias else None)
    labels = torch.randint(VOCABULARY, (MASKED,), generator=random)
    return [tensor.requires_grad_() for tensor in student], teacher, labels


def plain(student: list[Tensor], teacher: TeacherHead, labels: Tensor, temperature: float) -> dict[str, Tensor]:
    logits = F.linear(*student)
    teacher_logits = F.linear(teacher.inputs, teacher.weight, teacher.bias)
    return {"kl": losses.kl(logits, teacher_logits, temperature), "mlm": losses.mlm(logits[: len(labels)], labels)}


def chunked(
    student: list[Tensor], teacher: TeacherHead | TeacherTop | None, labels: Tensor, term_scales: dict[str, float]
) -> tuple[Tensor, dict[str, Tensor]]:
    bias = student[2] if len(student) > 2 else None
    return vocabulary.vocabulary_loss(*student[:2], bias, teacher, labels, temperature=2.5, term_scales=term_scales)


SIZES = {"positions": 9, "masked": 4, "words": 11, "width": 3, "chunk": 4, "rows": 2, "seed": 0}
SCALES = st.floats(0.01, 50)


@st.composite
def sizes(draw: st.DrawFn) -> dict[str, int]:
    """Numbers of positions, masked ones, tokens and dimensions; and chunks that end before, at and after them."""
    positions = draw(st.integers(1, 12))
    masked = draw(st.integers(1, positions))
    chunk, rows = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    words, width = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    seed = draw(st.integers(0, 2**16))
    return {
        "positions": positions, "masked": masked, "words": words, "width": width, "chunk": chunk, "rows": rows,
        "seed": seed,
    }  # fmt: skip


@pytest.mark.long
@settings(deadline=None, max_examples=150)
@given(
    sizes=sizes(),
    temperature=st.floats(0.25, 20),
    term_scales=st.one_of(
        st.fixed_dictionaries({"kl": SCALES, "mlm": SCALES}),
        st.fixed_dictionaries({"kl": SCALES}),
        st.fixed_dictionaries({"mlm": SCALES}),
    ),
    is_tied=st.booleans(),
    has_bias=st.booleans(),
    teacher_has_bias=st.booleans(),
    factor=st.sampled_from([1.0, 1.5]),
    by_rows=st.booleans(),
)
@example(SIZES, 2.0, {"kl": 5.0, "mlm": 2.0}, True, True, True, 1.0, True)
@example(SIZES, 2.0, {"kl": 5.0, "mlm": 2.0}, True, True, True, 1.5, False)
@example({**SIZES, "chunk": 9, "rows": 9}, 2.0, {"kl": 5.0, "mlm": 2.0}, False, True, True, 1.0, True)
@example({**SIZES, "chunk": 4, "rows": 4, "masked": 9}, 2.0, {"mlm": 2.0}, False, False, True, 1.0, False)
def test_value_and_gradient_are_the_plain_ones(
    sizes: dict[str, int],
    temperature: float,
    term_scales: dict[str, float],
    is_tied: bool,
    has_bias: bool,
    teacher_has_bias: bool,
    factor: float,
    by_rows: bool,
) -> None:
    random = torch.Generator().manual_seed(sizes["seed"])

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    words, width, masked = sizes["words"], sizes["width"], sizes["masked"]
    # Without soft targets only the masked positions are asked for.
    positions = sizes["positions"] if "kl" in term_scales else masked
    parameters = {"embedding": draw(words, width), "encoder": draw(width, width), "matrix": draw(words, width)}
    if has_bias:
        parameters["bias"] = draw(words)
    if is_tied:
        del parameters["matrix"]
    for parameter in parameters.values():
        parameter.requires_grad_()
    tokens = torch.randint(words, (positions,), generator=random)
    labels = torch.randint(words, (masked,), generator=random)
    teacher = TeacherHead(draw(positions, 2), draw(words, 2), draw(words) if teacher_has_bias else None)

    def head() -> tuple[Tensor, Tensor, Tensor | None]:
        """What the student's logits are made of; tied, its vocabulary matrix is its embedding."""
        inputs = torch.tanh(parameters["embedding"][tokens] @ parameters["encoder"])
        return inputs, parameters["embedding" if is_tied else "matrix"], parameters.get("bias")

    student_logits = F.linear(*head())
    expected = {"mlm": losses.mlm(student_logits[:masked], labels)}
    if "kl" in term_scales:
        teacher_logits = F.linear(teacher.inputs, teacher.weight, teacher.bias)
        expected["kl"] = losses.kl(student_logits, teacher_logits, temperature)
    expected_total = sum((scale * expected[name] for name, scale in term_scales.items()), torch.zeros(()))
    with (
        mock.patch.object(vocabulary, "CHUNK", sizes["chunk"]),
        mock.patch.object(vocabulary, "ROWS", sizes["rows"]),
        mock.patch.object(vocabulary, "ROW_DEVICES", ("cpu",) if by_rows else ()),
        mock.patch.object(whole_chunks, "CHUNK", sizes["chunk"]),
    ):
        total, means = vocabulary.vocabulary_loss(
            *head(), teacher if "kl" in term_scales else None, labels, temperature=temperature, term_scales=term_scales
        )
    torch.testing.assert_close(total, expected_total, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(means, {name: expected[name].detach() for name in term_scales}, rtol=1e-9, atol=1e-9)
    assert not any(mean.requires_grad for mean in means.values())
    gradients, expected_gradients = (
        torch.autograd.grad(factor * loss, tuple(parameters.values())) for loss in (total, expected_total)
    )
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-8, atol=1e-8)


@pytest.mark.usefixtures("chunks")
def test_the_likeliest_tokens_with_all_of_the_vocabulary_are_the_whole_teacher() -> None:
    student, teacher, labels = made()
    whole, terms = chunked(student, teacher, labels, {"kl": 1.0, "mlm": 1.0})
    expected = torch.autograd.grad(whole, student)
    top = torch.log_softmax(F.linear(teacher.inputs, teacher.weight, teacher.bias) / 2.5, -1).topk(VOCABULARY)
    total, means = chunked(student, TeacherTop(top.indices, top.values), labels, {"kl": 1.0, "mlm": 1.0})
    torch.testing.assert_close(means, terms)
    for gradient, expected_gradient in zip(torch.autograd.grad(total, student), expected, strict=True):
        torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.usefixtures("chunks")
def test_the_rest_of_the_vocabulary_counts_as_one_token() -> None:
    # Teacher 0.6, 0.3 and 0.1 for the rest; student with 0.2 on each of five tokens: the rest has 0.6 of it.
    inputs, weight = torch.zeros(1, 2), torch.zeros(5, 2)
    top = TeacherTop(torch.tensor([[1, 3]]), torch.tensor([[0.6, 0.3]]).log())
    _, terms = vocabulary.vocabulary_loss(
        inputs, weight, None, top, torch.empty(0, dtype=torch.long), temperature=1.0, term_scales={"kl": 1.0}
    )
    expected = 0.6 * torch.tensor(3.0).log() + 0.3 * torch.tensor(1.5).log() + 0.1 * torch.tensor(1 / 6).log()
    torch.testing.assert_close(terms["kl"], expected)


@pytest.mark.usefixtures("chunks")
def test_gradient_of_the_likeliest_tokens_is_that_of_its_value() -> None:
    student, teacher, labels = made()
    top = torch.log_softmax(F.linear(teacher.inputs, teacher.weight, teacher.bias) / 2.5, -1).topk(4)

    def value(*tensors: Tensor) -> Tensor:
        logits = torch.log_softmax(F.linear(*tensors) / 2.5, -1)
        known, p = logits.gather(1, top.indices), top.values.exp()
        rest = 1 - p.sum(1)
        kl = (p * (top.values - known)).sum(1) + rest * (rest.log() - (1 - known.exp().sum(1)).log())
        return kl.mean() * 2.5**2

    total, terms = chunked(student, TeacherTop(top.indices, top.values), labels, {"kl": 1.0})
    torch.testing.assert_close(terms["kl"], value(*student).detach())
    for gradient, expected_gradient in zip(
        torch.autograd.grad(total, student), torch.autograd.grad(value(*student), student), strict=True
    ):
        torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.usefixtures("chunks")
def test_single_precision_is_enough_where_the_student_is_sure_of_one_token() -> None:
    # Then the rest of its probability is tiny, and 1 - the others would be nothing but rounding.
    student, teacher, _ = made()
    top = torch.log_softmax(F.linear(teacher.inputs, teacher.weight, teacher.bias) / 2.5, -1).topk(4)
    with torch.no_grad():
        student[2][int(top.indices[0, 0])] += 80.0
    nothing = torch.empty(0, dtype=torch.long)
    exact, _ = chunked(student, TeacherTop(top.indices, top.values), nothing, {"kl": 1.0})
    expected = torch.autograd.grad(exact, student)
    single = [tensor.detach().float().requires_grad_() for tensor in student]
    total, _ = chunked(single, TeacherTop(top.indices, top.values.float()), nothing, {"kl": 1.0})
    assert float(total.detach()) == pytest.approx(float(exact.detach()), rel=1e-4)
    for gradient, expected_gradient in zip(torch.autograd.grad(total, single), expected, strict=True):
        assert (gradient - expected_gradient).norm() < 1e-3 * expected_gradient.norm()


@pytest.mark.usefixtures("chunks")
def test_in_bfloat16_the_products_are_rounded_and_the_sums_are_not() -> None:
    student, teacher, labels = made()
    student = [tensor.detach().float().requires_grad_() for tensor in student]
    teacher = TeacherHead(teacher.inputs.float(), teacher.weight.float(), teacher.bias.float())
    expected = plain(student, teacher, labels, 2.5)
    with torch.autocast("cpu", torch.bfloat16):
        total, terms = chunked(student, teacher, labels, {"kl": 1.0, "mlm": 1.0})
    total.backward()
    assert all(value.dtype == torch.float32 for value in (*terms.values(), student[1].grad))
    for name, value in terms.items():
        assert 1e-7 < abs(float(value) - float(expected[name].detach())) < 0.02 * float(expected[name].detach())


@pytest.mark.usefixtures("chunks")
def test_a_term_without_positions_is_refused() -> None:
    student, teacher, labels = made()
    with pytest.raises(ValueError, match="at least one counted position"):
        chunked(student, teacher, labels[:0], {"kl": 1.0, "mlm": 1.0})


@pytest.mark.parametrize("terms", [{"kl": 5.0, "mlm": 2.0}, {"kl": 1.0}, {"mlm": 1.0}])
def test_whole_chunks_in_bf16_are_as_near_to_the_exact_gradient_as_rows(
    terms: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher, labels = made()
    if "kl" not in terms:
        student[0] = student[0].detach()[:MASKED].requires_grad_()
    total, _ = chunked(student, teacher, labels, terms)
    expected = torch.autograd.grad(total, student)
    single = [tensor.detach().float().requires_grad_() for tensor in student]
    of_teacher = TeacherHead(
        *(part.float() for part in (teacher.inputs, teacher.weight, teacher.bias) if part is not None)
    )
    monkeypatch.setattr(whole_chunks, "CHUNK", 7)
    errors = {}
    for devices in (("cpu",), ()):
        monkeypatch.setattr(vocabulary, "ROW_DEVICES", devices)
        with torch.autocast("cpu", torch.bfloat16):
            rounded, means = chunked(single, of_teacher, labels, terms)
        gradients = torch.autograd.grad(rounded, single)
        assert rounded.dtype is torch.float32 and all(mean.dtype is torch.float32 for mean in means.values())
        errors[devices] = [float((a - b).norm() / b.norm()) for a, b in zip(gradients, expected, strict=True)]
    assert max(errors[()]) < max(0.02, 2 * max(errors["cpu",])), errors


def test_what_is_compiled_is_one_graph_for_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    counted = torch._dynamo.testing.CompileCounter()
    plain = inspect.unwrap(whole_chunks.gradient_and_sums)  # without the wrapper that checks shapes in tests
    monkeypatch.setattr(whole_chunks, "gradient_and_sums", plain)
    function = whole_chunks.compiled(counted)
    random = torch.Generator().manual_seed(0)
    for positions, masked, scale in ((20, 9, 0.5), (17, 8, 0.25), (23, 5, 0.125)):
        logits, teacher = (torch.randn(positions, 50, generator=random) for _ in range(2))
        labels = torch.randint(50, (masked,), generator=random)
        given = (logits, teacher, labels, 2.0, torch.tensor([scale, 2 * scale]))
        for compiled_output, expected in zip(function(*given), whole_chunks.gradient_and_sums(*given), strict=True):
            torch.testing.assert_close(compiled_output, expected)
    assert counted.frame_count == 1

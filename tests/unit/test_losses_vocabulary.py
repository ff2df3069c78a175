"""The chunked losses equal the plain ones on full logits, in value and gradient, whatever the chunks."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tinydistilbert.losses import terms as losses
from tinydistilbert.losses import vocabulary
from tinydistilbert.losses.vocabulary import TeacherHead, TeacherTop

POSITIONS, MASKED, VOCABULARY = 20, 9, 50


@pytest.fixture(params=[(7, 3), (20, 20), (1, 1), (512, 16)], autouse=True)
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
    told = F.linear(teacher.inputs, teacher.weight, teacher.bias)
    return {"kl": losses.kl(logits, told, temperature), "mlm": losses.mlm(logits[: len(labels)], labels)}


def chunked(
    student: list[Tensor], teacher: TeacherHead | TeacherTop | None, labels: Tensor, term_scales: dict[str, float]
) -> tuple[Tensor, dict[str, Tensor]]:
    bias = student[2] if len(student) > 2 else None
    return vocabulary.vocabulary_loss(*student[:2], bias, teacher, labels, temperature=2.5, term_scales=term_scales)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("term_scales", [{"kl": 5.0, "mlm": 2.0}, {"kl": 0.5}, {"mlm": 3.0}])
def test_value_and_gradient_are_the_plain_ones(term_scales: dict[str, float], bias: bool) -> None:
    student, teacher, labels = made(bias=bias)
    rows = POSITIONS if "kl" in term_scales else MASKED  # without soft targets only masked positions are asked for
    inputs = [student[0][:rows], *student[1:]]
    total, terms = chunked(inputs, teacher if "kl" in term_scales else None, labels, term_scales)
    (1.5 * total).backward()
    found = [tensor.grad.clone() for tensor in student]
    for tensor in student:
        tensor.grad = None
    expected = plain(student, teacher, labels, 2.5)
    (1.5 * sum(scale * expected[name] for name, scale in term_scales.items())).backward()
    assert terms.keys() == term_scales.keys()
    for name, value in terms.items():
        torch.testing.assert_close(value, expected[name].detach())
    for own, tensor in zip(found, student, strict=True):
        torch.testing.assert_close(own, tensor.grad)


def test_the_likeliest_tokens_with_all_of_the_vocabulary_are_the_whole_teacher() -> None:
    student, teacher, labels = made()
    whole, terms = chunked(student, teacher, labels, {"kl": 1.0, "mlm": 1.0})
    expected = torch.autograd.grad(whole, student)
    told = torch.log_softmax(F.linear(teacher.inputs, teacher.weight, teacher.bias) / 2.5, -1).topk(VOCABULARY)
    total, found = chunked(student, TeacherTop(told.indices, told.values), labels, {"kl": 1.0, "mlm": 1.0})
    torch.testing.assert_close(found, terms)
    for own, other in zip(torch.autograd.grad(total, student), expected, strict=True):
        torch.testing.assert_close(own, other)


def test_the_rest_of_the_vocabulary_counts_as_one_token() -> None:
    # Teacher 0.6, 0.3 and 0.1 for the rest; student with 0.2 on each of five tokens: the rest has 0.6 of it.
    inputs, weight = torch.zeros(1, 2), torch.zeros(5, 2)
    top = TeacherTop(torch.tensor([[1, 3]]), torch.tensor([[0.6, 0.3]]).log())
    _, terms = vocabulary.vocabulary_loss(
        inputs, weight, None, top, torch.empty(0, dtype=torch.long), temperature=1.0, term_scales={"kl": 1.0}
    )
    expected = 0.6 * torch.tensor(3.0).log() + 0.3 * torch.tensor(1.5).log() + 0.1 * torch.tensor(1 / 6).log()
    torch.testing.assert_close(terms["kl"], expected)


def test_gradient_of_the_likeliest_tokens_is_that_of_its_value() -> None:
    student, teacher, labels = made()
    told = torch.log_softmax(F.linear(teacher.inputs, teacher.weight, teacher.bias) / 2.5, -1).topk(4)

    def value(*tensors: Tensor) -> Tensor:
        logits = torch.log_softmax(F.linear(*tensors) / 2.5, -1)
        known, p = logits.gather(1, told.indices), told.values.exp()
        rest = 1 - p.sum(1)
        kl = (p * (told.values - known)).sum(1) + rest * (rest.log() - (1 - known.exp().sum(1)).log())
        return kl.mean() * 2.5**2

    total, terms = chunked(student, TeacherTop(told.indices, told.values), labels, {"kl": 1.0})
    torch.testing.assert_close(terms["kl"], value(*student).detach())
    for own, other in zip(
        torch.autograd.grad(total, student), torch.autograd.grad(value(*student), student), strict=True
    ):
        torch.testing.assert_close(own, other)


def test_single_precision_is_enough_where_the_student_is_sure_of_one_token() -> None:
    # Then the rest of its probability is tiny, and 1 - the others would be nothing but rounding.
    student, teacher, _ = made()
    told = torch.log_softmax(F.linear(teacher.inputs, teacher.weight, teacher.bias) / 2.5, -1).topk(4)
    with torch.no_grad():
        student[2][int(told.indices[0, 0])] += 80.0
    nothing = torch.empty(0, dtype=torch.long)
    exact, _ = chunked(student, TeacherTop(told.indices, told.values), nothing, {"kl": 1.0})
    expected = torch.autograd.grad(exact, student)
    single = [tensor.detach().float().requires_grad_() for tensor in student]
    total, _ = chunked(single, TeacherTop(told.indices, told.values.float()), nothing, {"kl": 1.0})
    assert float(total.detach()) == pytest.approx(float(exact.detach()), rel=1e-4)
    for own, other in zip(torch.autograd.grad(total, single), expected, strict=True):
        assert (own - other).norm() < 1e-3 * other.norm()


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


def test_a_term_without_positions_is_refused() -> None:
    student, teacher, labels = made()
    with pytest.raises(ValueError, match="at least one counted position"):
        chunked(student, teacher, labels[:0], {"kl": 1.0, "mlm": 1.0})

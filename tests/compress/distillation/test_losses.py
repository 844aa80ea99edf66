"""The formulas of distillation against plain Python and numpy."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from compress.distillation.losses import (
    attention_distance,
    attention_map,
    distance,
    same_positions,
    similarity,
    similarity_distance,
    softened_divergence,
)
from compress.errors import UserError


def softmax(row: np.ndarray) -> np.ndarray:
    powers = np.exp(row - row.max())
    return powers / powers.sum()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_softened_divergence_is_t_squared_times_kl(temperature: float) -> None:
    student, teacher = torch.randn(3, 5), torch.randn(3, 5)
    total = 0.0
    for own, wanted in zip(student.double().numpy(), teacher.double().numpy(), strict=True):
        p, q = softmax(wanted / temperature), softmax(own / temperature)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    expected = temperature**2 * total / 3
    assert float(softened_divergence(student, teacher, temperature)) == pytest.approx(expected, rel=1e-5)
    assert float(softened_divergence(teacher, teacher, temperature)) == pytest.approx(0.0, abs=1e-6)


def test_hintons_limit_of_high_temperatures() -> None:
    """For large T the gradient is (z - v) / N of zero-mean logits (section 2.1 of the paper), whatever T is."""
    student, teacher = (x - x.mean(1, keepdim=True) for x in torch.randn(2, 4, 6, dtype=torch.float64).unbind())
    student = student.float().requires_grad_()
    softened_divergence(student, teacher.float(), 100.0).backward()
    expected = (student.detach() - teacher.float()) / 6 / 4  # 1/4: mean over the batch
    torch.testing.assert_close(student.grad, expected, rtol=0.05, atol=5e-4)


def test_logits_of_pixels_are_averaged_over_positions() -> None:
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    rows = [x.permute(0, 2, 3, 1).reshape(-1, 3) for x in (student, teacher)]
    expected = softened_divergence(*rows, 2.0)
    torch.testing.assert_close(softened_divergence(student, teacher, 2.0), expected)


def test_attention_as_in_the_paper() -> None:
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 7, 4, 4)
    total = 0.0
    for a, b in zip(student.double().numpy(), teacher.double().numpy(), strict=True):
        maps = []
        for feature in (a, b):
            q = np.array([sum(feature[c, i, j] ** 2 for c in range(len(feature))) for i in range(4) for j in range(4)])
            maps.append(q / math.sqrt(float((q**2).sum())))
        total += float(((maps[0] - maps[1]) ** 2).sum())
    assert float(attention_distance(student, teacher)) == pytest.approx(total / 2, rel=1e-5)
    torch.testing.assert_close(attention_map(student).norm(dim=1), torch.ones(2))
    torch.testing.assert_close(attention_map(3 * student), attention_map(student))


def test_similarity_as_in_the_paper() -> None:
    student, teacher = torch.randn(4, 3, 2, 2), torch.randn(4, 6, 5, 5)
    matrices = []
    for feature in (student, teacher):
        q = feature.double().reshape(4, -1).numpy()
        gram = np.array([[float(np.dot(q[i], q[j])) for j in range(4)] for i in range(4)])
        matrices.append(np.array([row / math.sqrt(float((row**2).sum())) for row in gram]))
    expected = float(((matrices[0] - matrices[1]) ** 2).sum()) / 4**2
    assert float(similarity_distance(student, teacher)) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(similarity(student).numpy(), matrices[0], rtol=1e-4, atol=1e-6)


def test_distances_of_images() -> None:
    student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])
    assert float(distance(student, teacher, "l1")) == 1.5
    assert float(distance(student, teacher, "l2")) == 2.5


def test_features_of_other_sizes_meet_at_the_smaller_one() -> None:
    student, teacher = torch.randn(2, 3, 4, 8), torch.randn(2, 5, 8, 4)
    own, wanted = same_positions(student, teacher, "conv")
    assert own.shape == (2, 3, 4, 4)
    assert wanted.shape == (2, 5, 4, 4)
    torch.testing.assert_close(own, functional.avg_pool2d(student, (1, 2)))
    torch.testing.assert_close(wanted, functional.avg_pool2d(teacher, (2, 1)))


@pytest.mark.parametrize(
    "sizes", [((2, 3, 4, 4), (2, 3, 16)), ((2, 3, 4), (2, 5, 4)), ((2, 3), (4, 3))], ids=["kinds", "tokens", "batches"]
)
def test_features_that_cannot_be_laid_over_each_other_are_named(sizes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    student, teacher = (torch.randn(*size) for size in sizes)
    with pytest.raises(UserError, match="the student's 'conv' gives"):
        same_positions(student, teacher, "conv")


def test_tokens_keep_their_channels_last() -> None:
    tokens: Tensor = torch.randn(2, 10, 4)
    own, wanted = same_positions(tokens, torch.randn(2, 10, 8), "block")
    assert own.shape == (2, 10, 4)
    assert wanted.shape == (2, 10, 8)


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-6, 1e-3])
@pytest.mark.parametrize("loss", [attention_distance, similarity_distance])
def test_a_sample_that_a_layer_hardly_answers_has_no_gradient_that_throws_the_network_away(loss, size: float) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(8, width, 3, 3, generator=draw).relu() for width in (5, 7))
    student[0] *= size
    (found,) = torch.autograd.grad(loss(student.requires_grad_(), teacher), student)
    assert torch.isfinite(found).all()
    assert found[0].abs().max() < 20 * found[1:].abs().max()


@pytest.mark.parametrize("loss", [attention_distance, similarity_distance])
def test_a_layer_that_answers_nothing_at_all_has_no_gradient(loss) -> None:
    student = torch.zeros(4, 5, 3, 3, requires_grad=True)
    (found,) = torch.autograd.grad(loss(student, torch.ones(4, 7, 3, 3)), student)
    assert (found == 0).all()


def test_similarity_is_in_float32_inside_autocast() -> None:
    student, teacher = torch.randn(4, 3, 2, 2), torch.randn(4, 6, 5, 5)
    outside = similarity(student), similarity_distance(student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        inside = similarity(student), similarity_distance(student, teacher)
    for given, wanted in zip(inside, outside, strict=True):
        assert torch.equal(given, wanted)

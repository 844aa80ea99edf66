"""The surgeon's costs and updates against least squares computed anew, in double precision."""

import pytest
import torch
from torch import Tensor

from compress.pruning.one_shot.surgeon import DAMPING, Surgeon


def least(weight: Tensor, moments: Tensor, gone: list[int]) -> Tensor:
    """The weights that lose least without these inputs: the normal equations of those that stay."""
    kept = [i for i in range(weight.shape[1]) if i not in gone]
    found = torch.zeros_like(weight)
    found[:, kept] = torch.linalg.solve(moments[kept][:, kept], moments[kept] @ weight.T).T
    return found


@pytest.fixture
def case() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(50, 6, generator=draw, dtype=torch.float64)
    x[:, 1] = x[:, 0] + 0.1 * x[:, 1]
    moments = x.T @ x / 50
    weight = torch.randn(3, 6, generator=draw, dtype=torch.float64)
    return weight, moments, torch.tensor([1.0, 0.0, 4.0], dtype=torch.float64)


def damped(moments: Tensor) -> Tensor:
    return moments + DAMPING * moments.diagonal().mean() * torch.eye(len(moments), dtype=torch.float64)


def test_costs_are_those_of_the_best_weights_without_the_inputs(case: tuple[Tensor, Tensor, Tensor]) -> None:
    weight, moments, outputs = case
    sets = [[0, 3], [1, 2], [4, 5]]
    expected = []
    for gone in sets:
        change = weight - least(weight, damped(moments), gone)
        expected.append(float(((change @ damped(moments) * change).sum(1) * outputs).sum()))
    assert Surgeon(*case).costs(torch.tensor(sets)).tolist() == pytest.approx(expected, rel=1e-9)


def test_inputs_taken_one_by_one_are_as_if_taken_together(case: tuple[Tensor, Tensor, Tensor]) -> None:
    weight, moments, _ = case
    surgeon = Surgeon(*case)
    for gone in ([0, 3], [1]):
        surgeon.remove(torch.tensor(gone))
    torch.testing.assert_close(surgeon.weight, least(weight, damped(moments), [0, 1, 3]))
    assert torch.equal(surgeon.weight[:, [0, 1, 3]], torch.zeros(3, 3, dtype=torch.float64))
    assert float(surgeon.costs(torch.tensor([[0], [1], [3]])).sum()) == 0


def test_an_input_that_another_one_knows_is_cheap(case: tuple[Tensor, Tensor, Tensor]) -> None:
    twin, alone = Surgeon(*case).costs(torch.tensor([[0], [2]])).tolist()
    assert twin < 0.1 * alone


def test_outputs_that_nobody_reads_cost_nothing(case: tuple[Tensor, Tensor, Tensor]) -> None:
    surgeon = Surgeon(*case)
    surgeon.lose_outputs(torch.tensor([0, 2]))
    assert float(surgeon.costs(torch.tensor([[0, 3]]))) == 0


def test_what_inputs_know_of_each_other_by_chance_is_not_believed() -> None:
    torch.manual_seed(0)
    x = torch.randn(20, 60, dtype=torch.float64)  # independent, but each is a combination of the others in 20 samples
    moments, weight = x.T @ x / 20, torch.ones(1, 60, dtype=torch.float64)
    one, columns = torch.ones(1), torch.tensor([[3]])
    alone = float(moments[3, 3])
    assert float(Surgeon(weight, moments, one).costs(columns)) < 0.1 * alone
    assert float(Surgeon(weight, moments, one, noise=0.9).costs(columns)) > 0.7 * alone
    assert float(Surgeon(weight, moments, one, x.mean(0), 0.9).costs(columns)) > 0.6 * alone

"""What a thinning was proved on, and what the log says of it."""

import logging
from typing import Any

import pytest
import torch
from torch import nn

import compress.policies.thinning as policy
from compress.config import dict_config
from compress.errors import UserError
from compress.graph.macs.count import count_macs
from tests.compress.harness import Run, batch
from tests.compress.policies.test_thinning import schedule

SHAPE = torch.zeros(1, 3, 6, 6)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The inputs that thinnings were proved on."""
    found: list[Any] = []

    def spy(model: Any, graph: Any, removed: Any, inputs: Any, *rest: Any, **settings: Any) -> Any:
        found.append(inputs)
        return remove_units(model, graph, removed, inputs, *rest, **settings)

    remove_units = policy.remove_units
    monkeypatch.setattr(policy, "remove_units", spy)
    return found


def test_the_proof_runs_on_the_first_training_batch(tried: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run = Run(schedule(), example_inputs=SHAPE)
    run.epoch(0)
    assert not run.net._forward_pre_hooks  # looked once
    run.epoch(1)
    [(images,)] = tried
    assert torch.equal(images, batch(0, 0)[:4])
    assert "proved on the first training batch: outputs differ by" in caplog.text
    assert "conv1.weight" in run.scheduler.recipes[0]["kept"]


@pytest.mark.parametrize(("inputs", "words"), [(SHAPE, "random inputs"), (batch(0, 0), "the example inputs")])
def test_before_any_batch_it_says_what_else_it_took(inputs: torch.Tensor, words: str, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    run = Run(schedule(), example_inputs=inputs)
    run.epoch(1)
    assert f"proved on {words}" in caplog.text


def test_a_network_called_by_keywords_is_proved_on_random_inputs(tried: list[Any]) -> None:
    run = Run(schedule(), example_inputs=SHAPE)
    run.scheduler.on_epoch_begin(0, run.optimizer)
    run.scheduler.on_minibatch_begin(0, 0, 1, run.optimizer)
    run.net(input=batch(0, 0))
    assert run.scheduler.graph.batch is None
    run.epoch(1)
    assert tried[0] is SHAPE


def test_a_trace_of_the_network_is_no_batch(tried: list[Any]) -> None:
    run = Run(schedule(), example_inputs=SHAPE)
    run.scheduler.on_epoch_begin(0, run.optimizer)
    run.scheduler.on_minibatch_begin(0, 0, 1, run.optimizer)
    assert count_macs(run.net, SHAPE).total > 0
    run.epoch(0)
    run.epoch(1)
    [(images,)] = tried
    assert torch.equal(images, batch(0, 0)[:4])


class NormInside(nn.Module):
    """A norm over the channels that is no layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(nn.functional.layer_norm(self.first(x), self.first.weight.shape[:1]))
        return out


def test_an_inexact_removal_is_told_as_such(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    net = NormInside()
    ranked = {"class": "L1RankedStructureParameterPruner", "weights": ["first.weight"], "desired_sparsity": 0.5}
    given = schedule({**ranked, "group_type": "Filters"})
    given["extensions"]["thinner"] = {"class": "FilterRemover", "allow_inexact": True}
    inputs = torch.randn(4, 5)
    scheduler = dict_config(net, torch.optim.SGD(net.parameters(), 0.1), given, inputs)
    scheduler.on_epoch_begin(1)
    scheduler.on_minibatch_begin(1, 0, 4)
    assert net.first.out_features == 6
    [record] = [each for each in caplog.records if "INEXACT" in each.getMessage()]
    assert record.levelno == logging.WARNING
    assert "proved" not in record.getMessage()
    told = float(record.getMessage().split("changed the outputs by ")[1].split()[0])
    assert told > 1e-2


def test_a_quantized_network_is_not_thinned() -> None:
    run = Run(schedule())
    run.epoch(0)
    run.scheduler.structures.append({"layers": {}, "folded": {}})
    with pytest.raises(UserError, match="'thinner': the network is quantized already"):
        run.epoch(1)
    assert run.net.conv1.out_channels == 8

"""Optimizers whose step of an element depends on the whole tensor are named when a network is thinned."""

import copy

import pytest
import torch
from torch import nn

from compress.quantization.lsq import LearnedStepWeight
from compress.thinning.proof.stepping import other_steps
from compress.thinning.thin import thin

INPUTS = torch.randn(2, 5)
RULE = torch.optim.lr_scheduler.LambdaLR


class ByNorm(torch.optim.Optimizer):
    """A rate by layer, as LARS and LAMB have it."""

    def __init__(self, parameters, lr=0.1):
        super().__init__(parameters, {"lr": lr})

    def change(self, p):
        return p.grad * p.norm() / p.grad.norm()

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * self.change(p))


class ByCount(ByNorm):
    def change(self, p):
        return p.grad / p.numel()


class ByMean(ByNorm):
    def change(self, p):
        return p.grad / (p.grad.square().mean(1, keepdim=True).sqrt() + 1e-8)


class Signs(ByNorm):
    def change(self, p):
        return p.grad.sign()


class SOAP(ByNorm):
    def change(self, p):
        raise RuntimeError("only with its own model")


class Other(SOAP):
    """Nothing is known of it."""


def model():
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


OWN = ["SGD", "Adam", "AdamW", "Adamax", "Adagrad", "Adadelta", "NAdam", "RAdam", "RMSprop", "Rprop", "ASGD"]
WHOLE = ["Adafactor", "LBFGS", *(["Muon"] if hasattr(torch.optim, "Muon") else [])]


@pytest.mark.parametrize("name", [*OWN, Signs, Other])
def test_a_step_element_by_element_is_not_reported(name):
    cls = getattr(torch.optim, name) if isinstance(name, str) else name
    assert not other_steps(cls(model().parameters(), lr=0.1))


@pytest.mark.parametrize("name", [*WHOLE, ByCount, ByMean, SOAP])
def test_a_step_by_the_whole_tensor_is_named(name):
    cls = getattr(torch.optim, name) if isinstance(name, str) else name
    parameters = [p for p in model().parameters() if p.dim() == 2 or name != "Muon"]
    optimizer = cls(parameters, lr=0.1)
    RULE(optimizer, lambda epoch: 0.0)  # a warm-up that begins at 0
    before = copy.deepcopy(optimizer.state_dict())
    assert cls.__name__ in other_steps(optimizer)
    assert optimizer.state_dict() == before


def test_thinning_says_it_once():
    network = model()
    masks = {"0.weight": torch.arange(8)[:, None].expand(8, 5) > 2}
    (note,) = thin(network, INPUTS, masks, torch.optim.Adafactor(network.parameters())).notes
    assert "Adafactor takes the step of an element from the whole tensor" in note
    network = model()
    assert not thin(network, INPUTS, masks, torch.optim.SGD(network.parameters(), momentum=0.9)).notes


def test_thinning_says_that_learned_steps_count_elements():
    network = model()
    network.append(LearnedStepWeight(bits=8))
    network[3].start(torch.randn(2, 3))
    masks = {"0.weight": torch.arange(8)[:, None].expand(8, 5) > 2}
    assert any("scaled by the number of elements (LSQ, eq. 4)" in note for note in thin(network, INPUTS, masks).notes)

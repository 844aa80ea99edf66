"""What is said of a network before it is trained: noise in eval mode, and how much of it can be pruned."""

import logging

import pytest
import torch
from torch import Tensor, nn

from engine.architectures import own_modules
from engine.architectures.early_checks import check_network, prunable_story

PROBE = ((torch.zeros(1, 3, 12, 12),), (1, 3, 12, 12))


class Noisy(nn.Module):
    """Draws in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.01 * torch.rand(1)


class Counting(nn.Module):
    """Keeps a state that changes its output."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class Outer(nn.Module):
    """A convolution, and what its own forward adds."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.conv, self.more = nn.Conv2d(3, 3, 3, padding=1), nn.Sequential(nn.ReLU(), *parts, nn.Conv2d(3, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.more(self.conv(x))


class NoisyItself(Outer):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.rand(())


@pytest.mark.parametrize(
    ("network", "where"),
    [
        (lambda: Outer(Noisy()), "more.1 (Noisy)"),
        (lambda: Outer(Counting()), "more.1 (Counting)"),
        (NoisyItself, "its own forward"),
        (lambda: Outer(nn.Dropout(0.5), nn.BatchNorm2d(3)), None),
    ],
)
def test_noise_in_eval_mode_is_warned_of(network, where: str | None, caplog: pytest.LogCaptureFixture) -> None:
    own_modules.warn_once.cache_clear()
    made = network().train()
    check_network(made, "n.py:Net", [PROBE])
    said = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len(said) == (where is not None)
    assert all(f"something else each time for the same input in eval mode; it begins in {where}. " in s for s in said)
    assert all(module.training and not module._forward_hooks for module in made.modules())


def test_advice_that_can_be_typed_is_not_cut_off() -> None:
    network = Outer()
    network.an_old_head = nn.Sequential(*(nn.Linear(3, 3) for _ in range(2)))
    network.another_head_that_was_tried_once = nn.Linear(3, 3)
    story = prunable_story(network, PROBE[0], torch.device("cpu"))
    assert "if nobody runs it, --unused an_old_head another_head_that_was_tried_once" in story, story
    assert "(in Python" not in story

"""Teachers and students, and a run that counts what a teacher does."""

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from compress.config import dict_config
from tests.compress.harness import Run, batch, tiny_net


def wide_net(seed: int = 5) -> nn.Sequential:
    """A deeper and wider teacher of `tiny_net`'s inputs and outputs."""
    torch.manual_seed(seed)
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 16, 3, padding=1),
            act1=nn.ReLU(),
            body=nn.Conv2d(16, 16, 3, padding=1),
            act2=nn.ReLU(),
            neck=nn.Conv2d(16, 6, 3, padding=1, stride=2),
            act3=nn.ReLU(),
            flat=nn.Flatten(),
            head=nn.Linear(54, 5),
        )
    )


class Counted(nn.Module):
    """A teacher that counts its calls and notes how it was called."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls = 0
        self.inputs: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.calls += 1
        self.inputs.append(images)
        result: torch.Tensor = self.network(images)
        return result


def taught(schedule: dict[str, Any], teachers: Any = None, net: nn.Module | None = None, **settings: Any) -> Run:
    """A run whose loop knows these teachers."""
    run = Run({"policies": []}, net or tiny_net())
    run.optimizer = settings.pop("optimizer", None) or run.optimizer
    run.scheduler = dict_config(run.net, run.optimizer, schedule, teachers=teachers, **settings)
    return run


def first_batch() -> torch.Tensor:
    """What the harness trains with first."""
    return batch(0, 0)

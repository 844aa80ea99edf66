"""A tiny network, and a training loop around a scheduler, for the tests of algorithms."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from compress.config import dict_config
from compress.scheduler import CompressionScheduler


def tiny_net(seed: int = 0) -> nn.Sequential:
    """Two convolutions with BatchNorm, a linear layer; 3-channel 6x6 images -> 5 numbers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 8, 3, padding=1),
            bn1=nn.BatchNorm2d(8),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(8, 4, 3, padding=1),
            bn2=nn.BatchNorm2d(4),
            relu2=nn.ReLU(),
            flat=nn.Flatten(),
            fc=nn.Linear(4 * 36, 5),
        )
    )


def batch(epoch: int, step: int) -> torch.Tensor:
    """The images of one minibatch, the same in every run."""
    return torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1000 * epoch + step))


def one_policy(section: str, instance: dict[str, Any], epochs: list[int], **args: Any) -> dict[str, Any]:
    """A schedule with one instance and one policy."""
    key = section.removesuffix("s")
    entry = {key: {"instance_name": "it", **({"args": args} if args else {})}, "epochs": epochs}
    return {section: {"it": instance}, "policies": [entry]}


class Run:
    """One training run: network, optimizer, scheduler; `run.epoch(e)` trains one epoch."""

    def __init__(
        self,
        schedule: dict[str, Any],
        net: nn.Module | None = None,
        steps: int = 4,
        lr: float = 0.1,
        example_inputs: torch.Tensor | None = None,
    ) -> None:
        self.net = net or tiny_net()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=lr, momentum=0.9)
        self.scheduler: CompressionScheduler = dict_config(self.net, self.optimizer, schedule, example_inputs)
        self.steps = steps
        self.terms: list[str] = []

    def epoch(
        self, epoch: int, metrics: dict[str, Any] | None = None, after: Callable[[int], None] | None = None
    ) -> None:
        """Trains one epoch; `after(step)` is called at the end of each minibatch."""
        self.scheduler.on_epoch_begin(epoch, self.optimizer)
        for step in range(self.steps):
            self.step(epoch, step)
            if after:
                after(step)
        self.scheduler.on_epoch_end(epoch, self.optimizer, metrics)

    def step(self, epoch: int, step: int) -> None:
        """One minibatch."""
        self.scheduler.on_minibatch_begin(epoch, step, self.steps, self.optimizer)
        loss = self.net(batch(epoch, step)).square().mean()
        answer = self.scheduler.before_backward_pass(
            epoch, step, self.steps, loss, self.optimizer, return_loss_components=True
        )
        self.terms = [component.name for component in answer.loss_components]
        self.optimizer.zero_grad()
        answer.overall_loss.backward()
        self.scheduler.before_parameter_optimization(epoch, step, self.steps, self.optimizer)
        self.optimizer.step()
        self.scheduler.on_minibatch_end(epoch, step, self.steps, self.optimizer)

    def mask(self, name: str) -> torch.Tensor:
        """The mask of a weight."""
        mask = self.scheduler.masks[name].mask
        assert mask is not None, f"{name} has no mask"
        return mask

    def parameter(self, name: str) -> torch.Tensor:
        """A weight."""
        return self.scheduler.masks[name].parameter.detach()

    def save(self) -> dict[str, Any]:
        """Everything a checkpoint would hold."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Goes on where `save` was called."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])

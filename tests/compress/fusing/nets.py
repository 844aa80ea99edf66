"""Networks with blocks of several kinds, and training loops, for the tests of fusing."""

from typing import Any

import torch
from torch import Tensor, nn

from compress.config import dict_config
from models.blocks import EdgeBlock, RepVGGBlock


def images(seed: int = 0, count: int = 4) -> Tensor:
    """Images (count, 3, 8, 8)."""
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


class EdgeNet(nn.Module):
    """Two edge blocks, one plain convolution behind them: no norm, so training steps can be compared exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.head = EdgeBlock(3, 8)
        self.relu = nn.ReLU()
        self.mid = EdgeBlock(8, 8, identity=True)
        self.tail = nn.Conv2d(8, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.relu(self.mid(self.relu(self.head(x)))))


class NormNet(nn.Module):
    """RepVGG blocks of each geometry, with a BatchNorm outside of them too."""

    def __init__(self) -> None:
        super().__init__()
        self.head = RepVGGBlock(3, 8)
        self.mid = RepVGGBlock(8, 8)
        self.relu = nn.ReLU()
        self.down = RepVGGBlock(8, 8, stride=2, groups=4)
        self.norm = nn.BatchNorm2d(8)
        self.tail = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.mid(self.relu(self.head(x))))
        return self.tail(self.relu(self.norm(self.down(x))))


class InPlace(nn.Module):
    """A block that its method changes itself, as timm's do, with a part that stays."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1, bias=False)
        self.second = nn.Conv2d(3, 3, 1, bias=False)
        self.gate = nn.Conv2d(3, 3, 1)
        self.deployed: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        out = self.deployed(x) if self.deployed is not None else self.first(x) + self.second(x)
        return self.gate(out)

    def switch_to_deploy(self) -> None:
        """Two convolutions become one."""
        if self.deployed is None:
            new = nn.Conv2d(3, 3, 1, bias=False)
            new.weight.data = self.first.weight + self.second.weight
            self.deployed = new
            del self.first, self.second


def trained_statistics(net: nn.Module) -> nn.Module:
    """The network after three minibatches in training mode: running statistics are none that a fresh norm has."""
    net.train()
    with torch.no_grad():
        for seed in range(3):
            net(images(seed) * 2 + 0.5)
    return net


class Training:
    """One run of a schedule over a network: `run.to(3)` trains up to step 3 of all."""

    def __init__(
        self,
        net: nn.Module,
        schedule: dict[str, Any],
        steps: int = 2,
        optimizer: type = torch.optim.SGD,
        **settings: Any,
    ) -> None:
        self.net, self.steps, self.done = net, steps, 0
        settings = settings or {"lr": 0.05, "momentum": 0.9}
        self.optimizer = optimizer(net.parameters(), **settings)
        self.scheduler = dict_config(net, self.optimizer, schedule, example_inputs=images())

    def to(self, last: int, call: Any = None) -> "Training":
        """Trains the minibatches up to the number `last`, with the hooks of epochs around them."""
        call = self.net if call is None else call
        for number in range(self.done, last):
            epoch, step = divmod(number, self.steps)
            if step == 0:
                self.scheduler.on_epoch_begin(epoch, self.optimizer)
            self.scheduler.on_minibatch_begin(epoch, step, self.steps, self.optimizer)
            loss = call(images(number)).square().mean()
            loss = self.scheduler.before_backward_pass(epoch, step, self.steps, loss, self.optimizer)
            self.optimizer.zero_grad()
            loss.backward()
            self.scheduler.before_parameter_optimization(epoch, step, self.steps, self.optimizer)
            self.optimizer.step()
            self.scheduler.on_minibatch_end(epoch, step, self.steps, self.optimizer)
            if step == self.steps - 1:
                self.scheduler.on_epoch_end(epoch, self.optimizer)
        self.done = last
        return self

    def save(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "scheduler": self.scheduler.state_dict(),
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "done": self.done,
        }

    def load(self, state: dict[str, Any]) -> "Training":
        """Continues where `save` was called."""
        self.scheduler.load_state_dict(state["scheduler"])
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = state["done"]
        return self


def fusing(epoch: int = 1, *others: tuple[str, dict[str, Any], list[int]], **arguments: Any) -> dict[str, Any]:
    """A schedule that fuses in an epoch; `others` are (section, instance, epochs), listed after it in their order."""
    schedule: dict[str, Any] = {"version": 1, "extensions": {"fuser": {"class": "Reparameterize", **arguments}}}
    policies = [{"extension": {"instance_name": "fuser"}, "epochs": [epoch]}]
    for number, (section, instance, epochs) in enumerate(others):
        schedule.setdefault(section, {})[f"it{number}"] = instance
        policies.append({section.removesuffix("s"): {"instance_name": f"it{number}"}, "epochs": epochs})
    return {**schedule, "policies": policies}

"""The plain loop that the adapters are measured against, and the schedule, data and network of both."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from compress.config import dict_config
from compress.scheduler import CompressionScheduler

EPOCHS, BATCH, COUNT = 3, 4, 16


class Pairs(Dataset):
    """Sixteen inputs with targets, the same in every run."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(COUNT, 6, generator=generator)
        self.y = torch.randn(COUNT, 2, generator=generator)

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"x": self.x[i], "labels": self.y[i]}


class Net(nn.Module):
    """Two linear layers that answer with their loss, as models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        answer = self.last(torch.relu(self.first(x)))
        return {"loss": nn.functional.mse_loss(answer, labels), "logits": answer}


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    """Momentum moves masked weights, unless they are masked again."""
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)


def schedule(**args: Any) -> dict[str, Any]:
    """A regularizer, gradual pruning with the policy arguments `args`, and a falling learning rate."""
    agp = {"class": "AutomatedGradualPruner", "initial_sparsity": 0.2, "final_sparsity": 0.6, "weights": "*.weight"}
    window = {"starting_epoch": 0, "ending_epoch": EPOCHS}
    return {
        "pruners": {"agp": agp},
        "regularizers": {"l1": {"class": "L1Regularizer", "reg_regims": {"first.weight": 0.01}}},
        "lr_schedulers": {"lr": {"class": "ExponentialLR", "gamma": 0.5}},
        "policies": [
            {"pruner": {"instance_name": "agp", "args": args}, **window},
            {"regularizer": {"instance_name": "l1"}, **window},
            {"lr_scheduler": {"instance_name": "lr"}, **window},
        ],
    }


def plain_loop(data: dict[str, Any], accumulate: int = 1, clip: float = 0.0) -> tuple[Net, CompressionScheduler]:
    """Trains with the scheduler in twenty lines; `accumulate` batches make one minibatch of the hooks."""
    net, pairs = Net(), Pairs()
    optimizer = sgd(net)
    scheduler = dict_config(net, optimizer, data)
    batches = [(pairs.x[i : i + BATCH], pairs.y[i : i + BATCH]) for i in range(0, COUNT, BATCH)]
    updates = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
    steps = len(updates)
    for epoch in range(EPOCHS):
        scheduler.on_epoch_begin(epoch, optimizer)
        for step, update in enumerate(updates):
            scheduler.on_minibatch_begin(epoch, step, steps, optimizer)
            loss = sum(net(x, y)["loss"] / accumulate for x, y in update)
            loss = scheduler.before_backward_pass(epoch, step, steps, loss, optimizer)
            optimizer.zero_grad()
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            scheduler.before_parameter_optimization(epoch, step, steps, optimizer)
            optimizer.step()
            scheduler.on_minibatch_end(epoch, step, steps, optimizer)
        scheduler.on_epoch_end(epoch, optimizer, {"min": 1.0})
    return net, scheduler


def assert_same(net: nn.Module, expected: nn.Module) -> None:
    """Every weight to float32's rounding: the order in which gradients are added differs."""
    for (name, here), there in zip(net.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")
        assert torch.equal(here == 0, there == 0), f"{name}: other zeros"

"""A tiny trainer in float64 for what is exact only there: several processes, accumulation."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from compress.distributed import rank
from data.loaders import training_loader
from data.sampling import sample_key
from engine.resume import resumed
from engine.trainer import BaseTrainer
from options.Normal_options.train_options import TrainOptions

SAMPLES = 100


class TinyNet(nn.Module):
    """Two convolutions and a linear layer; `bn`, `dropout` and an output that no loss reads by argument."""

    def __init__(self, bn: bool = False, dropout: float = 0.0, unread: bool = False) -> None:
        super().__init__()
        self.arguments = {"bn": bn, "dropout": dropout, "unread": unread}
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8) if bn else nn.Identity()
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(4, 3)
        self.unread = nn.Linear(4, 2) if unread else None
        self.double()

    def forward(self, x: Tensor) -> Any:
        """(n, 1, 6, 6) -> (n, 3), and (n, 2) that nothing reads."""
        x = self.relu2(self.conv2(self.relu1(self.bn1(self.conv1(x))))).mean((2, 3))
        answer = self.fc(self.dropout(x))
        return (answer, self.unread(x)) if self.unread is not None else answer


class TinySet(Dataset[Any]):
    """Noise with labels, float64; what a sample is follows from its number."""

    def __init__(self, samples: int = SAMPLES) -> None:
        draw = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(samples, 1, 6, 6, generator=draw, dtype=torch.float64)
        self.labels = torch.randint(3, (samples,), generator=draw)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Any) -> tuple[Tensor, Tensor]:
        return self.inputs[sample_key(key).sample], self.labels[sample_key(key).sample]


class TinyTrainer(BaseTrainer):
    """Cross entropy; keeps the loss of every step in `losses`."""

    quality = "score"
    network: dict[str, Any]

    def build_model(self) -> nn.Module:
        return TinyNet(**self.network)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (torch.zeros(1, 1, 6, 6, dtype=torch.float64),)

    def compute_loss(self, batch: Any) -> Tensor:
        outputs = self.forward(batch[0])
        return functional.cross_entropy(outputs[0] if isinstance(outputs, tuple) else outputs, batch[1])

    def validate(self, model: nn.Module, epoch: int) -> dict[str, float]:
        data = self.validation_loader
        with torch.no_grad():
            outputs = model.eval()(data.inputs)
        return {"score": -float(functional.cross_entropy(outputs[0] if self.network.get("unread") else outputs,
                                                         data.labels))}  # fmt: skip

    def measure(self, model: nn.Module) -> dict[str, dict[str, float]]:
        return {"score": {"nothing": 0.0, "model": self.validate(model, 0)["score"]}}

    def build(self, checkpoint: dict[str, Any] | None = None) -> None:
        super().build(checkpoint)
        self.losses: list[float] = []
        scheduler = self.compression_scheduler
        inner = scheduler.before_backward_pass

        def noting(epoch: int, step: int, steps: int, loss: Tensor, *rest: Any, **more: Any) -> Any:
            self.losses.append(float(loss.detach()))
            return inner(epoch, step, steps, loss, *rest, **more)

        scheduler.before_backward_pass = noting  # type: ignore[method-assign]


def tiny_trainer(*arguments: Any, schedule: str | None = None, samples: int = SAMPLES, **network: Any) -> TinyTrainer:
    """A trainer of a `TinyNet` with those options of the command line and arguments of the network."""
    given = [str(each) for each in arguments]
    if schedule is not None:
        path = Path(f"tiny{rank()}.yaml")  # one of each process: they write at the same time
        path.write_text(schedule)
        given.append(f"--compress={path}")
    config = resumed(TrainOptions().parse(given))
    data = TinySet(samples)
    trainer = TinyTrainer(config, training_loader(data, config.batchSize, config.workers, config.seed), data)  # type: ignore[arg-type]
    trainer.network = network
    return trainer

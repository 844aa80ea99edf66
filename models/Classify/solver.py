"""Training of classifiers: what classification adds to the shared loop.

Network, optimizer, loss, metric and images.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from apputils.Classify_apputils.contact_sheet import contact_sheet
from data.Classify_data.loaders import training_set
from data.Classify_data.task import Task, check_classes
from engine.architectures.chosen import ChosenArchitecture
from engine.trainer import BaseTrainer
from models.Classify.initial_weights import start
from models.Classify.optimizers import make_optimizer
from models.Classify.quality import answers, beside_majority, loss, scores
from models.Classify.teacher_networks import named_network, pretrained_network
from models.Classify.zoo import SETTINGS, ZOO
from options.Classify_options.train_options import ClassifyTrainConfig

SHOWN = 16  # images in TensorBoard


class ClassifyTrainer(ChosenArchitecture, BaseTrainer):
    """Trains the network of `--arch` with cross entropy; the metric is top-1 accuracy (percent)."""

    config: ClassifyTrainConfig
    quality = "top1"
    gives_logits = True
    zoo = ZOO
    setting_options = SETTINGS

    def given(self) -> dict[str, Any]:
        """The classes and the form of the images."""
        task = self.task
        return {"num_classes": len(task.classes), "in_channels": task.channels, "image_size": task.size}

    def settings(self) -> dict[str, Any]:
        """Those of options and `--arch-args`; exits are a list."""
        chosen = super().settings()
        if isinstance(chosen.get("exits"), str):
            chosen["exits"] = chosen["exits"].split(",")
        return chosen

    def start_model(self, model: nn.Module) -> None:
        """`--init`, `--pretrained`, `--weights`."""
        start(model, self.config)

    def build_architecture(self, name: str, pretrained: bool = False) -> nn.Module:
        """A network of another `--arch`: new, for the same classes, or trained by its library for its own."""
        task = self.task
        if pretrained:
            return pretrained_network(name, task.channels, task.size)
        return named_network(name, len(task.classes), task.channels, task.size)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of `--optimizer`."""
        return make_optimizer(model, self.config)

    @property
    def task(self) -> Task:
        """The classes and the form of the images."""
        if self.training_loader is None:  # a plan needs no images, but their classes
            return training_set(self.config).task
        return self.training_loader.dataset.task  # type: ignore[attr-defined]

    def task_facts(self) -> dict[str, Any]:
        """The task, and the files."""
        return {**super().task_facts(), **self.task.to_dict()}

    def check_task(self, saved: dict[str, Any]) -> None:
        """The classes must be those of the run that is resumed, and the files too.

        Raises:
            UserError: they are not.
        """
        check_classes(self.task.classes, Task.from_dict(saved).classes, "the training data")
        super().check_task(saved)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """One image."""
        task = self.task
        return (torch.zeros(1, task.channels, task.size, task.size, device=self.device),)

    def probes(self) -> list[tuple[tuple[Tensor, ...], tuple[int, ...]]]:
        """One image, and as many logits as classes."""
        return [(tuple(each.cpu() for each in self.example_inputs()), (1, len(self.task.classes)))]

    def compute_loss(self, batch: Any) -> Tensor:
        """Cross entropy; that of each early exit is added with its weight."""
        images, labels = batch
        images = images.to(self.device, memory_format=self.memory_format, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        outputs = self.forward(images)
        last, *early = outputs if isinstance(outputs, tuple) else (outputs,)
        total = self._loss(last, labels)
        for logits in early:
            total = total + self.config.exit_weight * self._loss(logits, labels)
        return total

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)

    def validate(self, model: nn.Module, epoch: int) -> dict[str, float]:
        """Accuracy (percent) and loss on the validation images."""
        given = answers(model, self.validation_loader, self.device)
        return {**scores(given), "val_loss": loss(given)}

    def example_images(self, model: nn.Module) -> dict[str, Tensor]:
        """The first validation images, each above what it is taken for."""
        data: Any = self.validation_loader.dataset
        task = self.task
        images, labels = data.__getitems__(range(min(SHOWN, len(data))))
        taken_for = answers(model, [(images, labels)], self.device).logits.argmax(1)
        mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (task.mean, task.std))
        names = [task.classes[place] for place in taken_for.tolist()]
        return {"answers": contact_sheet(images * std + mean, names, (taken_for == labels).tolist())}

    def measure(self, model: nn.Module) -> dict[str, dict[str, float]]:
        """Accuracy beside the majority class's, on the validation images."""
        return beside_majority(answers(model, self.validation_loader, self.device), self.task)

"""Quality of classifiers: top-1 and top-5 accuracy beside the majority class.

Answers and their scores.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from data.Classify_data.task import Task

BASELINE = "majority class"


class Answers(NamedTuple):
    """What a network said of some images.

    Attributes:
        logits: (n, classes), on the CPU.
        labels: (n,); -1 where there is none.
    """

    logits: Tensor
    labels: Tensor


@torch.inference_mode()
def answers(model: nn.Module, batches: Iterable[Any], device: torch.device) -> Answers:
    """The answers to all minibatches, in order; the network's mode is put back."""
    was_training = model.training
    model.eval()
    try:
        found = [(model(images.to(device)).float().cpu(), labels) for images, labels in batches]
    finally:
        model.train(was_training)
    return Answers(torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found]))


def scores(given: Answers) -> dict[str, float]:
    """`top1` and `top5` in percent (of five classes or fewer, `top5` is 100)."""
    return {f"top{k}": top_k(given, k) for k in (1, 5)}


def scores_of_outputs(labels: Tensor, outputs: Iterable[Tensor]) -> dict[str, float]:
    """`top1`, `top5` and `loss` of logits that are there, minibatch by minibatch in the labels' order."""
    given = Answers(torch.cat([each.float().cpu() for each in outputs]), labels)
    return {**scores(given), "loss": loss(given)}


def top_k(given: Answers, k: int) -> float:
    """Percent of images whose class is among the k largest logits."""
    return 100 * float(among_best(given, k).double().mean())


def among_best(given: Answers, k: int) -> Tensor:
    """For each image whether its class is among the k largest logits."""
    best = given.logits.topk(min(k, given.logits.shape[1]), dim=1).indices
    return (best == given.labels[:, None]).any(1)


def loss(given: Answers) -> float:
    """Mean cross entropy, nats."""
    return float(functional.cross_entropy(given.logits, given.labels))


def majority_scores(labels: Tensor, task: Task) -> dict[str, float]:
    """The same scores of always naming the commonest class, or the five commonest, of the training images."""
    common = torch.tensor(task.majority)
    return {f"top{k}": 100 * float(torch.isin(labels, common[:k]).double().mean()) for k in (1, 5)}


def beside_majority(given: Answers, task: Task) -> dict[str, dict[str, float]]:
    """Metric -> {"majority class": x, "model": y}."""
    trivial, own = majority_scores(given.labels, task), scores(given)
    return {metric: {BASELINE: trivial[metric], "model": own[metric]} for metric in own}

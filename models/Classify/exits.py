"""Early exits at work: leaving a network as soon as it is sure (BranchyNet).

Inference that leaves early, and what it saves. Source: Teerapittayanon, McDanel & Kung 2016, BranchyNet, arXiv
1709.01686, algorithm 1; sureness is the largest softmax probability instead of the entropy. A label is never looked
at: it only judges the answers.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.graph.macs.count import count_macs

THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)  # 1.0: nobody leaves early


@dataclass(frozen=True)
class ExitRow:
    """What a threshold gives.

    Attributes:
        threshold: probability from which an image leaves, (0, 1].
        accuracy: top-1, percent.
        macs: average multiply-accumulates of an image.
        left: share of the images that left at each exit, the end being the last; they add up to 1.
    """

    threshold: float
    accuracy: float
    macs: float
    left: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "threshold": self.threshold, "top1": self.accuracy, "average_macs": self.macs, "left": list(self.left),
        }  # fmt: skip


@torch.inference_mode()
def early_logits(model: nn.Module, images: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Answers of a network with exits; an image that leaves is not computed any further.

    Args:
        model: in eval mode, with `exit_names`, `stages`, `exits` and `classify`, as `ResNetCifar` has them.
        images: (n, channels, height, width).
        threshold: an image leaves where its largest softmax probability is at least this, (0, 1].

    Returns:
        logits (n, classes), and the exit at which each image left (n,), the end being the last.
    """
    remaining = torch.arange(len(images), device=images.device)
    found: list[tuple[Tensor, Tensor, int]] = []
    walk = _Walk(model, images)
    for at_exit, (logits, is_end) in enumerate(walk):
        sure = logits.softmax(1).amax(1) >= threshold if not is_end else torch.ones(len(logits), dtype=torch.bool)
        sure = sure.to(logits.device)
        found.append((remaining[sure], logits[sure], at_exit))
        remaining = remaining[~sure]
        walk.keep(~sure)
        if not len(remaining):
            break
    places = torch.cat([place for place, _, _ in found])
    exits = torch.cat([torch.full_like(place, number) for place, _, number in found])
    order = places.argsort()
    return torch.cat([logits for _, logits, _ in found])[order], exits[order]


def exit_macs(model: nn.Module, image: Tensor) -> list[int]:
    """Multiply-accumulates of one image that leaves at each exit, the end being the last.

    What an exit costs is paid by those too that continue.
    """
    totals = []
    for count in range(len(model.exit_names) + 1):  # type: ignore[arg-type]
        totals.append(count_macs(_UpTo(model, count).eval(), (image,)).total)
    return totals


def exit_table(
    model: nn.Module, batches: Iterable[Any], device: torch.device, image: Tensor, thresholds: Iterable[float]
) -> list[ExitRow]:
    """One row a threshold, over all images."""
    macs = torch.tensor(exit_macs(model, image), dtype=torch.float64)
    kept = [(images.to(device), labels) for images, labels in batches]
    rows = []
    for threshold in thresholds:
        right, left = 0, torch.zeros(len(macs), dtype=torch.float64)
        for images, labels in kept:
            logits, exits = early_logits(model, images, threshold)
            right += int((logits.argmax(1).cpu() == labels).sum())
            left += torch.bincount(exits.cpu(), minlength=len(macs))
        share = left / left.sum()
        accuracy = 100 * right / int(left.sum())
        rows.append(ExitRow(threshold, accuracy, float((share * macs).sum()), tuple(share.tolist())))
    return rows


class _Walk:
    """The network stage by stage, for the images that are left."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self._model, self._features = model, model.stem(images)  # type: ignore[operator]

    def __iter__(self) -> Iterator[tuple[Tensor, bool]]:
        model = self._model
        for name in model.stage_names:  # type: ignore[union-attr]
            self._features = model.get_submodule(name)(self._features)
            if name in model.exit_names:  # type: ignore[operator]
                yield model.exits[name](self._features), False  # type: ignore[index,operator]
        yield model.classify(self._features), True  # type: ignore[operator]

    def keep(self, which: Tensor) -> None:
        """Goes on with some of the images."""
        self._features = self._features[which]


class _UpTo(nn.Module):
    """The network as far as an exit, all exits on the way included."""

    def __init__(self, model: nn.Module, count: int) -> None:
        super().__init__()
        self.model, self.count = model, count

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        given = []
        for number, (logits, _) in enumerate(_Walk(self.model, images)):
            given.append(logits)
            if number == self.count:
                break
        return tuple(given)

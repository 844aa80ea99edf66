"""What the notebooks look at: a dense network, a compressed one, and images to measure on.

`dense_and_compressed`, `small_evaluation`. The newest run of SR is taken if there is one; else a new network, so that
a notebook also works before anything was trained.
"""

import copy
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from apputils.runs.folders import newest_runs
from compress.analysis.sensitivity.evaluation import Evaluation
from compress.errors import UserError
from compress.graph.channels import ChannelGraph
from compress.thinning.ranking import Vote, rank_groups
from compress.thinning.thin import thin
from compress.thinning.trials.trial import prunable_graph
from data.data import get_testing_set
from engine.saved.find_checkpoint import load_subject
from engine.saved.load_model import new_network
from engine.saved.rebuild import rebuild
from models.C2SRCNN.model import Net
from models.SR.quality import QUALITY

PRUNED = ("mid_part.1.weight", "mid_part.3.weight", "mid_part.5.weight")


class Pair(NamedTuple):
    """Two networks that belong together.

    Attributes:
        dense: before compression: of a run, the network as it was built, not trained.
        compressed: after it.
        about: where they come from, in words.
        example: inputs that both take.
    """

    dense: nn.Module
    compressed: nn.Module
    about: str
    example: tuple[Tensor, ...]


def dense_and_compressed(scale: int = 2) -> Pair:
    """The newest super-resolution run's network, dense and as it was compressed.

    Without a run: a new network of that scale, and the same with half of the filters of three layers taken out.
    """
    example = (torch.zeros(1, 3, 64, 64),)
    for checkpoint in _runs():
        compressed = rebuild(new_network(checkpoint), checkpoint).eval()
        about = f"run {checkpoint['run']} after epoch {checkpoint['epoch']}, beside its network as it was built"
        return Pair(new_network(checkpoint).eval(), compressed, about, example)
    torch.manual_seed(0)
    dense = Net(scale).eval()
    compressed = copy.deepcopy(dense)
    graph = prunable_graph(compressed, example)
    thin(compressed, example, _half_of_the_filters(graph, compressed))
    about = f"no run of super-resolution yet: a new network, and without half of the filters of {', '.join(PRUNED)}"
    return Pair(dense, compressed.eval(), about, example)


def small_evaluation(model: nn.Module, side: int = 48) -> Evaluation:
    """PSNR on the middles of the test images, low-resolution squares of `side` pixels: quick, and comparable only
    with itself.

    Args:
        model: tells the scale.
        side: pixels.
    """
    scale = int(model.upscale_factor)  # type: ignore[arg-type]
    images = get_testing_set(SimpleNamespace(testdata=None, upscale_factor=scale))
    items = [images[index].middle(side, side) for index in range(len(images))]
    return Evaluation([item.degraded[None] for item in items], partial(QUALITY.of_outputs, items, names=("psnr",)))


def _runs() -> list[dict[str, object]]:
    """The checkpoint of the newest super-resolution run, as a list of one; empty if there is none that can be read."""
    try:
        runs = newest_runs()
    except UserError:
        return []
    for run in runs:
        checkpoint = load_subject(run.best if run.best.is_file() else run.last)
        if checkpoint["optform"] == "SR":
            return [checkpoint]
    return []


def _half_of_the_filters(graph: ChannelGraph, model: nn.Module) -> dict[str, Tensor]:
    weights = dict(model.named_parameters())
    votes = [Vote(name, 0, weights[name].detach().abs().flatten(1).mean(1), 0.5) for name in PRUNED]
    return rank_groups(graph, model, votes, lambda scores, level: scores > scores.quantile(level)).masks

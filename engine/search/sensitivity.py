"""What the quality of the dense network loses by one change alone: a group at half its width, a layer in 8 or 4 bits.

`measured_scores`, `sensitive_layers`, `layers_for_four_bits`. Measured once a study, kept in its folder.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.io.files import read_text, write_json
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from engine.search.candidate import FLOAT, FOUR, Candidate, Group
from engine.search.screen import quiet
from engine.search.subject import Subject

logger = logging.getLogger("search")
FILE = "sensitivity.json"
HALF = 0.5
LEAST = 1e-3  # of the largest loss: a group that loses nothing at half its width is still worth something


def measured_scores(subject: Subject, groups: Sequence[Group]) -> dict[str, list[float]]:
    """Importance of each unit: its filters' norm, scaled so that a group at half its width has lost what was measured.

    Returns:
        group -> a score a unit.
    """
    norms = subject.scores(groups)
    losses = _measured_once(
        subject, "groups", lambda: _losses_at_half(subject, groups), {group.name for group in groups}
    )
    floor = LEAST * max([*losses.values(), LEAST])
    found = {}
    for group in groups:
        lost = sum(sorted(norms[group.name])[: group.units - _half(group)])
        scale = max(losses[group.name], floor) / max(lost, 1e-12)
        found[group.name] = [scale * each for each in norms[group.name]]
    return found


def sensitive_layers(subject: Subject) -> list[str]:
    """Layers, the one whose weights and inputs in 8 bits change the output most first; those that take part alone."""
    changes = _measured_once(subject, "layers", lambda: _changes_by(subject, 8), set())
    return sorted(changes, key=lambda name: (-changes[name], name))


def layers_for_four_bits(subject: Subject) -> list[str]:
    """Layers, the one whose weights in 4 bits change the output least, for each byte that this saves, first."""
    changes = _measured_once(subject, "layers in 4 bits", lambda: _changes_by(subject, FOUR), set())
    size = {name: sum(each.numel() for each in subject.network.get_submodule(name).parameters()) for name in changes}
    return sorted(changes, key=lambda name: (changes[name] / max(size[name], 1), name))


def _half(group: Group) -> int:
    """The smallest width to choose that is at least half of the group."""
    return min((each for each in group.choices if each >= HALF * group.units), default=group.units)


def _losses_at_half(subject: Subject, groups: Sequence[Group]) -> dict[str, float]:
    """Group -> the quality that is lost with it alone at half its width, without training; >= 0."""
    metric, higher = subject.metric
    whole = subject.dense[0][metric]
    found = {}
    for group in groups:
        candidate = Candidate({group.name: _half(group)}, "L1", FLOAT, False, 1.0, 0)
        quality = subject.quality(subject.before_training(candidate, groups))
        found[group.name] = max(0.0, whole - quality if higher else quality - whole)
    return found


def _changes_by(subject: Subject, bits: int) -> dict[str, float]:
    """Layer -> mean square change of the output over its mean square, that layer's weights alone in so many bits.

    Its input has 8 bits.
    """
    network, names = subject.network, [layer.name for layer in subject.latency.layers]
    batch = subject.calibration[0]
    right = _first(network, batch)
    found = {}
    for name in dict.fromkeys(names):
        others: dict[str, Any] = dict.fromkeys(each for each in names if each != name)
        settings = {"bits_activations": 8, "bits_parameters": bits, "per_channel_wts": True, "overrides": others}
        try:
            quantized = quantized_after_training(network, [batch], settings)
        except UserError as e:
            logger.info("%s is not measured in %d bits: %s", name, bits, str(e)[:200])
            continue
        error = (_first(quantized, batch) - right).square().mean() / right.square().mean().clamp_min(1e-12)
        found[name] = float(error)
    return found


def quantized_after_training(network: nn.Module, batches: Sequence[Any], settings: Mapping[str, Any]) -> nn.Module:
    """A copy quantized by calibration alone; see `PostTrainLinearQuantizer` for the settings."""
    quantizer = PostTrainLinearQuantizer(**settings, example_inputs=batches[0])
    with quiet():
        return quantizer.quantize(network, list(batches)).eval()


@torch.no_grad()
def _first(network: nn.Module, batch: Tensor) -> Tensor:
    output = network(batch)
    tensor: Tensor = output[0] if isinstance(output, tuple | list) else output
    return tensor


def _measured_once(
    subject: Subject, part: str, measure: Callable[[], Mapping[str, float]], needed: set[str]
) -> dict[str, float]:
    """From the study's folder where it is there, else measured and written."""
    path = subject.folder / FILE
    content: dict[str, dict[str, float]] = {}
    if path.is_file():
        try:
            content = json.loads(read_text(path))
        except (ValueError, RecursionError):  # half written
            content = {}
        if not isinstance(content, dict) or not all(isinstance(each, dict) for each in content.values()):
            content = {}
    if not needed <= content.get(part, {}).keys() or part not in content:
        logger.info("measuring what each of the %s loses alone", part)
        content[part] = {**content.get(part, {}), **measure()}
        write_json(path, content)
    return content[part]

"""Intermediate outputs of a network, written to a file: `test.py --dump-features`.

Which layers, running, the file. The file is compressed .npz, which `numpy.load` reads without pickle: an array a
layer, and `labels`.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from compress.distillation.capture import Call, Features, evaluated, modules_by_name
from compress.errors import UserError, did_you_mean
from compress.io.files import replacing, why
from compress.io.optional import needed
from compress.selectors import expand

Samples = Iterable[tuple[Tensor, Tensor | None]]
LABELS = "labels"


def chosen_layers(model: nn.Module, text: str | None) -> list[str]:
    """The layers that `--layers a,b*` means, in the order given.

    Raises:
        UserError: there are none, or a part matches no layer.
    """
    known = [name for name in modules_by_name(model) if name]
    if not text:
        raise UserError(f"--dump-features needs --layers=NAME,NAME...; {did_you_mean('', known)}")
    found: dict[str, None] = {}
    for part in text.split(","):
        try:
            names = expand(part.strip(), known)
        except ValueError as e:
            raise UserError(f"--layers={text}: {e}") from e
        if not names:
            raise UserError(f"--layers: {part.strip()!r} matches no layer of this network; {did_you_mean(part, known)}")
        found.update(dict.fromkeys(names))
    return list(found)


def dump_features(
    model: nn.Module, layers: list[str], samples: Samples, number: int, path: Path
) -> dict[str, list[tuple[int, ...]]]:
    """Runs the network in eval mode on the first `number` samples and writes what the layers gave.

    Arrays are named like the layers, float32, (samples, ...); where the samples' outputs have different sizes, as of
    whole images, each has an array of its own, `LAYER/00000`. `labels` is there where samples have labels.

    Args:
        model: on its device.
        layers: their canonical names.
        samples: minibatches (n, ...) with labels (n,) or None.
        number: samples at most, >= 1.
        path: ends in .npz; an old file is replaced once the new one is whole.

    Returns:
        layer -> the shapes of its outputs, one for each sample.

    Raises:
        UserError: the path does not end in .npz or cannot be written, or a layer is not called.
    """
    if path.suffix != ".npz":
        raise UserError(f"--dump-features={path}: the file is of the kind .npz; name it so")
    outputs: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    labels: list[Tensor] = []
    for features, given in _runs(model, layers, samples, number):
        for layer, output in features.items():
            outputs[layer] += output.detach().float().cpu().unbind()
        if given is not None:
            labels.append(given)
    arrays = {name: array for layer, found in outputs.items() for name, array in _arrays(layer, found)}
    if labels:
        arrays[LABELS] = torch.cat(labels).numpy()
    _write(path, arrays)
    return {layer: [tuple(each.shape) for each in found] for layer, found in outputs.items()}


def _runs(
    model: nn.Module, layers: list[str], samples: Samples, number: int
) -> Iterator[tuple[Features, Tensor | None]]:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    tqdm = needed("tqdm", "a progress bar").tqdm
    left, bar = number, tqdm(total=number, desc="features", unit="img", leave=False, disable=not sys.stderr.isatty())
    for inputs, labels in samples:
        taken = inputs[:left].to(device)
        yield evaluated(model, Call((taken,)), layers), None if labels is None else labels[:left]
        left -= len(taken)
        bar.update(len(taken))
        if left <= 0:
            return


def _arrays(layer: str, outputs: list[Tensor]) -> Iterator[tuple[str, np.ndarray]]:
    if len({each.shape for each in outputs}) == 1:
        yield layer, torch.stack(outputs).numpy()
        return
    for i, each in enumerate(outputs):
        yield f"{layer}/{i:05d}", each.numpy()


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    try:
        with replacing(path) as temporary:
            np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
    except OSError as e:
        raise UserError(f"--dump-features={path} could not be written: {why(e)}") from e

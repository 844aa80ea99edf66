"""Whole exported files of a network at a few widths, which a latency model is fitted to.

`write_whole_files`, `write_file`, `quick_export`.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.analysis.latency_model.layers import Layer, without
from compress.analysis.latency_model.plan import removals
from compress.export.onnx.export import transform_to_onnx
from compress.graph.channels import ChannelGraph
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from compress.thinning.removal_plan import plan_recipe


def write_whole_files(
    model: nn.Module,
    layers: Sequence[Layer],
    graph: ChannelGraph,
    inputs: tuple[Tensor, ...],
    folder: Path,
    precisions: Sequence[str],
) -> list[dict[str, Any]]:
    """Writes the files; one entry each: share, precision, widths of the layers, file, bytes, parameters."""
    found: list[dict[str, Any]] = []
    draw = np.random.default_rng(0)
    for precision in precisions:
        for share, removed in removals(graph, precision, draw):
            file = folder / f"{len(found)}.onnx"
            params = write_file(model, graph, inputs, removed, precision, file)
            widths = [[each.channels_in, each.channels_out] for each in without(layers, graph, removed)]
            entry = {"share": share, "precision": precision, "widths": widths, "file": file}
            found.append({**entry, "bytes": file.stat().st_size, "params": params})
    return found


def write_file(
    model: nn.Module,
    graph: ChannelGraph,
    inputs: tuple[Tensor, ...],
    removed: Mapping[str, list[int]],
    precision: str,
    file: Path,
) -> int:
    """Writes a thinned copy's file, in int8 by calibration alone; the number of parameters of the float network."""
    network = copy.deepcopy(model)
    network = plan_recipe(network, graph, removed).apply(network).eval()
    params = sum(each.numel() for each in network.parameters())
    if precision == "int8":
        settings: dict[str, Any] = {"bits_activations": 8, "bits_parameters": 8, "per_channel_wts": True}
        quantizer = PostTrainLinearQuantizer(**settings, example_inputs=inputs)
        network = quantizer.quantize(network, [inputs])
        transform_to_onnx(network, file, inputs, True, "qdq", [inputs])
    elif not any(removed.values()):
        transform_to_onnx(network, file, inputs, False, check_inputs=[inputs])
    else:
        quick_export(network, file, inputs)
    return params


def quick_export(network: nn.Module, file: Path, inputs: tuple[Tensor, ...]) -> None:
    """A float network's file by the older exporter, in a tenth of the time; the runtime makes the same kernels of it.

    What it cannot export goes the usual way.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(network, inputs, str(file), dynamo=False)
    except Exception:
        transform_to_onnx(network, file, inputs, False, check_inputs=[inputs])

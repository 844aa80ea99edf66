"""The same quantization-aware step by other tools: Brevitas, torchao's pt2e, torch.ao's fx graphs, NNCF.

`field`: a name -> a loop for each tool that can be imported and takes the network; for the others the reason. None of
the packages is needed for anything else; `pip install torchao brevitas nncf` brings them, and PYTHONPATH may name a
folder that they were installed to. All use 8 bits for weights (per channel where that is the tool's own choice) and
activations, and their own defaults for the rest.
"""

import argparse
import copy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.step_overhead import Batch, Loop

Make = Callable[[], nn.Module]


def field(make: Make, batch: Batch, loss: Callable[..., Tensor]) -> tuple[dict[str, Loop], dict[str, str]]:
    """Loops by tool, and the reason for each tool without one."""
    found, absent = {}, {}
    for name, prepare in TOOLS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = prepare(make(), batch[0])
                loop = Loop(model, batch, loss)
                loop()
            found[name] = loop
        except Exception as e:  # whatever another tool raises is its verdict
            absent[name] = f"{type(e).__name__}: {' '.join(str(e).split())[:160]}"
    return found, absent


def _fx(model: nn.Module, example: Tensor) -> nn.Module:
    from torch.ao.quantization import get_default_qat_qconfig_mapping
    from torch.ao.quantization.quantize_fx import prepare_qat_fx

    prepared: nn.Module = prepare_qat_fx(model.train(), get_default_qat_qconfig_mapping("x86"), (example,))
    return prepared


def _pt2e(model: nn.Module, example: Tensor) -> nn.Module:
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=True))
    exported = torch.export.export(model.train(), (example,)).module()
    prepared: nn.Module = prepare_qat_pt2e(exported, quantizer)
    return prepared


def _nncf(model: nn.Module, example: Tensor) -> nn.Module:
    import nncf

    data = nncf.Dataset([example])
    quantized: nn.Module = nncf.quantize(model, data, subset_size=1, fast_bias_correction=True)
    return quantized.train()


def _brevitas(model: nn.Module, example: Tensor) -> nn.Module:
    """Brevitas is a library of layers: each convolution and linear layer becomes its quantized one."""
    import brevitas.nn as qnn

    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            made = _brevitas_layer(qnn, child)
            if made is not None:
                setattr(parent, name, made)
    return model.train()


def _brevitas_layer(qnn: Any, layer: nn.Module) -> nn.Module | None:
    from brevitas.quant import Int8ActPerTensorFloat

    if isinstance(layer, nn.Conv2d):
        made = qnn.QuantConv2d(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
            layer.groups, bias=layer.bias is not None, weight_bit_width=8, input_quant=Int8ActPerTensorFloat,
        )  # fmt: skip
    elif isinstance(layer, nn.Linear):
        made = qnn.QuantLinear(
            layer.in_features, layer.out_features, bias=layer.bias is not None, weight_bit_width=8,
            input_quant=Int8ActPerTensorFloat,
        )  # fmt: skip
    else:
        return None
    made.load_state_dict(layer.state_dict(), strict=False)
    quantized: nn.Module = made
    return quantized


TOOLS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "torch.ao fx": _fx,
    "torchao pt2e": _pt2e,
    "Brevitas": _brevitas,
    "NNCF": _nncf,
}


if __name__ == "__main__":
    # Nothing runs: `results.py` calls it.
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()

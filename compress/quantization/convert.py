"""A quantized network as plain data, and a float network made one by it.

`structure_of`, `apply`, the exchange of modules. Saved with every checkpoint: a new float network, thinned as it was,
with this structure and the saved tensors is the network that was trained.

    structure = {"layers": {"conv1": {"weight_quantizer": {"class": "RangeWeight", "bits": 8, ...}},
                            "relu1": {"output_quantizer": {"class": "RangeActivation", "bits": 8, ...}}},
                 "folded": {"conv1": "bn1"}}
    apply(fresh_model, structure).load_state_dict(state)
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compress.arguments.checked import checks_arguments
from compress.errors import UserError
from compress.quantization.fake_quant import FakeQuantizer, WeightQuantizer, described, made
from compress.quantization.modules.activations import QuantActivation
from compress.quantization.modules.layers import (
    QuantLayer,
    bias_names,
    normed,
    quantized,
    slot_of,
    slots_of,
    weight_names,
)
from compress.quantization.modules.norms import NORMS, LateFrozen
from compress.quantization.placement.fast_paths import leave_fast_paths
from compress.selectors import canonical_modules, same_names, wrapped_child

Structure = dict[str, Any]
PiecesOf = dict[str, dict[str, FakeQuantizer]]  # layer -> slot -> its fake quantizer


@checks_arguments
def structure_of(model: nn.Module) -> Structure:
    """The structure of a quantized network; without layers for a float one."""
    layers: dict[str, dict[str, Any]] = {}
    folded: dict[str, str] = {}
    modules = canonical_modules(model)
    names = {id(module): name for name, module in modules.items()}
    for name, module in modules.items():
        if isinstance(module, QuantLayer | QuantActivation | LateFrozen):
            held = {slot: getattr(module, slot, None) for slot in slots_of(module)}
            found = {slot: described(piece) for slot, piece in held.items() if piece is not None}
            if found or not isinstance(module, LateFrozen):
                layers[name] = found
        if isinstance(module, QuantLayer) and module.batch_norm is not None:
            folded[name] = names[id(module.batch_norm)]
    return {"layers": layers, "folded": folded}


def pieces_of(structure: Structure) -> PiecesOf:
    """New fake quantizers for every layer of a structure."""
    return {
        name: {slot: made(description) for slot, description in slots.items()}
        for name, slots in structure["layers"].items()
    }


@checks_arguments
def apply(model: nn.Module, structure: Structure, pieces: PiecesOf | None = None) -> nn.Module:
    """Exchanges the layers of a float network for quantized ones, in place.

    Args:
        model: the float network, thinned as it will be; it may be wrapped.
        structure: of a network of the same module names.
        pieces: the fake quantizers to use; None makes new ones.

    Returns:
        The model.

    Raises:
        UserError: it is quantized already, or has no such modules; it is left as it was.
    """
    modules = {name: module for name, module in canonical_modules(model).items() if name}
    if any(isinstance(module, QuantLayer | QuantActivation) for module in modules.values()):
        raise UserError(f"this {type(model).__name__} is quantized already; a network is quantized once")
    meant = same_names([*structure["layers"], *structure["folded"].values()], modules)
    missing = sorted({*structure["layers"], *structure["folded"].values()} - set(meant))
    if missing:
        raise UserError(
            f"this {type(model).__name__} has no module {missing[0]!r}, which was quantized: the structure belongs to "
            "another network; nothing was changed"
        )
    pieces = pieces if pieces is not None else pieces_of(structure)
    originals = {name: modules[meant[name]] for name in meant}
    normalising = [name for name in structure["layers"] if type(originals[name]) in NORMS]
    norms = {name: normed(originals[name], pieces.get(name)) for name in {*structure["folded"].values(), *normalising}}
    twins = {id(originals[name]): norm for name, norm in norms.items()}
    for name in structure["layers"].keys() - norms.keys():
        norm = norms.get(structure["folded"].get(name, ""))
        twins[id(originals[name])] = quantized(originals[name], pieces[name], norm)
    tensor = next((each for each in (*model.parameters(), *model.buffers())), None)
    # After the twins exist and before they are in the network: with
    # a folded BatchNorm a weight starts from its folded values.
    for name, slots in pieces.items():
        for piece in slots.values():
            piece.to(None if tensor is None else tensor.device)
        module = twins[id(originals[name])]
        for piece, value in weights_read(module, starting=True) if isinstance(module, QuantLayer) else []:
            piece.start(value)
    _exchange(model, twins)
    leave_fast_paths(model)
    return model


def _exchange(model: nn.Module, twins: Mapping[int, nn.Module]) -> None:
    """Puts each twin wherever its original is registered; what is compiled by itself is compiled anew."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children leaves out a module's second name
            if id(child) in twins:
                setattr(parent, name, twins[id(child)])
                if wrapped_child(parent) == "_orig_mod":
                    parent._initialize()  # type: ignore[operator]


def weights_read(module: QuantLayer, starting: bool = False) -> list[tuple[WeightQuantizer, Tensor]]:
    """Each weight quantizer of a layer with the tensor that it rounds; `starting` as in `QuantLayer.fold_scale`."""
    found: list[tuple[WeightQuantizer, Tensor]] = []
    scale = module.fold_scale(starting)
    for name in (*weight_names(module), *bias_names(module)):
        piece, value = getattr(module, slot_of(name)), getattr(module, name)
        if piece is not None and value is not None:
            # The same product as in `quantized_weight`, or ranges would belong to another tensor.
            found.append((piece, value if scale is None or name != "weight" else value * scale))
    return found


@torch.no_grad()
def refresh_weights(model: nn.Module) -> None:
    """Weights' ranges become those of the weights as they are, for validation and saving; learned steps stay."""
    for module in model.modules():
        for piece, value in weights_read(module) if isinstance(module, QuantLayer) else []:
            piece.refresh(value)


def foldable(module: nn.Module) -> bool:
    """Whether a BatchNorm has what folding needs: running statistics."""
    return type(module) in NORMS and getattr(module, "running_var", None) is not None

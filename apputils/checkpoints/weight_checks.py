"""Weights from elsewhere that would load without an error and make another network of it are refused.

`by_own_names`, `check_weights`, `check_order`. Called wherever weights of others are loaded.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from apputils.checkpoints.named_tensors import equal
from compress.errors import UserError, some
from compress.selectors import same_names

SHOWN = 8
MAKE = "python -m apputils.checkpoints.file weights FILE OUT"
KNOWN = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
MEANINGS = {
    "gamma": "weight", "kernel": "weight", "beta": "bias", "moving_mean": "running_mean",
    "moving_var": "running_var", "moving_variance": "running_var",
}  # fmt: skip
Fitting = Mapping[str, tuple[Tensor, Tensor]]  # by name: the file's, the network's


def by_own_names(given: Mapping[str, Any], own: Iterable[str]) -> dict[str, Any]:
    """What is given by the network's names, where it means one of them, else by its own.

    Raises:
        UserError: two that differ stand for one name of the network.
    """
    meant = same_names(given, own)
    found: dict[str, Any] = {}
    first: dict[str, str] = {}
    for name, value in given.items():
        place = meant.get(name, name)
        if place in found and not equal(found[place], value):
            raise UserError(
                f"{first[place]} and {name} both stand for the network's {place}, and they differ; nothing was loaded. "
                f"Make a file with one of the two: {MAKE} --only={_pattern(first[place], name)!r}, or --without=... "
                "for the other"
            )
        found.setdefault(place, value)
        first.setdefault(place, name)
    return found


def _pattern(one: str, other: str) -> str:
    """For the names of one kind: `module.*` for module.a.weight and a.weight."""
    longer, shorter = sorted((one, other), key=len, reverse=True)
    part = next((part for part in longer.split(".") if part not in shorter.split(".")), "module")
    return f"{part}.*" if longer.startswith(f"{part}.") else f"*.{part}.*"


def check_weights(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuses weights that fit by name and shape, and with which the network would be another one.

    Args:
        given: tensors by the network's names, `module.` and `_orig_mod.` ignored; others are not looked at, nor are
            tensors of another shape.
        own: the network's tensors.

    Raises:
        UserError: two of them stand for one tensor of the network's; another kind of number, such as the integers of a
            quantized network; NaN or infinity, but for what is infinite in the network too, such as an attention mask;
            a negative variance.
    """
    named = by_own_names(given, own)
    fitting = {name: (named[name], own[name]) for name in own if name in named and named[name].shape == own[name].shape}
    for check in CHECKS:
        check(fitting)


def _check_kinds(fitting: Fitting) -> None:
    for kind, wrong in (("floating-point", _no_weight), ("whole", _not_whole)):
        bad = {name: there for name, (there, own) in fitting.items() if there.dtype != own.dtype and wrong(there, own)}
        if bad:
            quantized = kind != "whole" and any(_of_quantized(tensor.dtype) for tensor in bad.values())
            advice = (
                ". The file looks quantized, and such numbers mean nothing without their scales: take the file of the "
                "float network, or multiply them by their scales"
            )
            named = some([f"{name} {_kind(tensor)}" for name, tensor in bad.items()], SHOWN)
            raise UserError(
                f"{len(bad)} of {len(fitting)} tensors have numbers of another kind for {kind} ones ({named}); nothing "
                f"was loaded{advice if quantized else ''}"
            )


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _of_quantized(dtype: torch.dtype) -> bool:
    """Integers, and floating-point numbers of a byte or less."""
    return dtype is not torch.bool and not dtype.is_complex and (not dtype.is_floating_point or dtype.itemsize == 1)


def _no_weight(there: Tensor, own: Tensor) -> bool:
    if own.is_complex():
        return not (there.is_complex() or there.is_floating_point())
    return own.is_floating_point() and (not there.is_floating_point() or _of_quantized(there.dtype))


def _not_whole(there: Tensor, own: Tensor) -> bool:
    """Whether integers or truth values of the network would become others than there are in the file."""
    if own.is_floating_point() or own.is_complex():
        return False
    return there.is_complex() or not torch.equal(there.to(own.dtype).to(there.dtype), there)


def _check_tied(fitting: Fitting) -> None:
    """A tensor that has several names in the network has one value for all of them."""
    first: dict[tuple[Any, ...], str] = {}
    for name, (there, own) in fitting.items():
        if own.is_meta or not own.numel():
            continue
        other = first.setdefault((own.device, own.data_ptr(), own.shape, own.stride()), name)
        if other != name and not equal(there, fitting[other][0]):
            raise UserError(
                f"{other} and {name} are one tensor in the network, and what the file has for them differs; nothing "
                f"was loaded. Leave one of them out: {MAKE} --without={name}; or untie them in the network"
            )


def _check_finite(fitting: Fitting) -> None:
    bad = [name for name, (there, own) in fitting.items() if _not_finite(there, own)]
    if bad:
        raise UserError(
            f"NaN or infinity in {len(bad)} of {len(fitting)} tensors ({some(bad, SHOWN)}); nothing was loaded: no "
            "answer of such a network would be a number"
        )


def _not_finite(tensor: Tensor, own: Tensor) -> bool:
    there = tensor.detach().to(own.device)
    finite = torch.isfinite(there.to(own.dtype) if own.is_floating_point() else there)
    return not bool((finite | ~torch.isfinite(own)).all())


def _check_variances(fitting: Fitting) -> None:
    for name, (there, _) in fitting.items():
        if _last(name) == "running_var" and (negative := int((there < 0).sum())):
            raise UserError(
                f"{name} is negative in {negative} of {there.numel()} places, which no variance is: it is another "
                "tensor, or the file is damaged; nothing was loaded"
            )


CHECKS: tuple[Callable[[Fitting], None], ...] = (_check_kinds, _check_tied, _check_finite, _check_variances)


def check_order(pairs: Mapping[str, str], given: Mapping[str, Tensor]) -> None:
    """Refuses an order that the names contradict.

    Toy example: {"bn.weight": "b.bias"} is refused: both sides know what a weight and a bias are.

    Args:
        pairs: the network's names -> the file's.
        given: the file's tensors, in its order.

    Raises:
        UserError: the last parts of a pair's names mean different things, or the file is sorted by its names' letters.
    """
    here, there = ({_meaning(name) for name in names} for names in (pairs, pairs.values()))
    known = KNOWN | here & there
    wrong = [
        f"{name} = {other}"
        for name, other in pairs.items()
        if _meaning(name) != _meaning(other) and {_meaning(name), _meaning(other)} <= known
    ]
    if wrong:
        raise UserError(
            f"--match=order pairs {len(wrong)} of {len(pairs)} tensors with such as are called something else "
            f"({some(wrong, SHOWN)}): the file has them in another order than the network; nothing was loaded. Give "
            "the file's the network's names, and leave --match out"
        )
    _check_letters(given)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _meaning(name: str) -> str:
    """What the last part of a name means; a number means nothing."""
    last = _last(name)
    return "" if last.isdigit() else MEANINGS.get(last, last)


def _check_letters(given: Mapping[str, Tensor]) -> None:
    """Some kinds of files keep their tensors sorted by kind of number and name, in which 10 stands before 2."""
    kinds: dict[torch.dtype, list[str]] = {}
    for name, tensor in given.items():
        kinds.setdefault(tensor.dtype, []).append(name)
    if not all(names == sorted(names) for names in kinds.values()):
        return
    for names in kinds.values():
        for one, other in zip(names, sorted(names, key=_by_number), strict=True):
            if one != other:
                raise UserError(
                    f"the file's tensors stand in the order of their names' letters ({one} before {other}), not in "
                    "that of the layers, so --match=order cannot pair them; nothing was loaded. Give them the "
                    "network's names, and leave --match out"
                )


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]

"""The `_AGP` names: a ranked pruner whose level is given as `initial_sparsity` and `final_sparsity`.

`with_agp`, which registers a pruner under both of its names.

Distiller has a class `X_AGP` beside each ranked pruner X. Here that is the same class with `desired_sparsity:
{class: AgpLevel, ...}`; the second name only takes the two numbers as arguments of their own:

    L1RankedStructureParameterPruner_AGP(initial_sparsity=0.1, final_sparsity=0.5, weights=[...], group_type="3D")
    L1RankedStructureParameterPruner(desired_sparsity={"class": "AgpLevel", "initial_sparsity": 0.1, ...}, ...)
"""

import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import Field

from compress.pruning.base import Pruner
from compress.registry import PRUNERS
from compress.selectors import WeightSelectors

P = TypeVar("P", bound=type[Pruner])
LEVEL_ARGUMENTS = {
    "initial_sparsity": Annotated[float, Field(ge=0.0, lt=1.0)],
    "final_sparsity": Annotated[float, Field(gt=0.0, le=1.0)],
}
REPLACED = ("desired_sparsity", "reg_regims", "group_size", "noise", "rounding")  # as in Distiller, not with AGP


def with_agp(cls: P) -> P:
    """Decorator: registers the pruner, and its `_AGP` form."""
    PRUNERS.register(cls)
    PRUNERS.register(agp_form(cls))
    return cls


def agp_form(cls: type[Pruner]) -> type[Pruner]:
    """A subclass whose constructor takes `initial_sparsity` and `final_sparsity` for `desired_sparsity`."""
    kept = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(cls).parameters.items()
        if name not in (*REPLACED, "weights")
    ]
    hints = {**typing.get_type_hints(cls.__init__, include_extras=True), "weights": WeightSelectors, **LEVEL_ARGUMENTS}

    plain: Callable[..., None] = cls.__init__

    def __init__(self: Any, **given: Any) -> None:
        level = {"class": "AgpLevel", **{name: given.pop(name) for name in LEVEL_ARGUMENTS}}
        plain(self, desired_sparsity=level, **given)

    first = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in (*LEVEL_ARGUMENTS, "weights")]
    owner = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    signature = inspect.Signature([owner, *first, *kept])
    vars(__init__)["__signature__"] = signature
    __init__.__annotations__ = {name: hints[name] for name in signature.parameters if name != "self"}
    members = {"__init__": __init__, "__doc__": _doc(cls), "__module__": cls.__module__}
    return type(f"{cls.__name__}_AGP", (cls,), members)


def _doc(cls: type[Pruner]) -> str:
    """The docstring of the class with the sample and the arguments of its `_AGP` form."""
    lines = inspect.cleandoc(cls.__doc__ or "").splitlines()
    start = lines.index("Args:")
    sample = [
        part
        for line in lines[lines.index("Sample:") : start]
        for part in _sample_line(line.replace(f"class: {cls.__name__}", f"class: {cls.__name__}_AGP"))
    ]
    arguments = _without(lines[start + 1 :], (*REPLACED, "weights"))
    return "\n".join(
        [
            f"`{cls.__name__}` whose level rises along the cubic of automated gradual pruning.",
            "",
            "Paper: Zhu & Gupta 2017, To prune, or not to prune, arXiv 1710.01878, eq. 1 (level). Ranking:",
            "",
            *lines[2 : lines.index("Sample:")],
            *sample,
            "Args:",
            "    initial_sparsity: fraction of groups to prune at the first firing epoch, [0, 1).",
            "    final_sparsity: the same at the last one, (0, 1], above `initial_sparsity`.",
            "    weights: selectors of the weights to prune.",
            *arguments,
        ]
    )


def _sample_line(line: str) -> list[str]:
    """`desired_sparsity: 0.4` becomes the two arguments; other lines stay."""
    before, key, after = line.partition("desired_sparsity:")
    return [f"{before}initial_sparsity: 0.05", f"{before}final_sparsity:{after}"] if key else [line]


def _without(lines: list[str], names: tuple[str, ...]) -> list[str]:
    """An `Args:` block without some of its entries, their continuation lines included."""
    kept, dropping = [], False
    for line in lines:
        if line.startswith("    ") and not line.startswith("     "):
            dropping = line.strip().split(":")[0] in names
        elif not line.startswith(" "):
            dropping = False
        if not dropping:
            kept.append(line)
    return kept

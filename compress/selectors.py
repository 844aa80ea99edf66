"""Which weights or modules a schedule's text means.

Canonical names, and the expansion of a selector (exact name, glob, `re:REGEX`). Called by `compress.config` and
`compress.scheduler`.

A selector is resolved once, when the schedule is built; algorithms receive full canonical names.

    >>> expand("mid.*.weight", ["mid.0.weight", "mid.0.bias", "tail.weight"])
    ['mid.0.weight']
    >>> expand("module.tail.weight", ["tail.weight"])
    ['tail.weight']
"""

import itertools
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, TypeVar

import regex
from pydantic import BeforeValidator
from torch import nn

from compress.errors import shown

WRAPPERS = (  # module and name of a wrapper's class, and the child that is the network; looked up only once imported
    ("torch.nn.parallel", "DataParallel", "module"),
    ("torch.nn.parallel", "DistributedDataParallel", "module"),
    ("torch._dynamo.eval_frame", "OptimizedModule", "_orig_mod"),
    ("torch.optim.swa_utils", "AveragedModel", "module"),
    ("torch.distributed.fsdp", "FullyShardedDataParallel", "_fsdp_wrapped_module"),
)
WRAPPING = frozenset(child for _, _, child in WRAPPERS)
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
MAX_EXPRESSION, MATCH_SECONDS = 1000, 0.2
V = TypeVar("V")


@dataclass(frozen=True)
class SelectorOf:
    """Marks a string of a constructor's signature as a selector of `kind`, for the schedule's schema.

    Attributes:
        kind: what is selected.
        expression: what is neither a name nor a glob that matches is tried as a regular expression, as Distiller does.
    """

    kind: Literal["weight", "module"]
    expression: bool = False


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


WeightSelector = Annotated[str, SelectorOf("weight")]
ModuleSelector = Annotated[str, SelectorOf("module")]
ModuleOrExpression = Annotated[str, SelectorOf("module", expression=True)]
AsPair = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)  # YAML has lists only
WeightSelectors = Annotated[list[WeightSelector], BeforeValidator(_as_list)]


def wrapped_child(module: nn.Module) -> str | None:
    """The child of a wrapper that is the network, such as `module` of a DataParallel; None for any other module."""
    for place, cls, child in WRAPPERS:
        kind = getattr(sys.modules.get(place), cls, None)
        if kind is not None and isinstance(module, kind):
            return child
    return None


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel, torch.compile ...; wrappers are known by type."""
    while (child := wrapped_child(model)) is not None:
        model = model.get_submodule(child)
    return model


def canonical(name: str, model: nn.Module) -> str:
    """The name of a module or tensor of a model without the parts that wrappers add.

    `module.net.0.weight` of a DataParallel -> `net.0.weight`; a child of the network that is called `module` keeps its.
    """
    kept: list[str] = []
    module: nn.Module | None = model
    for part in name.split("."):
        if module is None or part != wrapped_child(module):
            kept.append(part)
        module = None if module is None else module._modules.get(part)
    return ".".join(kept)


def canonical_modules(model: nn.Module, remove_duplicate: bool = True) -> dict[str, nn.Module]:
    """Every module by its canonical name, '' for the network itself; wrappers are left out."""
    named = model.named_modules(remove_duplicate=remove_duplicate)
    return {canonical(name, model): module for name, module in named if wrapped_child(module) is None}


def submodule(model: nn.Module, name: str) -> nn.Module:
    """The module of a canonical name, inside of its wrappers; KeyError for no module's name."""
    model = unwrapped(model)
    for part in name.split(".") if name else ():
        child = model._modules[part]
        if child is None:
            raise KeyError(name)
        model = unwrapped(child)
    return model


def first_names(model: nn.Module) -> dict[str, str]:
    """Every canonical name of a module -> its first one; a module may have several."""
    first: dict[int, str] = {}
    modules = canonical_modules(model, remove_duplicate=False)
    return {name: first.setdefault(id(module), name) for name, module in modules.items()}


def canonical_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter by its canonical name, in the model's order."""
    return {canonical(name, model): parameter for name, parameter in model.named_parameters()}


def same_names(given: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Each given name -> the known one that it means; names that mean none are left out.

    A name means itself, else the one that is left without some of its parts that a wrapper may have added, else the
    only one that is equal when both lose all such parts: whoever wrote it knew the network wrapped otherwise.

        >>> same_names(["module.a.weight", "b.weight"], ["a.weight", "module.b.weight"])
        {'module.a.weight': 'a.weight', 'b.weight': 'module.b.weight'}
    """
    pool = dict.fromkeys(known)
    bare: dict[str, list[str]] = {}
    for name in pool:
        bare.setdefault(_bare(name), []).append(name)
    found = {}
    for name in given:
        shorter = next((each for each in _shorter(name) if each in pool), None)
        alike = bare.get(_bare(name), [])
        if shorter is not None or len(alike) == 1:
            found[name] = alike[0] if shorter is None else shorter
    return found


def _bare(name: str) -> str:
    """The name without any part that a wrapper may have added."""
    return ".".join(part for part in name.split(".") if part not in WRAPPING)


def _shorter(name: str) -> Iterable[str]:
    """The name, then without one part that a wrapper may have added, the first ones first, then without two, ..."""
    parts = name.split(".")
    places = [i for i, part in enumerate(parts) if part in WRAPPING][:8]
    for count in range(len(places) + 1):
        for dropped in itertools.combinations(places, count):
            yield ".".join(part for i, part in enumerate(parts) if i not in dropped)


def parameter_owners(model: nn.Module) -> dict[str, nn.Module]:
    """Canonical name of each parameter -> the module that holds it."""
    by_identity = {id(p): module for module in model.modules() for p in module.parameters(recurse=False)}
    return {name: by_identity[id(parameter)] for name, parameter in canonical_parameters(model).items()}


def parameter_owner(model: nn.Module, name: str) -> nn.Module | None:
    """The module that holds the parameter of a canonical name, found without a look at the others; None without one."""
    try:
        return submodule(model, name.rpartition(".")[0])
    except KeyError:
        return None


def norm_scales(model: nn.Module, wanted: list[str] | None) -> list[str]:
    """The scales (gamma) that are meant, by canonical name; None means every BatchNorm's.

    Raises:
        ValueError: there are none, or a name is not a scale.
    """
    owners = parameter_owners(model)
    kinds = NORMS[:1] if wanted is None else NORMS
    scales = [name for name, module in owners.items() if isinstance(module, kinds) and name.endswith("weight")]
    if wanted is None and not scales:
        raise ValueError("this model has no BatchNorm layer with a scale, so there is nothing to act on")
    others = sorted(set(wanted or []) - set(scales))
    if others:
        raise ValueError(f"{', '.join(map(repr, others[:5]))} is not the scale of a normalisation layer")
    return scales if wanted is None else wanted


def expand(selector: str, names: Iterable[str], expression: bool = False) -> list[str]:
    """The names that a selector means, in the order of `names`; empty when there are none.

    Args:
        selector: an exact name, a glob (`layer*.conv?.weight`) or `re:REGEX` (the whole name must match).
        names: canonical names.
        expression: try what matches nothing so far as a regular expression of the whole name, without `re:`.

    Raises:
        ValueError: what follows `re:` is not a regular expression, or takes too long.
    """
    pool = list(names)
    if selector in pool:
        return [selector]
    if selector.startswith("re:"):
        return _matching(selector[3:], pool)
    if same := same_names([selector], pool):
        return [same[selector]]
    found = [name for name in pool if fnmatchcase(name, selector)]
    found = found or [name for name in pool if fnmatchcase(name, _bare(selector))]
    found = found or [name for name in pool if fnmatchcase(_bare(name), _bare(selector))]
    return found or (_matching_if_valid(selector, pool) if expression else [])


def _matching_if_valid(expression: str, pool: list[str]) -> list[str]:
    """The names that a regular expression matches; none if it is none."""
    try:
        return _matching(expression, pool)
    except ValueError:
        return []


def _matching(expression: str, pool: list[str]) -> list[str]:
    """The names that a regular expression matches; `regex` can be stopped, where `re` may continue for hours."""
    if len(expression) > MAX_EXPRESSION:
        raise ValueError(f"a regular expression of {len(expression)} characters; at most {MAX_EXPRESSION} are read")
    try:
        pattern = regex.compile(expression)
        return [name for name in pool if pattern.fullmatch(name, timeout=MATCH_SECONDS)]
    except regex.error as e:
        raise ValueError(f"given {shown(expression)}, which is not a regular expression: {e}") from e
    except TimeoutError as e:
        raise ValueError(
            f"the regular expression {shown(expression)} takes too long: a repetition inside a repetition has too many "
            "ways to match; write it with one"
        ) from e


def expand_mapping(values: Mapping[str, V], names: Iterable[str], expression: bool = False) -> dict[str, V]:
    """Selectors as keys -> one value a name; `expression` as in `expand`.

    An exact name wins over a pattern, an earlier pattern over a later one, and `*` is always the last.

        >>> expand_mapping({"*": 0, "a.*": 1, "a.b": 2}, ["a.b", "a.c", "d"])
        {'a.b': 2, 'a.c': 1, 'd': 0}
    """
    pool = list(names)
    exact = same_names((key for key in values if not key.startswith("re:")), pool)  # of all at once
    found: dict[str, V] = {}
    for selector in sorted(values, key=lambda key: (key == "*", key not in exact)):
        for name in [exact[selector]] if selector in exact else expand(selector, pool, expression):
            found.setdefault(name, values[selector])
    return {name: found[name] for name in pool if name in found}

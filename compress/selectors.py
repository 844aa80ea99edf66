"""Which weights or modules a schedule's text means.

Here: canonical names, and the expansion of a selector (exact name, glob, `re:REGEX`). Not here: what is
done with the weights found. Called by `compress.config` and `compress.scheduler`.

A selector is resolved once, when the schedule is built; algorithms receive full canonical names.

    >>> expand("mid.*.weight", ["mid.0.weight", "mid.0.bias", "tail.weight"])
    ['mid.0.weight']
    >>> expand("module.tail.weight", ["tail.weight"])
    ['tail.weight']
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, TypeVar

import regex
from pydantic import BeforeValidator
from torch import nn

from compress.errors import shown

WRAPPERS = frozenset({"module", "_orig_mod"})  # left by DataParallel / DistributedDataParallel and torch.compile
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


def canonical(name: str) -> str:
    """The name without the parts that wrappers add: `module.net.0.weight` -> `net.0.weight`."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel or torch.compile."""
    inner = [module for name, module in model.named_modules() if canonical(name) == ""]
    return inner[-1]


def canonical_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter by its canonical name, in the model's order.

    Where two names would become the same (a child that is really called `module`), both keep theirs.
    """
    found: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        short = canonical(name)
        found[name if short in found else short] = parameter
    return found


def parameter_owners(model: nn.Module) -> dict[str, nn.Module]:
    """Canonical name of each parameter -> the module that holds it."""
    by_identity = {id(p): module for module in model.modules() for p in module.parameters(recurse=False)}
    return {name: by_identity[id(parameter)] for name, parameter in canonical_parameters(model).items()}


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
    wanted = canonical(selector)
    if wanted in pool:
        return [wanted]
    found = [name for name in pool if fnmatchcase(name, wanted)]
    return found or (_matching_if_valid(selector, pool) if expression else [])


def _matching_if_valid(expression: str, pool: list[str]) -> list[str]:
    """The names that a regular expression matches; none if it is none."""
    try:
        return _matching(expression, pool)
    except ValueError:
        return []


def _matching(expression: str, pool: list[str]) -> list[str]:
    """The names that a regular expression matches; `regex` can be stopped, where `re` may go on for hours."""
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
    found: dict[str, V] = {}
    for selector in sorted(values, key=lambda key: (key == "*", canonical(key) not in pool)):
        for name in expand(selector, pool, expression):
            found.setdefault(name, values[selector])
    return {name: found[name] for name in pool if name in found}

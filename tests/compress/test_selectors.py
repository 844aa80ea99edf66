"""Selectors: exact, glob, regular expression; wrappers' names ignored."""

import pytest
import torch
from torch import nn

from compress.selectors import canonical_parameters, expand, expand_mapping

NAMES = ["a.0.weight", "a.1.weight", "a.1.bias", "b.weight"]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("a.1.weight", ["a.1.weight"]),
        ("a.?.weight", ["a.0.weight", "a.1.weight"]),
        ("*.weight", ["a.0.weight", "a.1.weight", "b.weight"]),
        (r"re:a\.\d\.(weight|bias)", ["a.0.weight", "a.1.weight", "a.1.bias"]),
        ("re:a", []),
        ("module.a.1.weight", ["a.1.weight"]),
        ("_orig_mod.module.b.weight", ["b.weight"]),
        ("c.*", []),
    ],
)
def test_expand(selector: str, expected: list[str]) -> None:
    assert expand(selector, NAMES) == expected


def test_a_wrong_expression_raises() -> None:
    with pytest.raises(ValueError, match=r"given '\(', which is not a regular expression: missing \)"):
        expand("re:(", NAMES)


def test_an_expression_that_would_never_end_is_stopped() -> None:
    with pytest.raises(ValueError, match="takes too long: a repetition inside a repetition"):
        expand("re:(a|aa)+!", ["a" * 80])


def test_an_endless_expression_is_not_read() -> None:
    with pytest.raises(ValueError, match="of 5000 characters; at most 1000"):
        expand("re:" + "a" * 5000, NAMES)


def test_exact_beats_glob_and_star_is_last() -> None:
    assert expand_mapping({"*": 0, "a.*": 1, "a.1.weight": 2}, NAMES) == {
        "a.0.weight": 1, "a.1.weight": 2, "a.1.bias": 1, "b.weight": 0,
    }  # fmt: skip


def test_wrapped_models_have_the_bare_models_names(net: nn.Module) -> None:
    bare = list(canonical_parameters(net))
    assert list(canonical_parameters(nn.DataParallel(net))) == bare
    assert list(canonical_parameters(torch.compile(net))) == bare


def test_a_child_really_called_module_keeps_its_name_when_it_would_collide() -> None:
    model = nn.Module()
    model.add_module("layer", nn.Linear(2, 2))
    model.add_module("module", nn.ModuleDict({"layer": nn.Linear(2, 2)}))
    assert set(canonical_parameters(model)) == {
        "layer.weight", "layer.bias", "module.layer.weight", "module.layer.bias",
    }  # fmt: skip

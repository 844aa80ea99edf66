"""No whole number of a schedule or of a command line is without an upper bound."""

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.arguments.schema import arguments_model
from compress.config import dict_config
from compress.config.__main__ import main
from compress.config.families import FAMILIES
from compress.errors import ScheduleError
from compress.registry import LEVELS
from options.applications import APPLICATIONS

CLASSES = [
    *(pytest.param(family.registry.get(name), id=name) for family in FAMILIES for name in family.registry),
    *(pytest.param(LEVELS.get(name), id=name) for name in LEVELS),
    *(pytest.param(each, id=each.__name__) for each in dict.fromkeys(family.policy_class for family in FAMILIES)),
]
UPPER = ("maximum", "exclusiveMaximum", "enum", "const")


def unbounded(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Ways to the whole numbers of a JSON Schema that may be as large as they like."""
    if isinstance(node, list):
        for each in node:
            yield from unbounded(each, path)
    elif isinstance(node, dict):
        if node.get("type") == "integer" and not any(key in node for key in UPPER):
            yield path
        for key, each in node.items():
            yield from unbounded(each, (*path, key))


@pytest.mark.parametrize("cls", CLASSES)
def test_every_whole_number_of_a_class_has_a_bound(cls: type) -> None:
    assert list(unbounded(arguments_model(cls).model_json_schema())) == []


def test_the_search_finds_what_it_should() -> None:
    def constructor(
        a: int, b: list[int | None], c: typing.Annotated[int, "other"], d: dict[str, tuple[int, ...]]
    ) -> None:
        """Plain types, as pydantic sees them."""

    from pydantic import TypeAdapter

    assert len(list(unbounded([TypeAdapter(each).json_schema() for each in typing.get_type_hints(
        constructor, include_extras=True).values() if each is not type(None)]))) == 4  # fmt: skip
    assert list(unbounded(arguments_model(constructor).model_json_schema())) == []


@pytest.mark.parametrize("number", [10**6 + 1, 10**18, 10**300])
def test_what_is_beyond_is_told_shortly(number: int) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3))
    schedule = {
        "pruners": {"p": {"class": "L1RankedStructureParameterPruner", "reg_regims": {"0.weight": [0.5, "3D"]},
                          "round_to": number}},
        "fine_tuning_epochs": number,
        "policies": [{"pruner": {"instance_name": "p"}, "starting_epoch": 0, "ending_epoch": number, "frequency": 1}],
    }  # fmt: skip
    with pytest.raises(ScheduleError) as e:
        dict_config(net, torch.optim.SGD(net.parameters(), lr=0.1), schedule)
    assert "round_to should be at most 1,000,000" in str(e.value)
    assert "whole number of epochs, 0 or more; at most 200,000" in str(e.value)
    assert len(str(e.value)) < 1500


@pytest.mark.parametrize("name", list(APPLICATIONS))
@pytest.mark.parametrize("part", ["train_options", "test_options"])
def test_every_whole_number_of_a_command_line_has_a_bound(name: str, part: str) -> None:
    config = type(APPLICATIONS[name].load(part)().parse([]))
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        whole = int in (hints[field.name], *typing.get_args(hints[field.name]))
        if "bounds" in field.metadata and whole:
            bounds = field.metadata["bounds"]
            assert field.metadata["choices"] or bounds["maximum"] is not None or bounds["below"] is not None, field.name
            assert field.metadata["choices"] or bounds["minimum"] is not None or bounds["above"] is not None, field.name


@pytest.mark.parametrize("epochs", ["0", "-1", "9" * 400, "1e3", "200001", "x"])
def test_the_checkers_length_of_a_run_has_a_bound(epochs: str, capsys: pytest.CaptureFixture[str], here: Path) -> None:
    with pytest.raises(SystemExit):
        main(["check", "x.yaml", "--model=torch.nn:Identity", f"--epochs={epochs}"])
    assert "whole number from 1 to 200,000" in capsys.readouterr().err

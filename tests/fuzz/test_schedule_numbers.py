"""Every number that a schedule may hold, absurd: it works or is one clean report, within bounded work."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import strategies

from compress.arguments.schema import arguments_model
from compress.config.build import build_text
from compress.config.families import FAMILIES
from compress.config.post_training import load_post_training
from compress.epoch_window import MAX_EPOCHS
from compress.registry import LEVELS
from tests.compress.harness import tiny_net
from tests.compress.test_contract import sample_of
from tests.fuzz.watch import fuzz, tiers

ABSURD = [
    0, -1, 2**31, 2**63, 10**30, -(10**30), 10**400, 0.0, -0.0, 1e-320, 1e308, -1e308,
    float("nan"), float("inf"), float("-inf"),
]  # fmt: skip
WINDOW: dict[str, Any] = {"starting_epoch": 0, "ending_epoch": 4, "frequency": 1}
POST_TRAINING = "PostTrainLinearQuantizer"  # has no policy
NEEDED: dict[str, Any] = {  # what classes of torch need, which have no sample
    "integer": 2, "number": 0.5, "array": [1], "object": {}, "boolean": True, "string": "min",
}  # fmt: skip


def _kinds(schema: dict[str, Any]) -> set[str]:
    """The types in an argument's JSON Schema, at any depth."""
    found = {schema["type"]} if isinstance(schema.get("type"), str) else set()
    for value in schema.values():
        for each in value if isinstance(value, list) else [value]:
            found |= _kinds(each) if isinstance(each, dict) else set()
    return found


def _arguments(cls: type) -> dict[str, Any]:
    """Arguments of a class with which it can be built: of its sample, else one for each that it needs."""
    if cls.__module__.startswith("compress.") and "Sample:" in (cls.__doc__ or ""):
        sample = next(part for part in yaml.safe_load(sample_of(cls)).values() if isinstance(part, dict))
        return dict(next(iter(sample.values())))
    model = arguments_model(cls)
    schema = model.model_json_schema()["properties"]
    needed = [name for name, field in model.model_fields.items() if field.is_required()]
    return {name: NEEDED[min(_kinds(schema[name]) & NEEDED.keys())] for name in needed}


def _places() -> Iterator[tuple[str, str, str]]:
    """(section, class, argument) of every number, also inside of lists and mappings."""
    for family in FAMILIES:
        for name in family.registry:
            for argument, schema in (
                arguments_model(family.registry.get(name)).model_json_schema()["properties"].items()
            ):
                if _kinds(schema) & {"integer", "number"}:
                    yield family.section, name, argument
    for name in LEVELS:
        yield from (("levels", name, argument) for argument in arguments_model(LEVELS.get(name)).model_fields)
    yield from (("policy", "", key) for key in WINDOW)
    yield "policy", "", "epochs"
    yield "schedule", "", "fine_tuning_epochs"


PLACES = list(_places())


def _with(value: Any, absurd: Any) -> Any:
    """A value in which every number, at any depth, is the absurd one."""
    if isinstance(value, dict):
        return {key: _with(each, absurd) for key, each in value.items()}
    if isinstance(value, list):
        return [_with(each, absurd) for each in value] or [absurd]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return absurd if number or value is None else value


def schedule_of(place: tuple[str, str, str], absurd: Any, nested: bool) -> dict[str, Any]:
    """A schedule with one absurd number."""
    section, name, argument = place
    family = next((each for each in FAMILIES if each.section == section), FAMILIES[0])
    arguments: dict[str, Any] = {"class": "SparsityLevelParameterPruner", "levels": {"conv1.weight": 0.5}}
    policy: dict[str, Any] = dict(WINDOW)
    more: dict[str, Any] = {}
    if section == "policy":
        policy = {"epochs": [0, absurd]} if argument == "epochs" else {**policy, argument: absurd}
    elif section == "schedule":
        more = {argument: absurd}
    elif section == "levels":
        level = {"initial_sparsity": 0.1, "final_sparsity": 0.5, "steps": {0: 0.5}, "level": 0.5, "sparsity": 0.5}
        known = arguments_model(LEVELS.get(name)).model_fields
        own = {key: level[key] for key in known if key in level}
        own[argument] = {absurd if nested else 0: 0.5 if nested else absurd} if argument == "steps" else absurd
        arguments["levels"] = {"conv1.weight": {"class": name, **own}}
    else:
        own = _arguments(family.registry.get(name))
        given = own.get(argument)
        arguments = {"class": name, **own, argument: _with(given, absurd) if nested and given is not None else absurd}
    key = "pruners" if section in ("policy", "schedule", "levels") else section
    return {
        "version": 1, key: {"it": arguments}, **more, "policies": [{family.key: {"instance_name": "it"}, **policy}],
    }  # fmt: skip


def _work(case: tuple[tuple[str, str, str], Any, bool], folder: Path) -> None:
    place, absurd, nested = case
    schedule = schedule_of(place, absurd, nested)
    net = tiny_net()
    if place[1] == POST_TRAINING:
        del schedule["policies"]
        path = folder / "post.yaml"
        path.write_text(yaml.safe_dump(schedule))
        load_post_training(net, path, torch.zeros(1, 3, 6, 6))
        return
    scheduler = build_text(yaml.safe_dump(schedule), "numbers.yaml", net, torch.optim.SGD(net.parameters(), 0.1))
    assert scheduler.last_epoch <= MAX_EPOCHS
    assert scheduler.suggested_epochs <= 2 * MAX_EPOCHS
    scheduler.preview(4)
    scheduler.cut_short(3)


@tiers(few=60, many=2500)
def test_absurd_numbers(tmp_path: Path, examples: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "compress")
    cases = strategies.tuples(strategies.sampled_from(PLACES), strategies.sampled_from(ABSURD), strategies.booleans())
    _work((("policy", "", "frequency"), 1, False), tmp_path)  # imports much of torch, which the limit is not for
    watched = fuzz(cases, examples, lambda case: _work(case, tmp_path))
    assert watched.read
    assert watched.refused


def test_every_class_has_arguments_that_it_can_be_tried_with() -> None:
    """So that each case above fails for its number, if it does, and not for what else is missing."""
    for section, name, argument in PLACES:
        if section not in ("policy", "schedule", "levels"):
            family = next(each for each in FAMILIES if each.section == section)
            assert argument in arguments_model(family.registry.get(name)).model_fields
            _arguments(family.registry.get(name))
    assert len({name for _, name, _ in PLACES}) > 50

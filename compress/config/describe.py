"""The schedule language described from the classes themselves: lists, help texts, JSON Schema.

Text and schema derived from signatures and docstrings. Called by `python -m compress.config` and by the manual.
"""

import inspect
from typing import Any

from compress.arguments.schema import arguments_model
from compress.arguments.words import describe_type
from compress.config.families import FAMILIES, Family
from compress.config.goals import USUAL
from compress.config.sections import QUANTIZE_AFTER
from compress.epoch_window import MAX_EPOCHS
from compress.errors import UserError, did_you_mean
from compress.goals.goal import BOUNDS, IN_A_RUNTIME, MEASURED, Goal
from compress.goals.runtimes import RUNTIMES
from compress.registry import LEVELS, SECTIONS, Registry

REGISTRIES = {**SECTIONS, LEVELS.section: LEVELS}

WINDOW = {
    "starting_epoch": {"type": "integer", "minimum": 0, "description": "first epoch in which it acts (inclusive)"},
    "ending_epoch": {"type": "integer", "minimum": 1, "description": "first epoch after it (exclusive)"},
    "frequency": {"type": "integer", "minimum": 1, "default": 1, "description": "every so many epochs"},
    "epochs": {"type": "array", "items": {"type": "integer", "minimum": 0}, "description": "exactly these epochs"},
}

OPTIMIZER = {
    "optimizer": {"type": "string", "description": "whose rates are set, where the loop has several optimizers"}
}

POST_TRAINING = {  # what `test.py --quantize` reads: one quantizer, no policies
    "required": ["quantizers"],
    "propertyNames": {"enum": ["version", "quantizers"]},
    "properties": {
        "quantizers": {
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": {"properties": {"class": {"const": "PostTrainLinearQuantizer"}}},
        }
    },
}


def first_sentence(cls: type) -> str:
    """What a class is for, from its docstring."""
    return inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def list_classes() -> str:
    """Every class by section, with its first sentence."""
    lines = []
    for family in FAMILIES:
        lines.append(f"{family.section}:")
        lines += [f"  {name}: {first_sentence(family.registry.get(name))}" for name in family.registry]
    lines.append("levels, written in place of a number:")
    lines += [f"  {name}: {first_sentence(LEVELS.get(name))}" for name in LEVELS]
    return "\n".join(lines)


def describe(name: str) -> str:
    """One class: its docstring and its arguments with type, range and default.

    Raises:
        UserError: no such class.
    """
    if name in LEVELS:
        arguments = "\n".join(f"  {line}" for line in _argument_lines(LEVELS.get(name)))
        text = inspect.cleandoc(LEVELS.get(name).__doc__ or "")
        return f"{name} (a level, written in place)\n\n{text}\n\nArguments:\n{arguments}"
    for family in FAMILIES:
        if name in family.registry:
            cls = family.registry.get(name)
            arguments = "\n".join(f"  {line}" for line in _argument_lines(cls)) or "  none"
            policy = "\n".join(f"  {line}" for line in _argument_lines(family.policy_class)) or "  none"
            return (
                f"{name} ({family.section})\n\n{inspect.cleandoc(cls.__doc__ or '')}\n\n"
                f"Arguments:\n{arguments}\n\nArguments of its policy ({family.key}: args):\n{policy}"
            )
    known = [*(each for family in FAMILIES for each in family.registry), *LEVELS]
    raise UserError(f"no class {name!r}; {did_you_mean(name, known)}")


def _argument_lines(cls: type) -> list[str]:
    model = arguments_model(cls)
    return [
        f"{name}: {describe_type(model, name)}"
        + (", required" if field.is_required() else f", default {field.default!r}")
        for name, field in model.model_fields.items()
    ]


def schedule_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a whole schedule, or of a file of post-training settings, which has no policies."""
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {
        "version": {"const": 1, "description": "of the schedule language"},
        "fine_tuning_epochs": {
            "type": "integer",
            "minimum": 0,
            "maximum": MAX_EPOCHS,
            "description": "epochs after the last policy's end",
        },
    }
    for family in FAMILIES:
        properties[family.section] = _section(family, definitions)
    properties["policies"] = {
        "type": "array",
        "description": "what acts when",
        "items": {"oneOf": [_policy(family, definitions) for family in FAMILIES]},
    }
    properties["goals"] = {
        "type": "array",
        "description": "what is deployed must meet these",
        "items": _goal(definitions),
    }
    properties[QUANTIZE_AFTER] = {
        "type": "string",
        "description": "the PostTrainLinearQuantizer of `quantizers` that quantizes the best network after training",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "compression schedule",
        "type": "object",
        "anyOf": [{"required": ["policies"]}, POST_TRAINING],
        "additionalProperties": False,
        "properties": properties,
        "$defs": definitions,
    }


def _section(family: Family, definitions: dict[str, Any]) -> dict[str, Any]:
    classes = [{"$ref": f"#/$defs/{_define_class(family.registry, name, definitions)}"} for name in family.registry]
    instance = {
        "type": "object",
        "required": ["class"],
        "properties": {"class": {"enum": list(family.registry)}},
        "oneOf": classes,
    }
    return {"type": "object", "additionalProperties": instance}


def _define_class(registry: Registry, name: str, definitions: dict[str, Any]) -> str:
    cls, key = registry.get(name), f"{registry.section}.{name}"
    if key in definitions:
        return key
    definitions[key] = {}  # holds the place: a class may take others of its own section
    schema = _arguments(cls, definitions)
    schema["description"] = first_sentence(cls)
    schema["properties"] = {"class": {"const": name}, **schema.get("properties", {})}
    schema["required"] = ["class", *schema.get("required", [])]
    definitions[key] = schema
    return key


def _policy(family: Family, definitions: dict[str, Any]) -> dict[str, Any]:
    component = {
        "type": "object",
        "required": ["instance_name"],
        "additionalProperties": False,
        "properties": {"instance_name": {"type": "string"}, "args": _arguments(family.policy_class, definitions)},
    }
    ranged, listed = {"required": ["starting_epoch", "ending_epoch"]}, {"required": ["epochs"]}
    return {
        "type": "object",
        "required": [family.key],
        "additionalProperties": False,
        "properties": {family.key: component, **({} if family.shared else OPTIMIZER), **WINDOW},
        "oneOf": [ranged, listed],
    }


def _goal(definitions: dict[str, Any]) -> dict[str, Any]:
    """One goal: any metric, the usual ones offered, and exactly one bound."""
    schema = _arguments(Goal, definitions)
    schema["properties"]["metric"] = {"anyOf": [{"enum": [*MEASURED, *USUAL]}, {"type": "string"}]}
    schema["properties"]["runtime"] = {"enum": list(RUNTIMES), "description": f"of {' and '.join(IN_A_RUNTIME)}"}
    return {**schema, "description": first_sentence(Goal), "oneOf": [{"required": [each]} for each in BOUNDS]}


def _arguments(target: type, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a class's arguments; nested definitions move to the top."""
    schema = arguments_model(target).model_json_schema(ref_template="#/$defs/{model}")
    definitions.update(schema.pop("$defs", {}))
    schema.pop("title", None)
    _look_inside(schema, definitions)
    return schema


def _look_inside(node: Any, definitions: dict[str, Any]) -> None:
    """Gives every instance in place the schema of its classes' own arguments."""
    if isinstance(node, dict) and isinstance(node.get("instances"), str):
        registry = REGISTRIES[node["instances"]]
        known = [_define_class(registry, name, definitions) for name in registry]
        kept = {key: node[key] for key in ("type", "required") if key in node}
        node.clear()
        names = {"enum": list(registry), "description": f"a class of {registry.section}"}
        node.update(kept, properties={"class": names}, oneOf=[{"$ref": f"#/$defs/{key}"} for key in known])
    else:
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            _look_inside(child, definitions)

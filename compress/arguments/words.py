"""Types and wrong values in people's words.

What an argument may be, and a hint for the usual slips (quotes, per cent, a comma).
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from compress.errors import nearest, shown

KINDS = {"integer": "whole number", "string": "text", "boolean": "true or false", "any": "any value"}
MOST_WHOLE = 1_000_000  # of every whole number whose argument has no bound of its own; goes without saying
LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def describe_type(model: type[BaseModel], name: str) -> str:
    """One argument's type and range in words, such as `number, >= 0, < 1` or `list of text`."""
    return words_of(_properties(model)[name])


class _Lenient(GenerateJsonSchema):
    """JSON Schema that says nothing of what only Python can give, such as a tensor."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 (pydantic's own attribute)

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        return {}


@cache
def _properties(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of each argument, with what it refers to written in its place."""
    schema = model.model_json_schema(schema_generator=_Lenient)
    return {name: _written_out(each, schema.get("$defs", {})) for name, each in schema["properties"].items()}


def _written_out(node: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_written_out(each, definitions) for each in node]
    if not isinstance(node, Mapping):
        return node
    if "$ref" in node:
        return _written_out(definitions[node["$ref"].rpartition("/")[2]], definitions)
    return {key: _written_out(each, definitions) for key, each in node.items()}


def should_be(value: Any, name: str, wanted: str) -> str:
    """`given 80; final_sparsity should be a number, > 0, <= 1 (80 % is written 0.8)`."""
    article = "a " if wanted.startswith(("number", "whole number", "list", "mapping", "pair", "class")) else ""
    given = "it is empty" if value is None else f"given {shown(value)}"
    return f"{given}; {name} should be {article}{wanted}{hint(value, wanted)}"


def hint(value: Any, wanted: str) -> str:
    """What to write instead of a value that shows one of the usual slips; else empty."""
    number = (
        re.fullmatch(r"\s*([-+]?\d+)(?:([.,])(\d+))?(?:[eE][-+]?\d+)?\s*(%?)\s*", value) if _is_text(value) else None
    )
    if number and "number" in wanted:
        if number[4]:
            return f" ({number[0].strip()} is written {float(f'{number[1]}.{number[3] or 0}') / 100:g})"
        if number[2] == ",":
            return f" (write {number[1]}.{number[3]}, with a point)"
        return f" (it is text here: write {value.strip()} without quotes)"
    if isinstance(value, int | float) and re.match(r"list of (at least one )?(whole )?number", wanted):
        return f" (write [{value}])"
    if isinstance(value, float) and "whole number" in wanted and value.is_integer():
        return f" (write {value:.0f})"
    if isinstance(value, int | float) and not isinstance(value, bool) and 5 <= value <= 100 and _is_fraction(wanted):
        return f" ({value:g} % is written {value / 100:g})"
    if _is_text(value) and "one of " in wanted:
        close = nearest(value, re.findall(r"[\w+]+", wanted.partition("one of ")[2]), 1)
        if close == [value] and value.isdecimal():
            return f" (it is text here: write {value} without quotes)"
        return f"; did you mean {close[0]!r}?" if close else ""
    return ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) < 80


def _is_fraction(wanted: str) -> bool:
    return "number" in wanted and re.search(r"<=? 1\b", wanted) is not None


def words_at(model: type[BaseModel], place: Iterable[str | int]) -> str | None:
    """The type at a place inside an argument, such as `levels`, `conv1.weight`; None if the schema does not say it."""
    return " or ".join(dict.fromkeys(map(words_of, _nodes_at(model, place)))) or None


def keys_at(model: type[BaseModel], place: Iterable[str | int]) -> list[str]:
    """The keys that a mapping of fixed keys at a place inside an argument may have."""
    options = [option for node in _nodes_at(model, place) for option in node.get("anyOf", [node])]
    return [key for option in options for key in option.get("properties", {})]


def _nodes_at(model: type[BaseModel], place: Iterable[str | int]) -> list[Mapping[str, Any]]:
    name, *rest = place
    nodes: list[Mapping[str, Any]] = [_properties(model).get(str(name), {})]
    for part in rest:
        nodes = [child for node in nodes for option in node.get("anyOf", [node]) for child in _children(option, part)]
    return nodes


def _children(node: Mapping[str, Any], part: str | int) -> list[Mapping[str, Any]]:
    """The schema of a part of a list or of a mapping."""
    if isinstance(part, int) and part < len(node.get("prefixItems", [])):
        return [node["prefixItems"][part]]
    found = [node.get("items"), node.get("additionalProperties"), node.get("properties", {}).get(str(part))]
    return [each for each in found if isinstance(each, Mapping)]


def words_of(info: Mapping[str, Any]) -> str:
    """A node of a JSON Schema in words; that an argument may be left out (null) is not said."""
    if "anyOf" in info:
        return " or ".join(words_of(option) for option in info["anyOf"] if option.get("type") != "null")
    if "enum" in info or "const" in info:
        return "one of " + ", ".join(map(str, info.get("enum", [info.get("const")])))
    if "instances" in info:
        return f"class of {info['instances']} in place, `{{class: CLASS, ...}}`"
    kind = str(info.get("type", "any"))
    if "prefixItems" in info:
        return "list of " + " and ".join(f"({words_of(item)})" for item in info["prefixItems"])
    if kind == "array":
        return f"list of {words_of(info.get('items', {})).replace('number', 'numbers', 1)}"
    if kind == "object" and isinstance(info.get("additionalProperties"), dict):
        return f"mapping of name: {words_of(info['additionalProperties'])}"
    if "properties" in info:
        return f"mapping with {', '.join(info['properties'])}"
    return ", ".join([KINDS.get(kind, kind), *(f"{sign} {info[key]:g}" for key, sign in LIMITS.items()
                                              if key in info and info[key] != MOST_WHOLE)])  # fmt: skip

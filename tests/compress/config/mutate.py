"""Broken schedules: a seeded mutator of YAML text and of the tree that it holds, for the fuzz test."""

import copy
import math
import random
from typing import Any

import yaml

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 10**9, 10**30, -(10**12), 0.5, 1.0, -0.5, 1e-300, 1e308, math.inf, -math.inf,
    math.nan, "", "0.5", "1e400", "re:(", "re:.*", "re:(.*)*!", "re:((\\w+\\.?)*)*$!", "re:" + "(a|a)*" * 9 + "!",
    "*", "**", "[", "*a" * 400, "x" * 20_000, "ä😀\u0000"[:2], "module.module", "../../etc", "FilterRemover", "Max",
    [], [[]], [0], [3, 1, 2], [10**9], list(range(5000)), [-1], [0.5, "3D"], {}, {"class": "StepLR"}, {"class": []},
    {"class": {}}, {"class": None}, {1: 2}, {"a": {"b": {"c": [1, {"d": None}]}}}, {"instance_name": {}},
    {"instance_name": []}, b"\x00", "2001-01-01", ["re:(", {}], {"*": 0.5}, {"*": [0.1, "Filters"]},
)  # fmt: skip
SNIPPETS = (
    "&a [*a]", "*nothing", "<<: 3", "<<: {a: b}", "? [a, b]", "!!python/name:os.system", "!!set {a, b}",
    "!!omap [a: 1]",
    "!!binary aGk=", "!!float x", "!!int x", "!!timestamp x", "2001-99-99", "---", "...", "%YAML 9.9", "\t", "{", "]",
    '"', "'", "|", ">", ": :", "- - -", "#", "\u0000", "\u202e", "\ufeff", "é", "💥", "1" * 5000, "[" * 3000,
    "&x {y: 1}", "1: 1", "true: 1", "~: 1", ".nan: 1", "0x1F", "1_000", "12:30:45", "!local x", "epochs: [1, 2]",
)  # fmt: skip
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)


def mutate(text: str, rng: random.Random) -> str:
    """One to three mutations of a schedule."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        text = mutate_tree(text, rng) if rng.random() < 0.65 else mutate_text(text, rng)
    return text


def mutate_text(text: str, rng: random.Random) -> str:
    """Characters and lines: cut, lost, doubled, exchanged, put in; sometimes a bomb of aliases."""
    lines = text.splitlines(keepends=True) or ["\n"]
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    place = rng.randrange(len(text) + 1)
    kind = rng.randrange(9)
    if kind == 0:
        return text[:place]
    if kind == 1:
        return "".join(lines[:i] + lines[i + 1 :])
    if kind == 2:
        return "".join([*lines[:i], lines[j], *lines[i:]])
    if kind == 3:
        lines[i], lines[j] = lines[j], lines[i]
        return "".join(lines)
    if kind == 4:
        return text[:place] + rng.choice(SNIPPETS) + text[place:]
    if kind == 5:
        indent = lines[i][: len(lines[i]) - len(lines[i].lstrip())]
        return "".join([*lines[:i], indent + rng.choice(SNIPPETS) + "\n", *lines[i:]])
    if kind == 6:
        return text[:place] + chr(rng.randrange(1, 0x3000)) + text[place + 1 :]
    if kind == 7:
        lines[i] = " " * rng.randrange(9) + lines[i].lstrip()
        return "".join(lines)
    return BOMB + text if rng.random() < 0.2 else text[place:] + text[:place]


def mutate_tree(text: str, rng: random.Random) -> str:
    """Keys and values: deleted, renamed, replaced, copied from elsewhere, nested."""
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError):
        return text
    places = _places(tree)
    if not places or len(places) > 5000:
        return text
    parent, key = rng.choice(places)
    kind = rng.randrange(7)
    if rng.random() < 0.4:  # numbers that may well be meant: these schedules go further than to the first check
        numbers = [(node, k) for node, k in places if type(node[k]) in (int, float)]
        parent, key = rng.choice(numbers) if numbers else (parent, key)
        kind = 4
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        name = str(key)
        spot = rng.randrange(len(name) + 1)
        parent[rng.choice([name[:spot] + name[spot + 1 :], name.upper(), name + "x", 5, "epochs"])] = parent.pop(key)
    elif kind == 2:
        parent[key] = [parent[key]] if rng.random() < 0.5 else {"a": parent[key]}
    elif kind == 3:
        other, there = rng.choice(places)
        parent[key] = copy.deepcopy(other[there])
    elif kind == 4 and isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
        parent[key] = parent[key] * rng.choice([-1, 0, 0.5, 2, 10, 1000]) + rng.choice([0, 0, 1, -1])
    elif kind == 5 and isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(parent[key]))
    else:
        parent[key] = copy.deepcopy(rng.choice(VALUES))
    return _dumped(tree, text)


def _dumped(tree: Any, otherwise: str) -> str:
    try:
        return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)
    except ValueError:  # a whole number of more than 4,300 digits, after several changes
        return otherwise


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of the tree."""
    found, waiting = [], [tree]
    while waiting and len(found) <= 5000:
        node = waiting.pop()
        if isinstance(node, dict | list):
            for key in list(node) if isinstance(node, dict) else range(len(node)):
                found.append((node, key))
                waiting.append(node[key])
    return found

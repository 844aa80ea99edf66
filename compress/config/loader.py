"""YAML text -> plain data and the position of every key.

Safe loading with marks.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from compress.arguments.places import Path, dotted
from compress.config.errors.yaml_errors import explain
from compress.errors import Fault, ScheduleError, shown

MAX_CHARACTERS = 1_000_000  # some thousand policies
LARGE = 20_000  # characters from which on libyaml reads first; its messages are not what people need
MAX_BITS = 1024  # of a whole number
MAX_VALUES, MAX_DEPTH = 200_000, 40  # with aliases written out: a few lines of them can stand for billions of values


class _Loader(yaml.SafeLoader):
    """Safe loading, with `1e-4` as a number (YAML 1.1 wants `1.0e-4` and silently takes the other for text)."""


class _Fast(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same by libyaml, where PyYAML has it: ten times as fast."""


for _loader in (_Loader, _Fast):
    _loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


@dataclass
class Document:
    """A schedule as read.

    Attributes:
        data: plain data.
        name: the file's name, or what the schedule came from.
        marks: path -> (line, column), both from 1; empty for a dict.
        faults: duplicate keys, as warnings.
    """

    data: Any
    name: str
    marks: dict[Path, tuple[int, int]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def rename(self, key: str, name: str) -> None:
        """What stands below a misspelt section can be found under its right name too."""
        self.marks.update({(name, *path[1:]): mark for path, mark in self.marks.items() if path[:1] == (key,)})

    def where(self, path: Path) -> str:
        """`file:line:column` of a path, or of the nearest part above it that has a position."""
        while path and path not in self.marks:
            path = path[:-1]
        if path not in self.marks:
            return self.name
        line, column = self.marks[path]
        return f"{self.name}:{line}:{column}"


def load_text(text: str, name: str) -> Document:
    """Reads one YAML document.

    Raises:
        ScheduleError: it is not YAML, it is not one document, or it holds a tag that would make an object.
    """
    if len(text) > MAX_CHARACTERS:
        message = f"it has {len(text):,} characters; a schedule has at most {MAX_CHARACTERS:,}, some thousand lines"
        raise ScheduleError([Fault(message, name)])
    try:
        loader, root = _read_nodes(text)
        document = Document(None, name)
        if root is not None:
            _check_size(root)
            document.data = _read(loader, root, (), document)
        return document
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise ScheduleError([_fault(e, text, name)]) from e


def _read_nodes(text: str) -> tuple[Any, yaml.Node | None]:
    """A loader of the text, and its one node; a large text that is in order is read by libyaml."""
    if len(text) >= LARGE:
        try:
            _check_depth(text)
            fast = _Fast(text)
            return fast, fast.get_single_node()
        except yaml.YAMLError:
            pass  # read again, for the message
    loader = _Loader(text)
    return loader, loader.get_single_node()


def _check_depth(text: str) -> None:
    """Refuses what is nested so deeply that libyaml, which calls itself for each level, would end the process."""
    depth = 0
    for event in yaml.parse(text, Loader=_Fast):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise yaml.constructor.ConstructorError(None, None, _TOO_LARGE, None)


def _check_size(root: yaml.Node) -> None:
    """Refuses what would not end, or not end soon: aliases that contain themselves, or each other many times."""
    waiting, count = [(root, 0)], 0
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if count > MAX_VALUES or depth > MAX_DEPTH:
            raise yaml.constructor.ConstructorError(None, None, _TOO_LARGE, node.start_mark)
        if isinstance(node, yaml.MappingNode):
            waiting += [(child, depth + 1) for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(child, depth + 1) for child in node.value]


def _read(loader: _Loader, node: yaml.Node, path: Path, document: Document) -> Any:
    document.marks.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        return _read_mapping(loader, node, path, document)
    if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
        return [_read(loader, child, (*path, i), document) for i, child in enumerate(node.value)]
    value = loader.construct_object(node, deep=True)
    if isinstance(value, int) and value.bit_length() > MAX_BITS:  # Python will not even write it
        raise yaml.constructor.ConstructorError(None, None, "a whole number far too large", node.start_mark)
    return value


def _read_mapping(loader: _Loader, node: yaml.MappingNode, path: Path, document: Document) -> dict[Any, Any]:
    if node.tag != "tag:yaml.org,2002:map":
        loader.construct_object(node, deep=True)
    data: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool | None):
            raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
        here = (*path, key if isinstance(key, int) and not isinstance(key, bool) else str(key))
        mark = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        if key in data:
            first = document.marks.get(here, mark)[0]
            message = f"the key {shown(key)} stands twice (first in line {first}, which is lost); the later one counts"
            document.faults.append(Fault(message, f"{document.name}:{mark[0]}:{mark[1]}", dotted(here), fatal=False))
        document.marks[here] = mark
        data[key] = _read(loader, value_node, here, document)
    return data


_TOO_LARGE = f"more than {MAX_DEPTH} levels or {MAX_VALUES:,} values, or an alias contains itself"


def _fault(error: Exception, text: str, name: str) -> Fault:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        message, (line, column) = explain(error, text)
        return Fault(message, f"{name}:{line}:{column}")
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return Fault(f"the character U+{ord(text[error.position]):04X} may not stand in YAML", f"{name}:{line}:1")
    problem = _TOO_LARGE if isinstance(error, RecursionError) else str(error)
    return Fault(f"this is not plain YAML: {problem}", name)

"""Pages made from the classes themselves: what a line such as `<!-- algorithms: pruners others -->` stands for.

Here: docstring and signature -> Markdown. Nothing is written down twice: text, paper, sample and arguments are the
class's own. Not here: the API reference (autodoc).
"""

import inspect
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import sources

import compress
from compress.arguments.schema import arguments_model
from compress.arguments.words import describe_type
from compress.config.describe import first_sentence
from compress.config.families import FAMILIES
from compress.registry import LEVELS, SECTIONS, Registry

MARKER = re.compile(  # what follows up to the end mark is the same for readers of the plain Markdown, kept by a test
    r"^<!-- (algorithms|torch|levels|policy|modules|api): *(.*?) *-->$(?:\n\n(?:\|.*\n)+<!-- end -->$)?", re.MULTILINE
)
HEADERS = ("Sample:", "Args:", "Attributes:", "Raises:")
REGISTRIES = {**SECTIONS, LEVELS.section: LEVELS}
PLACES: dict[str, str] = {}  # class name -> page#anchor, filled by `find_places`


def fill(text: str, page: str) -> str:
    """The page's text with every marker replaced."""
    up = "../" * page.count("/")
    return MARKER.sub(lambda match: MAKERS[match[1]](match[2], up), text)


def find_places(docs: Path) -> list[str]:
    """Learns on which page each class is; returns what is on no page."""
    PLACES.clear()
    packages: set[str] = set()
    for path in sorted(docs.rglob("*.md")):
        page = path.relative_to(docs).as_posix()
        for kind, words in MARKER.findall(path.read_text(encoding="utf-8")):
            if kind == "algorithms" or kind == "torch":
                chosen = _chosen(words) if kind == "algorithms" else _foreign(words)
                PLACES.update({name: f"{page}#{_base(name).lower()}" for name in chosen})
            elif kind == "modules":
                packages.add(words)
    missing = [
        f"the class {name} of section {section!r} is on no page: give it a line `<!-- algorithms: {section} -->`"
        for section, registry in SECTIONS.items()
        for name in registry
        if name not in PLACES
    ]
    needed = {name.rpartition(".")[0] or name for name in sources.modules()}
    missing += [
        f"the package {name} is on no page: give it a line `<!-- modules: {name} -->`"
        for name in sorted(needed - packages)
    ]
    return missing + [f"no docstring: {fault}" for fault in sources.undocumented()]


def _chosen(words: str) -> list[str]:
    """`pruners`: all of our classes; `pruners ranked`: those of these modules; `pruners - ranked`: all others."""
    section, *modules = words.split()
    without = modules[:1] == ["-"]
    registry = SECTIONS[section]
    return [
        name
        for name in registry
        if _ours(registry, name)
        and (not modules or (registry.get(name).__module__.rpartition(".")[2] in modules) is not without)
    ]


def _foreign(section: str) -> list[str]:
    return [name for name in SECTIONS[section] if not _ours(SECTIONS[section], name)]


def _ours(registry: Registry, name: str) -> bool:
    return registry.get(name).__module__.startswith("compress.")


def _base(name: str) -> str:
    """The name under which a class has its heading: an `_AGP` form stands below its plain one."""
    return name.removesuffix("_AGP")


# What the markers stand for -----------------------------------------------------------------------------------------


def algorithms(words: str, up: str) -> str:
    """A section for each class: purpose, paper, formula, when to use, sample, arguments."""
    section = words.split()[0]
    names = _chosen(words)
    rows = [f"| [`{name}`](#{name.lower()}) | {_cell(first_sentence(SECTIONS[section].get(name)), up)} |" for name in
            names if _base(name) == name]  # fmt: skip
    parts = ["| class | what it does |\n|---|---|\n" + "\n".join(rows)]
    for name in names:
        if _base(name) == name:
            agp = f"{name}_AGP" if f"{name}_AGP" in names else None
            parts.append(_class_section(SECTIONS[section], name, up, agp))
    return "\n\n".join(parts)


def _class_section(registry: Registry, name: str, up: str, agp: str | None) -> str:
    cls = registry.get(name)
    parts = _split(cls)
    text = [f"## {name}", _prose(parts.get("", []), up)]
    if "Sample:" in parts:
        text.append(_yaml(parts["Sample:"]))
    text.append(_arguments(cls, parts, up))
    if "Raises:" in parts:
        text.append("Refused: " + _prose([_unnamed(line) for line in parts["Raises:"]], up))
    if agp is not None:
        other = _split(registry.get(agp))
        text.append(
            f"**{agp}** is the same with a level that grows along the cubic of automated gradual pruning: "
            "`initial_sparsity` and `final_sparsity` stand in place of `desired_sparsity`."
        )
        text.append(_yaml(other["Sample:"]))
    text.append(f"Code: {{py:class}}`{cls.__module__}.{cls.__name__}`")
    return "\n\n".join(part for part in text if part)


def _unnamed(line: str) -> str:
    """`ValueError: the sum is wrong.` -> `the sum is wrong.`"""
    return re.sub(r"^(\w+, )*\w+(Error|Exception): ", "", line.strip())


def torch_classes(section: str, up: str) -> str:
    """A section for each class that is not ours: its first sentence, its arguments, where its own manual is."""
    parts = []
    for name in _foreign(section):
        cls = SECTIONS[section].get(name)
        address = f"https://docs.pytorch.org/docs/stable/generated/{cls.__module__}.{name}.html"
        parts.append(f"### {name}\n\n{first_sentence(cls)} [PyTorch's manual]({address}).\n\n{_arguments(cls, {}, up)}")
    return "\n\n".join(parts)


def levels(words: str, up: str) -> str:
    """A section for each level."""
    parts = []
    for name in LEVELS:
        cls = LEVELS.get(name)
        split = _split(cls)
        split["Args:"] = split.get("Attributes:", [])
        parts.append(f"## {name}\n\n{_prose(split.get('', []), up)}\n\n{_arguments(cls, split, up)}")
    return "\n\n".join(parts)


def policy(section: str, up: str) -> str:
    """What `args` of a policy may hold."""
    family = next(family for family in FAMILIES if family.section == section)
    return _arguments(family.policy_class, _split(family.policy_class), up)


def modules(package: str, up: str) -> str:
    """The API reference of a package's own modules."""
    names = [name for name in sources.modules() if name == package or name.rpartition(".")[0] == package]
    packages = {name.rpartition(".")[0] for name in sources.modules()}
    chosen = [name for name in names if name not in packages or name == package]
    parts = []
    for name in chosen:
        only = "\n   :no-members:" if name == "compress" else ""  # its names are other modules'
        body = f"```{{eval-rst}}\n.. automodule:: {name}{only}\n```"
        heading = "" if name == package else f"## {name}\n\n"
        parts.append(heading + body)
    return "\n\n".join(parts)


def api(package: str, up: str) -> str:
    """The package's stated names by subject: the comments of its `__all__` are the headings."""
    parts = []
    for subject, names in sources.stated_names(package).items():
        rows = [f"| {_reference(name)}{_call(name)} | {_cell(_summary(name), up)} |" for name in names]
        parts.append(f"### {subject[:1].upper()}{subject[1:]}\n\n| name | what it is |\n|---|---|\n" + "\n".join(rows))
    return "\n\n".join(parts)


def _reference(name: str) -> str:
    place = f"{compress._HOMES[name]}.{compress._RENAMED.get(name, name)}"
    return f"{{py:obj}}`{name} <{place}>`" if not name.isupper() else f"`{name}`"


def _call(name: str) -> str:
    """How it is called, in short: what it must be given, and in brackets what it may be."""
    found = getattr(compress, name)
    if not callable(found) or (inspect.isclass(found) and issubclass(found, Exception)):
        return ""
    given = [each for each in inspect.signature(found).parameters.values() if each.name != "self"]
    if any(each.kind is each.VAR_KEYWORD or each.name.startswith("_") for each in given):
        return ""
    needed = [each.name for each in given if each.default is each.empty]
    optional = [each.name for each in given if each.default is not each.empty]
    words = ", ".join([*needed, f"[{', '.join(optional)}]"] if optional else needed)
    return f"<br>`({words})`"


def _summary(name: str) -> str:
    found = getattr(compress, name)
    if isinstance(found, Registry):
        return f"the registry of the classes that `{found.section}` may name; `@{name}.register` adds one"
    return " ".join((inspect.getdoc(found) or "").split("\n\n")[0].split())


MAKERS = {
    "algorithms": algorithms,
    "torch": torch_classes,
    "levels": levels,
    "policy": policy,
    "modules": modules,
    "api": api,
}


# Docstring -> Markdown ------------------------------------------------------------------------------------------------


def _split(cls: type) -> dict[str, list[str]]:
    """Header -> its lines, dedented; what stands before the first header is under the empty one."""
    found: dict[str, list[str]] = {"": []}
    header = ""
    for line in inspect.cleandoc(cls.__doc__ or "").splitlines():
        if line in HEADERS:
            header = line
            found[header] = []
        else:
            found[header].append(line)
    return {key: textwrap.dedent("\n".join(lines)).strip("\n").splitlines() for key, lines in found.items()}


def _prose(lines: list[str], up: str) -> str:
    """Paragraphs; indented ones become blocks, papers get their address, class names their link."""
    out, block = [], False
    for line in lines:
        if line.startswith("    ") and not block:
            out.append("```text")
            block = True
        elif block and line and not line.startswith(" "):
            out[-1:] = ["```", ""]
            block = False
        out.append(line.removeprefix("    ") if block else _linked(line, up))
    return "\n".join([*out, "```"] if block else out)


def _linked(line: str, up: str) -> str:
    line = re.sub(r"^(Paper|Source|When to use):", r"**\1:**", line)
    line = re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", line)
    return re.sub(r"`(\w+)`", lambda match: _link(match[1], up), line)


def _link(name: str, up: str) -> str:
    return f"[`{name}`]({up}{PLACES[name]})" if name in PLACES else f"`{name}`"


def _yaml(lines: list[str]) -> str:
    return "```yaml\n" + "\n".join(lines) + "\n```"


def _arguments(cls: type, parts: dict[str, list[str]], up: str) -> str:
    model: Any = arguments_model(cls)
    if not model.model_fields:
        return "It has no arguments."
    meanings = _meanings(parts.get("Args:", []))
    described = bool(meanings)
    rows = []
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else f"`{_as_yaml(field.default)}`"
        cells = [f"`{name}`", _cell(describe_type(model, name), up), default]
        rows.append("| " + " | ".join([*cells, _cell(meanings.get(name, ""), up)] if described else cells) + " |")
    head = "| argument | type | default |" + (" meaning |" if described else "")
    return "\n".join([head, re.sub(r"[^|]+", "---", head), *rows])


def _as_yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _meanings(lines: list[str]) -> dict[str, str]:
    """`name: text` with continuation lines -> text by name."""
    found: dict[str, str] = {}
    name = ""
    for line in lines:
        if not line.startswith(" ") and ":" in line:
            name, _, text = line.partition(":")
            found[name] = text.strip()
        elif name:
            found[name] += " " + line.strip()
    return found


def _cell(text: str, up: str) -> str:
    """Text for a table: bars outside and inside of code are escaped."""
    return _linked(text, up).replace("|", "\\|")

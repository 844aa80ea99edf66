"""What every registered class promises: typed signature, a source, a sample that loads. New classes are picked up."""

import inspect
import textwrap
import typing

import pytest
import torch
import yaml
from torch.optim import lr_scheduler

from compress.config import file_config
from compress.config.families import FAMILIES
from compress.config.post_training import load_post_training
from compress.registry import SECTIONS
from tests.compress.fusing.nets import EdgeNet
from tests.compress.harness import tiny_net

OURS = sorted(
    {
        (registry.section, name)
        for registry in SECTIONS.values()
        for name in registry
        if registry.get(name).__module__.startswith("compress.")
    }
)


def sample_of(cls: type) -> str:
    """The YAML under `Sample:` of a docstring."""
    lines = inspect.cleandoc(cls.__doc__ or "").splitlines()
    start = lines.index("Sample:") + 1
    body = []
    for line in lines[start:]:
        if line and not line.startswith(" "):
            break
        body.append(line)
    return textwrap.dedent("\n".join(body))


@pytest.mark.parametrize(("section", "name"), OURS)
def test_signature_is_typed_and_closed(section, name):
    cls = SECTIONS[section].get(name)
    hints = typing.get_type_hints(cls.__init__, include_extras=True)
    for parameter in inspect.signature(cls).parameters.values():
        assert parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL), parameter
        assert parameter.name in hints, f"{name}({parameter.name}) has no type"


@pytest.mark.parametrize(("section", "name"), OURS)
def test_docstring_names_its_source_and_says_when_to_use_it(section, name):
    doc = SECTIONS[section].get(name).__doc__ or ""
    assert "arXiv" in doc or "Distiller" in doc or "Paper:" in doc or "torch" in doc
    assert "When to use:" in doc
    assert "Sample:" in doc


@pytest.mark.parametrize(("section", "name"), OURS)
def test_every_argument_is_in_the_docstring(section, name):
    cls = SECTIONS[section].get(name)
    for argument in inspect.signature(cls).parameters:
        if argument not in ("model", "optimizer", "last_epoch"):
            assert f"{argument}:" in (cls.__doc__ or ""), f"{name}: {argument} is not documented"


@pytest.mark.parametrize(("section", "name"), OURS)
def test_sample_loads_through_file_config(section, name, tmp_path):
    data = yaml.safe_load(sample_of(SECTIONS[section].get(name)))
    (instance,) = data[section]
    assert SECTIONS[section].get(data[section][instance]["class"]) is SECTIONS[section].get(name)
    if name == "PostTrainLinearQuantizer":  # it has no policy and a file of its own
        path = tmp_path / "sample.yaml"
        path.write_text(yaml.safe_dump(data))
        assert load_post_training(tiny_net(), path, torch.zeros(1, 3, 6, 6))
        return
    key = next(family.key for family in FAMILIES if family.section == section)
    window = {"epochs": [1]} if name == "Reparameterize" else {"starting_epoch": 0, "ending_epoch": 4, "frequency": 1}
    data["policies"] = [{key: {"instance_name": instance}, **window}]
    path = tmp_path / "sample.yaml"
    path.write_text(yaml.safe_dump(data))
    net = EdgeNet() if name == "Reparameterize" else tiny_net()  # it needs blocks
    scheduler = file_config(net, torch.optim.SGD(net.parameters(), lr=0.1), path)
    assert [policy.name for policy in scheduler.policies] == [instance]
    yaml.safe_dump(scheduler.resolved)


def test_torch_schedulers_keep_their_names():
    for name in SECTIONS["lr_schedulers"]:
        if (section := ("lr_schedulers", name)) not in OURS:
            assert SECTIONS[section[0]].get(name) is getattr(lr_scheduler, name)

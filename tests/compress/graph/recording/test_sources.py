"""Sources of classes and functions: what `inspect` gives, from a file that is parsed once."""

import ast
import functools
import importlib.util
import inspect
import textwrap
from pathlib import Path

import pytest
import torchvision

from compress.graph.recording import sources
from compress.graph.recording.sources import source_of, tree_of

TEXT = '''
import functools


def twice(function):
    @functools.wraps(function)
    def called(*args):
        return function(function(*args))
    return called


class Outer:
    """Has a class inside."""

    class Inner:
        @property
        def width(self): return 8

    @twice
    def forward(self, x):
        # a comment
        return x + 1

    key = lambda self: 2


def make():
    if True:
        class Local(Outer):
            training = True
    return Local


@functools.cache
def kept(): return 3
'''


def module(path: Path, text: str):
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def pieces(net):
    return [net.Outer, net.Outer.Inner, net.Outer.Inner.width.fget, net.Outer.forward, net.make, net.make(), net.twice]


def test_it_is_what_inspect_gives(tmp_path, monkeypatch):
    net = module(tmp_path / "net_of_sources.py", TEXT)
    monkeypatch.setitem(__import__("sys").modules, "net_of_sources", net)
    for each in pieces(net):
        assert source_of(each).rstrip() == inspect.getsource(each).rstrip()
        parsed = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        assert ast.dump(tree_of(each)) == ast.dump(parsed)
    assert source_of(net.Outer.key) == inspect.getsource(net.Outer.key)  # a lambda


def test_a_file_that_has_changed_is_parsed_anew(tmp_path, monkeypatch):
    path = tmp_path / "net_that_changes.py"
    first = module(path, TEXT)
    monkeypatch.setitem(__import__("sys").modules, "net_that_changes", first)
    assert "x + 1" in source_of(first.Outer)
    second = module(path, TEXT.replace("x + 1", "x + 1000"))
    monkeypatch.setitem(__import__("sys").modules, "net_that_changes", second)
    assert "x + 1000" in source_of(second.Outer)


def test_each_file_is_parsed_once(monkeypatch):
    parsed = []
    parse = ast.parse
    monkeypatch.setattr(sources, "_FILES", {})
    monkeypatch.setattr(ast, "parse", lambda *args, **kwargs: parsed.append(args) or parse(*args, **kwargs))
    resnet = torchvision.models.resnet
    for each in (resnet.BasicBlock, resnet.Bottleneck, resnet.ResNet, resnet.ResNet.forward, resnet.conv3x3):
        tree_of(each)
        source_of(each)
    assert len(parsed) == 1


@pytest.mark.parametrize("code", [int, len, functools.partial(len), type("Made", (), {})])
def test_what_has_no_source(code):
    with pytest.raises((OSError, TypeError)):
        source_of(code)
    with pytest.raises((OSError, TypeError)):
        tree_of(code)

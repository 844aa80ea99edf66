"""Two files of somebody's code, each with a `blocks.py` beside it: each is given its own."""

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.errors import UserError
from models.SR.zoo import ZOO
from options import own_network

NET = """\
from torch import nn
from blocks_beside import FACTOR
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        from lazily_beside import LATE
        self.one, self.factor = nn.Conv2d(3, 3, 1), FACTOR * LATE
    def forward(self, x):
        return self.factor * self.one(x)
class Late(Net):
    def forward(self, x):
        from lazily_beside import LATE
        return LATE * self.one(x)
"""


@pytest.fixture
def two(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two folders that hold the same but for a number."""
    monkeypatch.setattr(own_network, "named", set())
    for number, folder in enumerate(("one", "two"), 1):
        (here / folder).mkdir()
        (here / folder / "net_beside.py").write_text(NET)
        (here / folder / "blocks_beside.py").write_text(
            f"import torch\nFACTOR = {number}\nclass K(torch.nn.Identity): ...\n"
        )
        (here / folder / "lazily_beside.py").write_text(f"LATE = {number}\n")
    archs = [f"{folder}/net_beside.py:{name}" for folder in ("one", "two") for name in ("Net", "Late")]
    own_network.allow(archs)
    return archs


def test_each_imports_what_is_beside_it_whatever_the_order(two: list[str]) -> None:
    assert [ZOO(two[place]).factor for place in (0, 2, 0, 2)] == [1, 4, 1, 4]
    with pytest.raises(ImportError, match="lazily_beside is in .*one and .*two: import it at the top"):
        ZOO(two[3])(torch.zeros(1, 3, 2, 2))


def test_a_neighbour_that_changed_is_told(two: list[str], here: Path, caplog: Any) -> None:
    caplog.set_level(logging.WARNING, "run")
    source = vars(ZOO(two[0]))["checkpoint_arguments"]["source"]
    old = source.partition("+")[0]  # of a checkpoint of an earlier version
    ZOO(two[0], source=source)
    ZOO(two[0], source=old)
    assert not caplog.text
    (here / "one/blocks_beside.py").write_text("FACTOR = 5\n")
    ZOO(two[0], source=old)
    assert not caplog.text
    ZOO(two[0], source=source)
    assert "blocks_beside.py, lazily_beside.py, which are not what the network of" in caplog.text


@pytest.mark.parametrize("first", ["/usr", ""], ids=["a folder", "the present folder"])
def test_a_neighbour_that_another_module_hides_is_told(here: Path, caplog: Any, monkeypatch: Any, first: str) -> None:
    monkeypatch.setattr(own_network, "named", set())
    monkeypatch.setattr("sys.path", [first, *(each for each in sys.path if each)])
    (here / "json.py").write_text("")
    (here / "uses_json.py").write_text("import json\nfrom torch import nn\ndef net(): return nn.Conv2d(3, 3, 1)\n")
    own_network.allow(["uses_json.py:net"])
    ZOO("uses_json.py:net")
    assert "imports json, which is" in caplog.text


@pytest.mark.parametrize("code", [
    "import functools\nmade = functools.partial(nn.Conv2d, 3, 3, 1)",
    "class Maker:\n    def __call__(self): return nn.Conv2d(3, 3, 1)\nmade = Maker()",
])  # fmt: skip
def test_the_source_of_what_makes_a_network_in_another_way_is_known(
    here: Path, code: str, caplog: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(own_network, "named", set())
    path = here / "ways.py"
    path.write_text(f"from torch import nn\n{code}\n")
    own_network.allow(["ways.py:made"])
    network = ZOO("ways.py:made", source="0" * 16)
    assert isinstance(network, nn.Conv2d)
    assert vars(network)["checkpoint_arguments"]["source"] != "0" * 16
    assert f"{path} is not the file that the network" in caplog.text


def test_a_module_that_is_not_there_is_still_told(here: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(own_network, "named", set())
    (here / "lacks.py").write_text("import no_such_neighbour\n")
    own_network.allow(["lacks.py:net"])
    with pytest.raises(UserError, match="No module named 'no_such_neighbour'"):
        ZOO("lacks.py:net")

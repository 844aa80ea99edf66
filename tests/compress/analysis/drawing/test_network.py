"""Drawings: the boxes are the network's, and Graphviz draws them."""

import fileinput
import itertools
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.analysis.drawing.blocks import blocks_of, describe
from compress.analysis.drawing.network import ONE_COLUMN, columns_of, draw_model_to_file
from compress.errors import UserError
from compress.graph.calls import Call
from compress.graph.trace import trace_model


class Residual(nn.Module):
    """conv + norm, plus its own input, then relu (functional)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, values: Tensor) -> Tensor:
        return functional.relu(values + self.norm(self.conv(values)))


def chain(length: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), *(Residual(4) for _ in range(length)))


def test_boxes_join_what_changes_no_shape_and_know_their_readers() -> None:
    net = chain(1)
    net[1].conv.weight.data[:2] = 0
    given, first, conv, add = blocks_of(trace_model(net, torch.empty(1, 3, 8, 8)), net)
    assert given.parts == ["input input"]
    assert (first.name, first.inputs) == ("0", [0])
    assert conv.parts == ["Conv2d 3x3, 4 to 4", "BatchNorm2d"]
    assert (conv.name, conv.cluster, conv.inputs) == ("1.conv", ("1",), [1])
    assert (conv.sparsity, conv.macs) == (0.5, 64 * 4 * 36)
    assert add.parts == ["add", "relu"]
    assert (add.inputs, add.cluster, add.shape) == ([1, 2], ("1",), (1, 4, 8, 8))


def test_a_layer_called_twice_is_two_boxes_and_attention_is_one() -> None:
    layer = nn.Linear(4, 4)
    twice = nn.Sequential(layer, nn.Tanh(), layer)
    assert [b.parts[0] for b in blocks_of(trace_model(twice, torch.empty(1, 4)), twice)[1:]] == ["Linear 4 to 4"] * 2
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    names = [b.parts[0] for b in blocks_of(trace_model(encoder, torch.empty(1, 5, 8)), encoder)]
    assert len(names) < 15, names


def test_files_are_a_png_and_an_svg_with_every_box(tmp_path: Path) -> None:
    table = draw_model_to_file(chain(2), tmp_path / "new" / "arch.png", torch.empty(1, 3, 8, 8))
    assert (tmp_path / "new" / "arch.png").read_bytes()[:4] == b"\x89PNG"
    svg = ElementTree.parse(tmp_path / "new" / "arch.svg").getroot()
    text = " ".join("".join(each.itertext()) for each in svg.iter("{http://www.w3.org/2000/svg}text"))
    for name in [name for name in table["name"] if name]:
        assert name in text
    assert "4 x 8 x 8" in text
    assert table["macs"].sum() == 64 * (4 * 3 + 2 * 4 * 36)


def test_pygraphviz_opens_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11.2's `fileinput.hook_compressed`, which pygraphviz opens files by, refuses binary ones."""

    def refuses(*_: object, **__: object) -> None:
        raise ValueError("binary mode doesn't take an encoding argument")

    monkeypatch.setattr(fileinput, "hook_compressed", refuses)
    draw_model_to_file(chain(2), tmp_path / "arch.png", torch.empty(1, 3, 8, 8))
    assert (tmp_path / "arch.svg").read_text().rstrip().endswith("</svg>")


def test_the_title_of_several_calls_names_the_one_that_is_drawn(tmp_path: Path) -> None:
    image = torch.empty(1, 3, 8, 8)
    draw_model_to_file(chain(2), tmp_path / "arch.png", [image, Call(image, method="forward")])
    assert "(forward, the first of 2 calls)" in (tmp_path / "arch.svg").read_text()


def test_colours_follow_sparsity_or_macs(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3))
    net[0].weight.data.zero_()
    full, none = "#569bd6", "#ffffff"
    for color_by, first, second in (("sparsity", full, none), ("macs", "#f", full)):
        draw_model_to_file(net, tmp_path / "arch.png", torch.empty(1, 3, 8, 8), color_by)  # type: ignore[arg-type]
        svg = (tmp_path / "arch.svg").read_text().lower()
        node = {name: svg.split(f"<title>{name}</title>")[1].split('fill="')[1][:7] for name in ("1", "2")}
        if color_by == "sparsity":
            assert (node["1"], node["2"]) == (first, second)
        else:
            assert node["2"] == second
            assert node["1"] not in (full, none)


def test_deep_networks_are_broken_into_columns_at_modules() -> None:
    net = chain(24)
    blocks = blocks_of(trace_model(net, torch.empty(1, 3, 8, 8)), net)
    columns = columns_of(blocks)
    assert [block for column in columns for block in column] == blocks
    assert 2 <= len(columns) <= 6
    assert max(map(len, columns)) <= 1.25 * ONE_COLUMN + 2
    for before, after in itertools.pairwise(columns):
        assert before[-1].cluster != after[0].cluster


def test_words_for_layers() -> None:
    assert describe(nn.Conv2d(3, 6, 3, stride=2, groups=3)) == "Conv2d 3x3 /2, 3 to 6, 3 groups"
    assert describe(nn.Linear(3, 2)) == "Linear 3 to 2"
    assert describe(nn.ReLU()) == "ReLU"


def test_a_network_that_cannot_be_traced_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be traced"):
        draw_model_to_file(nn.Linear(3, 2), tmp_path / "arch.png", torch.empty(1, 7))

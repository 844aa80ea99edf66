"""Weights from elsewhere: by name, by order, in part, under other wrappers; pickles only when trusted."""

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from apputils.checkpoints.file import load_weights, main, save_checkpoint
from apputils.checkpoints.weight_matching import match_weights
from compress.errors import UserError


class Other(nn.Module):
    """The layers of the fixture `net` under other names; the last one is wider."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)


class Malicious(nn.Module):
    """Unpickling it makes a folder."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.layer, self.path = nn.Linear(2, 2), path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_by_name_under_data_parallel(net: nn.Module) -> None:
    given = {f"module.{name}": torch.full_like(value, 3.0) for name, value in net.state_dict().items()}
    found = match_weights(net, given)
    assert len(found.loaded) == 6
    assert all((parameter == 3).all() for parameter in net.parameters())
    assert "6 of 6 tensors loaded" in found.story("x")


def test_what_does_not_fit_is_listed_and_left(net: nn.Module) -> None:
    given = dict(net.state_dict())
    before = net.state_dict()["5.weight"].clone()
    given["5.weight"] = torch.zeros(7, 4)
    given["extra"] = given.pop("5.bias")
    found = match_weights(net, given)
    assert found.mismatched == ["5.weight (7, 4) instead of (2, 4)"]
    assert (found.missing, found.unused) == (["5.bias"], ["extra"])
    assert torch.equal(net.state_dict()["5.weight"], before)
    assert "of another shape (1)" in found.story("x")


def test_by_order(net: nn.Module) -> None:
    other = Other()
    found = match_weights(net, other.state_dict(), by_order=True)
    assert found.loaded == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert torch.equal(net.state_dict()["2.weight"], other.second.weight)
    assert found.missing == ["5.weight", "5.bias"]
    assert "  paired by order (4): 0.weight = first.weight, 0.bias = first.bias, 2.weight = second" in found.story("x")
    assert not found.few
    few = match_weights(net, {"a": torch.zeros(2)}, by_order=True)
    assert few.few
    assert few.story("x").startswith("x: 1 of 6 tensors loaded, fewer than half; the others start as the network made")
    assert "by order" not in match_weights(net, net.state_dict()).story("x")


def test_nothing_that_fits_is_an_error(net: nn.Module) -> None:
    with pytest.raises(UserError, match="none of the 6 tensors fits this network .*--match=order"):
        match_weights(net, Other().state_dict())
    with pytest.raises(
        UserError, match="nothing was loaded; --match=order pairs .*no tensor has the shape of one of the network"
    ):
        match_weights(net, {"a": torch.zeros(7, 7, 7)}, by_order=True)


@pytest.mark.parametrize("form", ["plain", "state_dict", "ours", "averaged", "DataParallel"])
def test_weights_are_found_in_each_form(net: nn.Module, tmp_path: Path, form: str) -> None:
    path, state = tmp_path / "a.pt", net.state_dict()
    if form == "plain":
        torch.save(state, path)
    elif form == "DataParallel":
        torch.save({"epoch": 3, "state_dict": nn.DataParallel(net).state_dict()}, path)
    elif form == "state_dict":
        torch.save({"epoch": 3, "state_dict": state}, path)
    else:
        other = {name: value + 1 for name, value in state.items()}
        mine, averaged = (state, None) if form == "ours" else (other, {"model": state, "updates": 1})
        save_checkpoint(path, {"model": mine, "averaged": averaged})
    found = load_weights(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_a_pickled_module_is_refused_unless_trusted(net: nn.Module, tmp_path: Path, capsys: Any) -> None:
    torch.save(net, tmp_path / "net.pt")
    advice = r"python -m apputils.checkpoints.file import .*net.pt --trust-pickle"
    with pytest.raises(UserError, match=rf"refused.*it names torch\.nn\.\S+Sequential\. If.*{advice}"):
        load_weights(tmp_path / "net.pt")
    assert main(["import", str(tmp_path / "net.pt")]) == 2
    assert "runs whatever code is in it" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "net.pt"), "--trust-pickle"]) == 0
    found = load_weights(tmp_path / "net.weights.pt")
    assert torch.equal(found["5.weight"], net.state_dict()["5.weight"])


def test_code_runs_only_when_trusted(tmp_path: Path) -> None:
    target = tmp_path / "made"
    torch.save(Malicious(str(target)), tmp_path / "bad.pt")
    assert main(["import", str(tmp_path / "bad.pt")]) == 2
    with pytest.raises(UserError, match="refused"):
        load_weights(tmp_path / "bad.pt")
    assert not target.exists()
    assert main(["import", str(tmp_path / "bad.pt"), "--trust-pickle"]) == 2  # trusted: it ran, and held no weights
    assert target.exists()


def test_files_without_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="holds no named tensors"):
        load_weights(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"nothing")
    assert main(["import", str(tmp_path / "b.pt"), "--trust-pickle"]) == 2
    assert main(["weights", str(tmp_path / "none.pt"), str(tmp_path / "c.pt")]) == 2


def test_by_order_a_layer_that_only_one_side_has_costs_no_other() -> None:
    def of(*widths: int) -> nn.Sequential:
        return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)))

    own, other = of(3, 4, 5, 5, 6, 7), of(3, 4, 5, 6, 7, 5, 5)  # the file's (5, 5) is its last: taking it costs two
    found = match_weights(own, {f"x{i}": w for i, w in enumerate(other.state_dict().values())}, by_order=True)
    assert found.loaded == ["0.weight", "1.weight", "3.weight", "4.weight"]
    assert torch.equal(own[3].weight, other[2].weight)
    assert found.missing == ["2.weight"]
    assert found.unused == ["x4", "x5"]


def layers(**widths: tuple[int, int]) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(*both, bias=False) for name, both in widths.items()})


def test_by_order_names_that_agree_are_not_given_to_other_tensors() -> None:
    own, other = layers(a=(3, 4), b=(4, 4), c=(4, 4)), layers(a=(3, 4), c=(4, 4), b=(4, 4))
    before = own["b"].weight.clone()
    with pytest.raises(
        UserError, match=r"2 of these would go elsewhere or nowhere \(b.weight, c.weight\); nothing was"
    ):
        match_weights(own, other.state_dict(), by_order=True)
    assert torch.equal(own["b"].weight, before)
    assert len(match_weights(own, other.state_dict()).loaded) == 3
    assert torch.equal(own["b"].weight, other["b"].weight)
    assert len(match_weights(own, own.state_dict(), by_order=True).loaded) == 3
    other = layers(x=(3, 4), b=(4, 5), y=(4, 4), z=(4, 4))  # equal names of other shapes do not agree
    assert match_weights(own, other.state_dict(), by_order=True).pairs["b.weight"] == "y.weight"


@pytest.mark.parametrize("side", ["file", "network"])
def test_by_order_a_tensor_too_many_beside_one_of_its_shape_is_refused(side: str) -> None:
    fewer, more = layers(a=(3, 4), b=(4, 5)), layers(x=(3, 4), y=(3, 4), z=(4, 5))
    own, other = (fewer, more) if side == "file" else (more, fewer)
    message = "the network's a.weight could be x.weight, y" if side == "file" else "the file's a.weight could be x.w"
    with pytest.raises(UserError, match=f"--match=order leaves a choice.*{message}"):
        match_weights(own, other.state_dict(), by_order=True)


def test_by_order_what_has_no_place_makes_the_report_a_warning_and_counters_may_be_any() -> None:
    own = layers(a=(3, 4), b=(4, 5))
    given = {"x": torch.ones(4, 3), "more": torch.ones(7), "y": torch.ones(5, 4)}
    found = match_weights(own, given, by_order=True)
    assert (found.unused, found.doubtful) == (["more"], True)
    assert not match_weights(own, own.state_dict() | {"more": torch.ones(7)}).doubtful
    norm = nn.Sequential(nn.BatchNorm1d(3))
    state = {f"x{i}": tensor for i, tensor in enumerate(norm.state_dict().values())} | {"more": torch.tensor(1)}
    assert len(match_weights(norm, state, by_order=True).loaded) == 5


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e300])
def test_what_is_not_finite_is_named_and_nothing_is_loaded(value: float) -> None:
    own = layers(a=(3, 4), b=(4, 5))
    own.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    state = {name: tensor.double() for name, tensor in own.state_dict().items()}
    assert len(match_weights(own, state).loaded) == 3
    state["b.weight"] = torch.full((5, 4), value, dtype=torch.float64)
    before = own["a"].weight.clone()
    with pytest.raises(UserError, match=r"NaN or infinity in 1 of 3 tensors \(b.weight\); nothing was loaded"):
        match_weights(own, state | {"a.weight": torch.zeros(4, 3)})
    assert torch.equal(own["a"].weight, before)


def test_a_prefix_that_all_names_have_is_told_and_the_command_that_takes_it_off() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    given = {f"backbone.body.{name}": tensor for name, tensor in net.state_dict().items()}
    with pytest.raises(UserError, match=r"without 'backbone.body.' names agree: .*--strip=backbone.body.; or --match"):
        match_weights(net, given)

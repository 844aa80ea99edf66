"""Weights that would make another network of it in silence are refused, however they are loaded."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from apputils.checkpoints.weight_checks import by_own_names, check_weights
from apputils.checkpoints.weight_matching import match_weights
from compress.errors import UserError
from engine.saved.rebuild import load_exact_weights


@pytest.fixture
def own() -> nn.Sequential:
    """A convolution and a norm."""
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3, bias=False), norm=nn.BatchNorm2d(4)))


def plus(state: dict[str, Tensor], name: str, value: Any) -> dict[str, Tensor]:
    return {**state, name: value}


def test_two_tensors_for_one_name_are_refused_unless_they_are_equal(own: nn.Module) -> None:
    state = own.state_dict()
    both = plus(dict(state), "module.conv.weight", state["conv.weight"].clone())
    assert len(match_weights(own, both).loaded) == 6
    both["module.conv.weight"] = torch.zeros(4, 3, 3, 3)
    message = (
        r"module.conv.weight and conv.weight both stand for the network's conv.weight.*nothing was loaded. "
        r"Make a file with one of the two: .* --only='module.\*', or --without"
    )
    for load in (match_weights, load_exact_weights, lambda model, given: check_weights(given, model.state_dict())):
        for given in (both, dict(reversed(both.items()))):
            with pytest.raises(UserError, match=message if given is not both else "and module.conv.weight both stand"):
                load(own, given)
    with pytest.raises(UserError, match="both stand for"):
        match_weights(own, both, by_order=True)
    assert by_own_names({"module.x": 1, "y": 2}, ["x"]) == {"x": 1, "y": 2}


def test_a_tied_weight_that_is_untied_in_the_file_is_refused() -> None:
    own = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    own[1].weight = own[0].weight
    same = {"0.weight": torch.ones(3, 3), "1.weight": torch.ones(3, 3)}
    assert len(match_weights(own, same).loaded) == 2
    with pytest.raises(UserError, match=r"0.weight and 1.weight are one tensor in the network.*--without=1.weight"):
        match_weights(own, plus(same, "1.weight", torch.zeros(3, 3)))
    with pytest.raises(UserError, match=r"are one tensor in the network"):
        match_weights(own, {"a.weight": torch.ones(3, 3), "b.weight": torch.zeros(3, 3)}, by_order=True)
    assert (own[0].weight == 1).all()


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.int32, torch.int64, torch.float8_e4m3fn])
def test_integers_for_weights_look_quantized(own: nn.Module, kind: torch.dtype) -> None:
    state = plus(own.state_dict(), "conv.weight", torch.ones(4, 3, 3, 3).to(kind))
    before = own.conv.weight.clone()
    with pytest.raises(UserError, match=rf"\(conv.weight {str(kind)[6:]}\); nothing was .* looks quantized"):
        match_weights(own, state)
    assert torch.equal(own.conv.weight, before)


@pytest.mark.parametrize("kind", [torch.bool, torch.complex64])
def test_another_kind_of_number_is_refused(own: nn.Module, kind: torch.dtype) -> None:
    state = plus(own.state_dict(), "conv.weight", torch.ones(4, 3, 3, 3).to(kind))
    with pytest.raises(UserError, match=r"1 of 6 tensors .* for floating-point ones \(conv.weight \S+\); nothing was"):
        check_weights(state, own.state_dict())


def test_integers_of_the_network_take_whole_numbers(own: nn.Module) -> None:
    state = own.state_dict()
    match_weights(own, plus(state, "norm.num_batches_tracked", torch.tensor(7.0)))
    assert own.norm.num_batches_tracked == 7
    half = {name: value.half() for name, value in state.items()}
    assert len(match_weights(own, half).loaded) == 6
    with pytest.raises(UserError, match=r"for whole ones \(norm.num_batches_tracked float32\)"):
        match_weights(own, plus(state, "norm.num_batches_tracked", torch.tensor(7.5)))


@pytest.mark.parametrize("by_order", [False, True])
def test_a_negative_variance_is_refused(own: nn.Module, by_order: bool) -> None:
    state = plus(own.state_dict(), "norm.running_var", torch.tensor([1.0, -0.1, 1.0, 1.0]))
    if by_order:
        state = {f"x{i}": tensor for i, tensor in enumerate(state.values())}
    with pytest.raises(UserError, match=r"norm.running_var is negative in 1 of 4 places.*nothing was loaded"):
        match_weights(own, state, by_order=by_order)


NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


@pytest.mark.parametrize(
    "names", [("bias", "running_mean", "running_var", "weight"), ("beta", "gamma", "moving_mean", "moving_variance")]
)
def test_by_order_last_parts_that_contradict_each_other_are_refused(own: nn.Module, names: tuple[str, ...]) -> None:
    state = own.state_dict()
    given = {"b.c.weight": state["conv.weight"]}
    given |= {f"b.n.{name}": state[f"norm.{NORM.get(name, name)}"] for name in names}
    given["b.n.num_batches_tracked"] = state["norm.num_batches_tracked"]
    with pytest.raises(UserError, match=rf"norm.weight = b.n.{names[0]}.*nothing was loaded"):
        match_weights(own, given, by_order=True)
    good = {f"b.{name}": tensor for name, tensor in state.items()}
    assert len(match_weights(own, good, by_order=True).loaded) == 6
    renamed = {f"n.{name}": state[f"norm.{NORM[name]}"] for name in NORM}
    assert len(match_weights(own.norm, renamed, by_order=True).loaded) == 4


def test_by_order_names_that_both_sides_know_contradict_each_other_too() -> None:
    own = nn.LSTM(4, 4, bias=False)
    state = own.state_dict()
    assert len(match_weights(own, {f"rnn.{name}": tensor for name, tensor in state.items()}, by_order=True).loaded) == 2
    with pytest.raises(UserError, match="weight_ih_l0 = rnn.weight_hh_l0"):
        match_weights(own, {f"rnn.{name}": state[name] for name in reversed(state)}, by_order=True)
    listed = nn.ParameterList(torch.ones(2) * i for i in range(2))
    assert len(match_weights(listed, {"x.1": torch.ones(2), "x.2": torch.ones(2)}, by_order=True).loaded) == 2


def test_by_order_a_file_that_is_sorted_by_its_letters_is_refused() -> None:
    own = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(12)))
    state = {f"x.{name}": tensor for name, tensor in own.state_dict().items()}
    assert len(match_weights(own, state, by_order=True).loaded) == 12
    with pytest.raises(UserError, match=r"letters \(x.10.weight before x.2.weight\).*nothing was loaded"):
        match_weights(own, {name: state[name] for name in sorted(state)}, by_order=True)

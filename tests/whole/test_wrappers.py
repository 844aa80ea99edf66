"""Wrappers are known by their type: a network's own child called `module` is a part of it like any other."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from apputils.checkpoints.weight_matching import match_weights
from compress.config import dict_config
from compress.distillation.teachers import Teachers
from compress.masks import MaskTable
from compress.quantization.convert import apply, structure_of
from compress.quantization.lsq import LSQQuantizer
from compress.quantization.modules.layers import QuantConv2d, QuantLinear
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from compress.selectors import canonical_modules, canonical_parameters, expand, unwrapped


class Holder(nn.Module):
    """A body in an attribute of some name, and a head behind it."""

    def __init__(self, attribute: str = "module") -> None:
        super().__init__()
        self.add_module(attribute, nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()))
        self.attribute, self.head = attribute, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.get_submodule(self.attribute)(x).mean((2, 3)))


X = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
WRAPPINGS: dict[str, Callable[[nn.Module], Any]] = {
    "bare": lambda net: net,
    "DataParallel": nn.DataParallel,
    "compiled": torch.compile,
    "averaged": AveragedModel,
    "compiled in DataParallel": lambda net: nn.DataParallel(torch.compile(net)),  # type: ignore[arg-type]
    "DataParallel in compiled": lambda net: torch.compile(nn.DataParallel(net)),
    "DataParallel twice": lambda net: nn.DataParallel(nn.DataParallel(net)),
}


@pytest.mark.parametrize("attribute", ["module", "_orig_mod"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappers_go_and_children_stay(attribute: str, wrapping: str) -> None:
    net = Holder(attribute)
    wrapped = WRAPPINGS[wrapping](net)
    inner = unwrapped(wrapped)
    assert isinstance(inner, Holder)
    assert wrapping == "averaged" or inner is net
    own = [name for name, _ in net.named_parameters()]
    assert list(canonical_parameters(wrapped)) == own
    assert list(canonical_modules(wrapped)) == [name for name, _ in net.named_modules()]


def test_a_wrapper_around_a_part_of_the_network_goes_too() -> None:
    net = Holder("module")
    net.module = nn.DataParallel(net.module)
    own = [name for name, _ in Holder("module").named_parameters()]
    assert list(canonical_parameters(net)) == own
    assert list(canonical_parameters(nn.DataParallel(net))) == own


@pytest.mark.parametrize("attribute", ["module", "_orig_mod"])
def test_all_of_the_network_is_quantized_after_training(attribute: str) -> None:
    net = Holder(attribute).eval()
    quantized = PostTrainLinearQuantizer().quantize(net, [X])
    assert isinstance(quantized, Holder)
    assert isinstance(quantized.head, QuantLinear)
    assert isinstance(quantized.get_submodule(attribute)[0], QuantConv2d)  # type: ignore[index]
    assert (quantized(X) - net(X)).norm() < 0.05 * net(X).norm()


def test_all_of_the_network_is_quantized_in_training_and_again_from_its_structure() -> None:
    net = nn.DataParallel(Holder())
    quantizer = LSQQuantizer(bits_weights=4, bits_activations=4, example_inputs=X)
    quantizer.prepare(net, torch.optim.SGD(net.parameters(), 0.1))
    quantizer.convert(net)
    assert set(quantizer.bits_table()) == {"module.0", "module.1", "head"}
    fresh = apply(Holder(), structure_of(net))
    assert structure_of(fresh) == structure_of(net)
    older = {  # names as they were when every `module.` was left out
        "layers": {name.removeprefix("module."): each for name, each in structure_of(net)["layers"].items()},
        "folded": {},
    }
    assert structure_of(apply(Holder(), older)) == structure_of(net)


def test_a_layer_compiled_by_itself_computes_with_its_quantized_weight() -> None:
    net = Holder("body")
    net.body[0] = torch.compile(net.body[0], backend="eager")  # type: ignore[index, operator]
    quantizer = LSQQuantizer(bits_weights=2, bits_activations=32)
    quantizer.prepare(net, torch.optim.SGD(net.parameters(), 0.1))
    before = net.body(X)  # type: ignore[operator]
    quantizer.convert(net)
    weight = net.body[0]._orig_mod.quantized_weight()  # type: ignore[index, union-attr]
    torch.testing.assert_close(net.body(X), nn.functional.relu(nn.functional.conv2d(X, weight, net.body[0].bias)))  # type: ignore[operator, index, union-attr, arg-type]
    assert not torch.allclose(net.body(X), before)  # type: ignore[operator]


def test_the_student_as_its_own_teacher_is_all_of_it() -> None:
    net = Holder()
    assert type(Teachers().find("self", net)) is Holder
    assert type(Teachers().start("self", nn.DataParallel(net), 0).network) is Holder


@pytest.mark.parametrize("selector", ["module.0.weight", "module.module.0.weight", "0.weight", "module.*.weight"])
@pytest.mark.parametrize("wrapping", ["bare", "DataParallel"])
def test_a_schedule_finds_its_weight_however_the_network_was_wrapped(selector: str, wrapping: str) -> None:
    net = Holder()
    pruner = {"class": "AutomatedGradualPruner", "initial_sparsity": 0.1, "final_sparsity": 0.5, "weights": [selector]}
    policy = {"pruner": {"instance_name": "p"}, "epochs": [0, 1]}
    schedule = {"version": 1, "pruners": {"p": pruner}, "policies": [policy]}
    scheduler = dict_config(WRAPPINGS[wrapping](net), torch.optim.SGD(net.parameters(), 0.1), schedule, X)
    assert scheduler.scheduled_weights == ["module.0.weight"]


def test_names_of_selectors() -> None:
    names = ["a.weight", "module.a.weight", "module.b.weight"]
    assert expand("a.weight", names) == ["a.weight"]
    assert expand("module.a.weight", names) == ["module.a.weight"]
    assert expand("module.module.a.weight", names) == ["module.a.weight"]
    assert expand("_orig_mod.a.weight", names) == ["a.weight"]
    assert expand("b.weight", names) == ["module.b.weight"]
    assert expand("module.c.weight", names) == []
    assert expand("x.module.a.weight", ["x.a.weight"]) == ["x.a.weight"]


@pytest.mark.parametrize("given", ["bare", "DataParallel", "stripped"])
def test_weights_of_a_network_with_such_a_child_are_loaded(given: str) -> None:
    net, other = Holder(), Holder()
    state = WRAPPINGS["DataParallel" if given == "DataParallel" else "bare"](other).state_dict()
    if given == "stripped":
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    assert not match_weights(net, state).missing
    assert torch.equal(net(X), other(X))


def test_masks_saved_under_stripped_names_are_restored() -> None:
    masks, again = MaskTable(Holder()), MaskTable(Holder())
    masks["module.0.weight"].set_mask(torch.ones(4, 1, 3, 3).triu().bool())
    state = masks.state_dict()
    again.load_state_dict({name.removeprefix("module."): each for name, each in state.items()})
    assert again["module.0.weight"].sparsity() == masks["module.0.weight"].sparsity() > 0


def test_a_network_with_a_wrapped_part_is_quantized_like_the_bare_one() -> None:
    net = Holder()
    float_answer = PostTrainLinearQuantizer().quantize(net, [X])(X)
    net.module = nn.DataParallel(net.module)
    torch.testing.assert_close(PostTrainLinearQuantizer().quantize(net, [X])(X), float_answer)

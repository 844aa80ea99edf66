"""Python's calls are held to the signatures that schedules are held to: a wrong value is never taken in silence."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import compress
import compress.config.families  # (registers every class)
from compress import (
    CompressionScheduler,
    EpochWindow,
    ExportSettings,
    MixedPrecision,
    PostTrainLinearQuantizer,
    SensitivitySettings,
    UserError,
    climb_ladder,
    dict_config,
    draw_model_to_file,
    export_onnx,
    measure_latency,
    onnx_way,
    prune_one_shot,
    sensitivity_analysis,
    sparsity_report,
    transform_to_onnx,
)
from compress.arguments.checked import ArgumentError, CheckedArguments
from compress.arguments.schema import arguments_model
from compress.levels import AgpLevel
from compress.policies.pruning import PruningPolicy
from compress.policies.regularization import RegularizationPolicy
from compress.pruning.element.level import SparsityLevelParameterPruner
from compress.pruning.ranked import L1RankedStructureParameterPruner
from compress.quantization.post_training.ranges import Clipping
from compress.quantization.range_linear import RangeWeight
from compress.registry import LEVELS, SECTIONS
from compress.regularization.l1 import L1Regularizer

OURS = sorted(
    {
        cls
        for registry in (*SECTIONS.values(), LEVELS)
        for cls in map(registry.get, registry)
        if cls.__module__.startswith("compress.")
    },
    key=lambda cls: cls.__name__,
)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))


X = torch.rand(2, 1, 8, 8)


def _wrong(schema: dict[str, Any]) -> list[Any]:
    """Values that a node of a JSON Schema does not allow: near a word of its list, and beyond its range."""
    options = schema.get("anyOf", [schema])
    words = [word for option in options for word in option.get("enum", [option.get("const")]) if isinstance(word, str)]
    found: list[Any] = [f"{words[0]}x"] if words else []
    if any("$ref" in option or option.get("type") in ("object", "array", "string") for option in options):
        return found
    ends = [option.get("maximum", option.get("exclusiveMaximum")) for option in options]
    starts = [option.get("minimum", option.get("exclusiveMinimum")) for option in options]
    found += [max(each for each in ends if each is not None) + 1] if any(each is not None for each in ends) else []
    found += [min(each for each in starts if each is not None) - 1] if any(each is not None for each in starts) else []
    return found


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)
def test_each_argument_of_each_class_refuses_what_is_outside_its_list_or_range(cls: type) -> None:
    assert issubclass(cls, CheckedArguments)
    for name, schema in arguments_model(cls).model_json_schema()["properties"].items():
        for value in _wrong(schema):
            with pytest.raises(ArgumentError, match=f"{cls.__name__}: .*{name}"):
                cls(**{name: value})
    with pytest.raises(ArgumentError, match=f"{cls.__name__} has no argument 'no_such_thing'"):
        cls(no_such_thing=1)


def test_the_table_is_not_empty() -> None:
    properties = [arguments_model(cls).model_json_schema()["properties"] for cls in OURS]
    found = [value for each in properties for schema in each.values() for value in _wrong(schema)]
    assert len(OURS) > 50
    assert len(found) > 150


def quantizer(**arguments: Any) -> Callable[[Path], object]:
    return lambda _: PostTrainLinearQuantizer(**arguments).quantize(net(), [X])


def starting(make: Callable[[], Any]) -> Callable[[Path], object]:
    return lambda _: CompressionScheduler(net(), [make()])


WINDOW = EpochWindow.of_list([0])
CALLS: dict[str, tuple[Callable[[Path], object], str]] = {
    "clip": (quantizer(clip_acts="mse"), "clip_acts .*did you mean 'MSE'"),
    "mode": (quantizer(mode="symetric"), "mode .*did you mean 'SYMMETRIC'"),
    "mode of one": (quantizer(mode={"activations": "SYMETRIC", "weights": "SYMMETRIC"}), "did you mean 'SYMMETRIC'"),
    "9 bits": (quantizer(bits_activations=9), "given 9; bits_activations should be one of"),
    "0 bits": (quantizer(bits_parameters=0), "given 0; bits_parameters should be one of"),
    "text": (quantizer(bits_activations="8"), "write 8 without quotes"),
    "percentile": (quantizer(clip_acts="PERCENTILE", percentile=500), "percentile should be a number, > 50, <= 100"),
    "key of overrides": (quantizer(overrides={"0": {"bit_weights": 4}}), "'bit_weights'.*did you mean 'bits_weights'"),
    "value of overrides": (
        quantizer(overrides={"0": {"bits_weights": 9}}),
        "overrides.0.bits_weights should be one of",
    ),
    "clip of overrides": (quantizer(overrides={"0": {"clip_acts": "mse"}}), "did you mean 'MSE'"),
    "overrides of nothing": (quantizer(overrides={"conv9": 4}), "overrides: 'conv9' matches no module"),
    "clipping": (lambda _: Clipping("mse"), "did you mean 'MSE'"),  # type: ignore[arg-type]
    "clipping's share": (lambda _: Clipping("PERCENTILE", percent=500), "percent should be"),
    "mode of a piece": (lambda _: RangeWeight(8, "SYMETRIC")(X), "unknown mode 'SYMETRIC'"),  # type: ignore[arg-type]
    "ladder": (lambda _: climb_ladder(net(), [X], lambda _: 0.0, float("nan")), "max_drop"),
    "ladder's base": (lambda _: climb_ladder(net(), [X], lambda _: 0.0, 1.0, {"clip_act": "MSE"}), "'clip_acts'"),
    "kind of budget": (lambda _: MixedPrecision(0.2, kind="sizes"), "did you mean 'size'"),  # type: ignore[arg-type]
    "glob": (
        starting(lambda: PruningPolicy("p", WINDOW, SparsityLevelParameterPruner({"*.weight": 0.5}))),
        r"'\*.weight' is no weight .*write out what it selects: 0.weight, 2.weight",
    ),
    "weight of a regularizer": (
        starting(lambda: RegularizationPolicy("r", WINDOW, L1Regularizer({"0.wieght": 0.1}))),
        "no weight of this Sequential; did you mean '0.weight'",
    ),
    "policy's keyword": (
        starting(lambda: PruningPolicy("p", WINDOW, SparsityLevelParameterPruner({"0.weight": 0.5}), keep_maks=True)),  # type: ignore[call-arg]
        "did you mean 'keep_mask'",
    ),
    "one shot's share": (lambda _: prune_one_shot(net(), [X], 50.0), "to should be a number, > 0, < 1 .*0.5"),
    "one shot's target": (lambda _: prune_one_shot(net(), [X], 0.5, "mac"), "did you mean 'macs'"),  # type: ignore[arg-type]
    "mode of a file": (lambda p: export_onnx(net(), p / "a.onnx", X, "clipp"), "did you mean 'clip'"),  # type: ignore[arg-type]
    "mode of transform": (lambda p: transform_to_onnx(net(), p / "a.onnx", X, False, "clipp"), "did you mean 'clip'"),  # type: ignore[arg-type]
    "opset": (lambda _: ExportSettings(opset=3), "opset should be"),
    "threads": (lambda _: ExportSettings(threads=-3), "threads should be"),
    "format": (lambda p: export_onnx(net(), p / "a.onnx", X, "float", ExportSettings(format="fp16x")), "fp16x"),
    "threads of a way": (lambda p: onnx_way(p / "a.onnx", (X,), -4), "threads should be"),
    "sense_type": (lambda p: sensitivity_analysis(net(), p / "s.xlsx", _score, "filer"), "did you mean 'filter'"),  # type: ignore[arg-type]
    "levels": (lambda p: sensitivity_analysis(net(), p / "s.xlsx", _score, "element", [50.0]), "level"),
    "jobs": (lambda _: SensitivitySettings(jobs=0), "jobs should be"),
    "tolerance": (lambda _: SensitivitySettings(tolerance=-1.0), "tolerance should be"),
    "data": (lambda _: SensitivitySettings(data="tset"), "did you mean 'test'"),  # type: ignore[arg-type]
    "color_by": (lambda p: draw_model_to_file(net(), p / "n.png", X, "sparsty"), "did you mean 'sparsity'"),  # type: ignore[arg-type]
    "empty block": (lambda _: sparsity_report(net(), (0, 8, 1, 1)), "block_shape"),
    "short block": (lambda _: sparsity_report(net(), (8,)), "block_shape"),
    "rounds": (lambda _: measure_latency({"a": int}, rounds=1), "rounds should be"),
    "seconds": (lambda _: measure_latency({"a": int}, seconds=-1.0), "seconds should be"),
    "against": (lambda _: measure_latency({"a": int}, 2, 0.001, against={"a": "b"}), "'b' is none of the ways"),
    "window": (lambda _: EpochWindow([3, 1], 5), "ascending"),
    "window's end": (lambda _: EpochWindow([0, 9], 5), "ending_epoch 5"),
    "frequency": (lambda _: EpochWindow([0], 5, 0), "frequency"),
    "epochs": (lambda _: dict_config(net(), torch.optim.SGD(net().parameters(), 0.1), {}, X, -3), "epochs should be"),
}


def _score(model: nn.Module) -> dict[str, float]:
    return {"psnr": 1.0}


@pytest.mark.parametrize("name", CALLS)
def test_no_call_takes_a_wrong_value_in_silence(name: str, tmp_path: Path) -> None:
    call, message = CALLS[name]
    with pytest.raises((UserError, ValueError), match=message):
        call(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_glob_of_overrides_means_from_python_what_it_means_in_a_file() -> None:
    by_glob = PostTrainLinearQuantizer(overrides={"*": 4, "2": {"bits_weights": 6}})
    by_name = PostTrainLinearQuantizer(overrides={"0": 4, "2": {"bits_weights": 6}, "1": 4})
    outputs = [each.quantize(net(), [X])(X) for each in (by_glob, by_name)]
    assert torch.equal(*outputs)
    assert by_glob.bits_table() == by_name.bits_table()
    assert "W6" in by_glob.bits_table()["2"]


def test_what_python_writes_otherwise_than_yaml_is_taken() -> None:
    """Tuples and keys for lists, numpy's numbers, an object where a schedule writes `{class: ...}`."""
    names = dict.fromkeys(["0.weight"])
    made = L1RankedStructureParameterPruner(
        group_type="Filters", desired_sparsity=np.float32(0.5), weights=names.keys()  # type: ignore[arg-type]
    )  # fmt: skip
    assert made.weights == ["0.weight"] or list(made.weights) == ["0.weight"]
    SparsityLevelParameterPruner({"0.weight": {"class": "AgpLevel", "initial_sparsity": 0.0, "final_sparsity": 0.5}})


def test_a_checked_class_is_copied_and_shows_its_own_signature() -> None:
    assert list(inspect.signature(AgpLevel).parameters) == ["initial_sparsity", "final_sparsity"]
    level = AgpLevel(0.0, 0.5)
    assert copy.deepcopy(level) == level == replace(AgpLevel(0.0, 0.4), final_sparsity=0.5)


@pytest.mark.parametrize("name", [each for each in compress.__all__ if inspect.isfunction(getattr(compress, each))])
def test_a_misspelt_argument_of_a_public_function_is_named(name: str) -> None:
    function = getattr(compress, name)
    argument = list(inspect.signature(function).parameters)[-1]
    with pytest.raises(
        ArgumentError, match=f"{function.__name__} has no argument '{argument}x'; did you mean '{argument}'"
    ):
        function(**{f"{argument}x": 1})


def test_an_argument_that_is_an_object_is_named_by_its_class() -> None:
    """A mapping does not stand for it in Python, and its private fields are nobody's business."""
    network, x = nn.Conv2d(3, 4, 1), torch.rand(1, 3, 4, 4)
    for graph in (None, {"parameters": {}}, "graph"):
        with pytest.raises(ArgumentError, match=r"remove_units: given .*; graph should be of class ChannelGraph$"):
            compress.remove_units(network, graph, {}, x)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"settings should be of class ExportSettings$"):
        compress.export_onnx(network, "net.onnx", x, settings={"opset": 20})  # type: ignore[arg-type]


FUNCTIONS = [getattr(compress, each) for each in compress.__all__ if inspect.isfunction(getattr(compress, each))]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_class_is_no_network(function: Callable[..., Any]) -> None:
    """`thin(Net, x)` for `thin(Net(), x)`: each function with a network says what it was given."""
    hints = {name: str(each.annotation) for name, each in inspect.signature(function).parameters.items()}
    for name in [name for name, hint in hints.items() if hint.removesuffix(" | None") in ("nn.Module", str(nn.Module))]:
        wanted = f"{name} is the class Conv2d, and not a network; make one: Conv2d"
        with pytest.raises(ArgumentError, match=wanted):
            function(**{name: nn.Conv2d})
        with pytest.raises(ArgumentError, match=f"{name} should be a network .torch.nn.Module.; given a Tensor"):
            function(**{name: X})


def test_a_tensor_is_no_function(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="test_func should be a function; given a Tensor"):
        sensitivity_analysis(net(), tmp_path / "s.xlsx", X)  # type: ignore[arg-type]


@pytest.mark.parametrize(("masks", "given"), [([2], r"\[2\]"), ("all", "'all'"), (X, "a Tensor")])
def test_masks_are_a_dictionary(masks: Any, given: str) -> None:
    wanted = f"masks should be a dictionary, name of a parameter -> tensor; given {given}"
    with pytest.raises(ArgumentError, match=wanted):
        compress.thin(net(), X, masks=masks)

"""A candidate's schedule: what a person would have written, and a schedule that loads and does what was decided."""

from dataclasses import replace

import pytest
import torch
import yaml

from compress.config.build import build_text
from compress.goals.goal import Goal
from compress.thinning.trials.trial import prunable_graph
from engine.search.candidate import Candidate, Group, globbed, schedule_of, schedule_text
from engine.search.space import Space
from models.C2SRCNN.model import Net

X = torch.rand(1, 3, 16, 16)
NAMES = [name for name, _ in Net(2).named_parameters()]
GROUPS = [
    Group(f"mid_part.{i}.weight[0]", 32, (8, 16, 32), (f"mid_part.{i}.weight",)) for i in (1, 3, 5)
]  # fmt: skip


def candidate(**changed: object) -> Candidate:
    widths = {"mid_part.1.weight[0]": 16, "mid_part.3.weight[0]": 16, "mid_part.5.weight[0]": 8}
    given = {"widths": widths, "criterion": "L1", "precision": "float", "teacher": False, "lr": 1.0, "thin_epoch": 0}
    return Candidate(**{**given, **changed})  # type: ignore[arg-type]


def test_equal_groups_are_one_glob() -> None:
    assert globbed(["a.1.w", "a.3.w"], ["a.1.w", "a.2.w", "a.3.w"]) == ["a.[13].w"]
    assert globbed(["a.1.w", "a.3.w"], ["a.1.w", "a.3.w", "b.w"]) == ["a.*.w"]
    assert globbed(["a.1.w", "b.3.w"], ["a.1.w", "b.3.w"]) == ["a.1.w", "b.3.w"]
    assert globbed(["a.w"], ["a.w"]) == ["a.w"]
    text = schedule_text(schedule_of(candidate(), GROUPS, 8, False, NAMES), [])
    assert "weights: ['mid_part.[13].weight']" in text
    assert "keep_50_percent: " in text
    assert "keep_25_percent: " in text
    text = schedule_text(schedule_of(candidate(criterion="second_order"), GROUPS, 8, False, NAMES), [])
    assert "sparsities: {'mid_part.[13].weight': 0.5, mid_part.5.weight: 0.75}" in text
    assert globbed(["a.1.w", "b.9.0.w", "a.3.w"], ["a.1.w", "a.2.w", "a.3.w", "b.9.0.w"]) == ["a.[13].w", "b.9.0.w"]


@pytest.mark.parametrize("criterion", ["second_order", "L2"])
def test_the_schedule_leaves_the_widths_that_were_decided(criterion: str) -> None:
    net = Net(2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    chosen = candidate(criterion=criterion)
    text = schedule_text(schedule_of(chosen, GROUPS, 8, False, NAMES, 1), ["A header."], [Goal("macs", at_most=9)])
    scheduler = build_text(text, "s.yaml", net, optimizer, example_inputs=X, epochs=8, strict=True)
    scheduler.on_epoch_begin(0, optimizer)
    for step in range(2):
        scheduler.on_minibatch_begin(0, step, 2, optimizer)
        net(X).sum().backward()
        scheduler.before_parameter_optimization(0, step, 2, optimizer)
    widths = {group.name: group.units for group in prunable_graph(net, X).groups()}
    assert {name: widths[name] for name in candidate().widths} == candidate().widths
    assert text.startswith("# A header.\n")
    assert scheduler.resolved["goals"] == [{"metric": "macs", "at_most": 9}]


@pytest.mark.parametrize(("precision", "teacher", "criterion"), [("float", True, "L2"), ("int8", True, "L1")])
def test_combinations_are_schedules_without_a_warning(precision: str, teacher: bool, criterion: str) -> None:
    chosen = candidate(precision=precision, teacher=teacher, criterion=criterion, thin_epoch=1)
    content = schedule_of(chosen, GROUPS, 8, False, NAMES)
    text = schedule_text(content, [])
    assert yaml.safe_load(text) == content
    net = Net(2)
    build_text(text, "s.yaml", net, torch.optim.SGD(net.parameters(), 0.1), example_inputs=X, epochs=8, strict=True)
    assert "KnowledgeDistillation" in schedule_text(schedule_of(chosen, GROUPS, 8, True, NAMES), [])


def test_the_steps_of_the_machine_are_written_and_change_no_width() -> None:
    steps = dict(zip((group.name for group in GROUPS), (8, 16, 16), strict=True))
    stepped = [replace(group, step=steps[group.name]) for group in GROUPS]
    content = schedule_of(candidate(), stepped, 8, False, NAMES)
    pruners = content["pruners"]
    assert pruners["keep_50_percent"]["round_to"] == 8  # of both groups
    assert pruners["keep_25_percent"]["round_to"] == 8  # 8 of 32 channels stay, though 16 cost the same elsewhere
    net = Net(2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    scheduler = build_text(schedule_text(content, []), "s.yaml", net, optimizer, example_inputs=X, epochs=8)
    scheduler.on_epoch_begin(0, optimizer)
    scheduler.on_minibatch_begin(0, 0, 1, optimizer)
    widths = {group.name: group.units for group in prunable_graph(net, X).groups()}
    assert {name: widths[name] for name in candidate().widths} == candidate().widths
    odd = candidate(widths={GROUPS[0].name: 20})
    assert schedule_of(odd, stepped[:1], 8, False, NAMES)["pruners"]["keep_62_percent"]["round_to"] == 4
    assert "round_to" not in schedule_of(odd, GROUPS[:1], 8, False, NAMES)["pruners"]["keep_62_percent"]


def test_int8_may_come_late_and_leave_layers_float() -> None:
    chosen = candidate(precision="int8", quantize="late", float_layers=("mid_part.9.0", "first_part.0"))
    net = Net(2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    text = schedule_text(schedule_of(chosen, GROUPS, 8, False, NAMES), [])
    scheduler = build_text(text, "s.yaml", net, optimizer, example_inputs=X, epochs=8, strict=True)
    quantized = [row.epoch for row in scheduler.preview(8).rows if row.bits]
    assert quantized == [6, 7]
    assert (chosen.settles(8), candidate(precision="int8").settles(8), candidate().settles(8)) == (6, 1, 0)
    assert yaml.safe_load(text)["quantizers"]["int8"]["overrides"] == {"mid_part.9.0": None, "first_part.0": None}


def test_int8_may_come_after_training_with_weights_of_4_bits() -> None:
    four = ("mid_part.1", "mid_part.3", "mid_part.5", "mid_part.7")
    chosen = candidate(
        precision="int8", quantize="after", ptq="corrected", four_bits=four, float_layers=("mid_part.5",)
    )
    content = schedule_of(chosen, GROUPS, 8, False, NAMES)
    assert content["quantize_after_training"] == "int8"
    assert content["quantizers"]["int8"] == {
        "class": "PostTrainLinearQuantizer", "bits_activations": 8, "bits_parameters": 8, "per_channel_wts": True,
        "clip_acts": "MSE", "also_clip_weights": True, "bias_correction": True,
        "overrides": {"mid_part.5": None, "mid_part.[137]": {"bits_weights": 4}},
    }  # fmt: skip
    assert not any("quantizer" in each for each in content["policies"])
    net = Net(2)
    text = schedule_text(content, [])
    build_text(text, "s.yaml", net, torch.optim.SGD(net.parameters(), 0.1), example_inputs=X, epochs=8, strict=True)
    trained = schedule_of(candidate(precision="int8", four_bits=four[:1]), GROUPS, 8, False, NAMES)
    assert trained["quantizers"]["int8"]["overrides"] == {"mid_part.1": {"bits_weights": 4}}
    build_text(schedule_text(trained, []), "s.yaml", net, torch.optim.SGD(net.parameters(), 0.1), example_inputs=X,
               epochs=8, strict=True)  # fmt: skip


def test_what_is_tried_first_is_what_optuna_then_proposes() -> None:
    """Knobs of int8 are parameters of int8 candidates only."""
    optuna = pytest.importorskip("optuna")
    choices = {"precision": ("float", "int8"), "criterion": ("L1",), "teacher": (False,), "lr": (1.0,),
               "thin_epoch": (0,), "quantize": ("early", "late", "after"), "ptq": ("ranges", "gptq"),
               "float_layers": (0, 2), "four_bits": (0.0, 0.5)}  # fmt: skip
    space = Space({"float": GROUPS, "int8": GROUPS}, choices, ["a", "b", "c"], ["c", "d"])
    for given in (
        candidate(),
        candidate(precision="int8", quantize="late", float_layers=("a", "b")),
        candidate(precision="int8", quantize="after", ptq="gptq", four_bits=("c",)),
    ):
        parameters = space.parameters(given)
        assert space.candidate(optuna.trial.FixedTrial(parameters)) == given
        assert ("quantize" in parameters) == (given.precision == "int8")
        assert ("ptq" in parameters) == (given.quantize == "after")

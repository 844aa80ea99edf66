"""Every fault of a schedule in one report: its place, what was given, what is allowed, the nearest name."""
# ruff: noqa: E501 - a case reads best on few lines

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.config import dict_config, file_config
from compress.config.build import build_text
from compress.errors import ScheduleError, UserError
from tests.compress.config.mutate import BOMB

GOOD = """\
version: 1
pruners:
  p:
    class: AutomatedGradualPruner
    initial_sparsity: 0.1
    final_sparsity: 0.5
    weights: [0.weight]
policies:
  - pruner: {instance_name: p}
    starting_epoch: 0
    ending_epoch: 4
    frequency: 1
"""
RANGE = "    starting_epoch: 0\n    ending_epoch: 4\n    frequency: 1"
LR = "policies:\n  - lr_scheduler: {instance_name: l}\n    starting_epoch: 0\n    ending_epoch: 4"


def build(net: nn.Module, tmp_path: Path, text: str, **settings: Any) -> Any:
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8")
    return file_config(net, torch.optim.SGD(net.parameters(), 0.1), path, **settings)


def test_the_good_schedule_is_good(net: nn.Module, tmp_path: Path) -> None:
    assert build(net, tmp_path, GOOD, strict=True, epochs=4).policies[0].name == "p"


def test_a_class_is_called_as_it_was_written(net: nn.Module, tmp_path: Path) -> None:
    text = "extensions:\n  t: {class: ResnetCifarFilterRemover, allow_inexcat: true}\npolicies:\n  - extension: {instance_name: t}\n    epochs: [0]\n"
    with pytest.raises(ScheduleError, match="ResnetCifarFilterRemover has no argument 'allow_inexcat'; did you mean"):
        build(net, tmp_path, text)


CASES = [
    ("class: AutomatedGradualPruner", "class: AutomatedGradualPrunner", r"s.yaml:4:5: pruners.p.class: unknown class "
     r"'AutomatedGradualPrunner' in pruners; did you mean 'AutomatedGradualPruner"),
    ("initial_sparsity", "initial_sparsty", "5:5: pruners.p.initial_sparsty: AutomatedGradualPruner has no argument "
     "'initial_sparsty'; did you mean 'initial_sparsity'"),
    ("    final_sparsity: 0.5\n", "", "3:3: pruners.p.final_sparsity: AutomatedGradualPruner needs the argument "
     "'final_sparsity': number, > 0, <= 1"),
    ("0.5", "'0.5'", "6:5: pruners.p.final_sparsity: given '0.5'; final_sparsity should be a number, > 0, <= 1 "
     r"\(it is text here: write 0.5 without quotes\)"),
    ("0.5", "1.5", "6:5: pruners.p.final_sparsity: given 1.5; final_sparsity should be a number, > 0, <= 1"),
    ("0.5", "0.05", "3:3: pruners.p: final_sparsity 0.05 must be above initial_sparsity 0.1"),
    ("[0.weight]", "[0.wieght]", r"7:15: pruners.p.weights\[0\]: '0.wieght' matches no weight of this model, so nothing "
     "would be done; did you mean '0.weight'"),
    ("[0.weight]", "['re:(']", "is not a regular expression"),
    ("[0.weight]", "[0.weight, null]", r"weights\[1\]: it is empty; weights\[1\] should be text"),
    ("pruners:", "prunners:", "2:1: prunners: unknown section 'prunners'; did you mean 'pruners'"),
    ("version: 1", "version: 2", "1:1: version: given 2; this bench reads version 1"),
    ("instance_name: p", "instance_name: q", r"9:14: policies\[0\].pruner.instance_name: pruners has no instance 'q'; "
     "there are: p"),
    ("instance_name: p", "instance: p", r"9:14: policies\[0\].pruner.instance: unknown key "
     "'instance' of a pruner; did you mean 'instance_name'"),
    ("{instance_name: p}", "{instance_name: p, arg: {}}", "unknown key 'arg' of a pruner; did you mean 'args'"),
    ("{instance_name: p}", "{instance_name: p, args: {keep_masks: true}}", "args has no argument 'keep_masks'; did you "
     "mean 'keep_mask'"),
    ("{instance_name: p}", "{instance_name: p, args: {mask_gradients: true}}", "needs mask_on_forward_only"),
    ("    frequency: 1", "    frequncy: 1", r"12:5: policies\[0\].frequncy: unknown policy key 'frequncy'; did you mean "
     "'frequency'"),
    ("    frequency: 1", "    epochs: [1]", "both epochs and starting_epoch, ending_epoch; give either"),
    ("ending_epoch: 4", "ending_epoch: 0", r"11:5: policies\[0\].ending_epoch: given 0; ending_epoch should be "
     "a whole number, >= 1"),
    ("    ending_epoch: 4\n", "", "ending_epoch missing: say when it acts"),
    ("starting_epoch: 0", "starting_epoch: zero", r"10:5: policies\[0\].starting_epoch: given 'zero'; starting_epoch "
     "should be a whole number, >= 0; epochs are counted from 0"),
    ("  - pruner: {instance_name: p}\n    starting_epoch", "  - starting_epoch", "this one names none"),
    ("ending_epoch: 4", "ending_epoch: -2", "given -2; ending_epoch should be a whole number, >= 1"),
    ("    frequency: 1", "    frequency: 0", "given 0; frequency should be a whole number, >= 1"),
    (RANGE, "    epochs: []", r"given \[\]; epochs should be a list of at least one whole number"),
    (RANGE, "    epochs: [3, -1]", r"10:17: policies\[0\].epochs\[1\]: given -1; epochs\[1\] should be a "
     "whole number, >= 0"),
    (RANGE, "    epochs: 3", r"given 3; epochs should be a list .* \(write \[3\]\)"),
    (RANGE, "    epochs: [1000000]", "given 1000000; .* should be at most 200000, the longest run"),
    ("ending_epoch: 4", "ending_epoch: 1000000000", "given 1000000000; ending_epoch should be at most "
     "200000, the longest run there is"),
    ("[0.weight]", "['nothing*']", r"weights\[0\]: 'nothing\*' matches no weight of this model, so nothing would be done; "
     "there are: 0.weight, 0.bias"),
    ("[0.weight]", "['re:nothing.*']", r"'re:nothing.\*' matches no weight of this model"),
    ("[0.weight]", "[]", "7:5: pruners.p.weights: given no weight at all, so nothing would be done"),
    ("[0.weight]", "{a: b}", "given {'a': 'b'}; weights should be a list of text"),
    ("0.5", "true", "given True; final_sparsity should be a number"),
    ("0.5", ".nan", "given nan; final_sparsity should be"),
    ("    class: AutomatedGradualPruner\n", "", r"an instance is written `p: \{class: CLASS"),
    ("class: AutomatedGradualPruner", "class: [x]", r"4:5: pruners.p.class: given \['x'\]; a class is named by text"),
    ("policies:", "policy:", "unknown section 'policy'; did you mean 'policies'"),
    ("policies:", f"lr_schedulers: {{l: {{class: LambdaLR}}}}\n{LR}", "lr_schedulers.l.class: LambdaLR is refused: its "
     "lr_lambda is a function"),
    ("policies:", f"lr_schedulers: {{l: {{class: ExponentialLR, gamma: 1.0e+308}}}}\n{LR}", r"policies\[0\].lr_scheduler: "
     "ExponentialLR sets a learning rate of inf after epoch 1"),
    ("policies:", f"lr_schedulers: {{l: {{class: OneCycleLR, max_lr: 1, total_steps: 1, cycle_momentum: false}}}}\n{LR}",
     "the cycle takes 1 epochs, and its policy goes on behind them; give total_steps"),
    ("policies:", "lr_schedulers: {l: {class: OneCycleLR, max_lr: 1, total_steps: 4, pct_start: 0.25, cycle_momentum: "
     f"false}}}}\n{LR}", "lr_schedulers.l: with these arguments it divides by zero: one of them, of steps or epochs"),
    ("{instance_name: p}", "{instance_name: p}\n    regularizer: {instance_name: p}", "this one names pruner and regularizer"),
    ("{instance_name: p}", "{instance_name: p, args: {levels: {0.weight: 0.5}}}", "takes no 'levels' in its policy"),
    ("0.5", "80", r"given 80; final_sparsity should be a number, > 0, <= 1 \(80 % is written 0.8\)"),
    ("0.5", "80%", r"given '80%'; .* \(80% is written 0.8\)"),
    ("0.5", "0,5", r"given '0,5'; .* \(write 0.5, with a point\)"),
    ("starting_epoch: 0", "starting_epoch: '0'", r"given '0'; starting_epoch .* write 0 without quotes"),
    ("ending_epoch: 4", "ending_epoch: 4.0", r"11:5: policies\[0\].ending_epoch: given 4.0; .* \(write 4\)"),
    ("ending_epoch: 4", "ending_epoch: true", r"given True; ending_epoch should be a whole number, >= 1"),
    ("starting_epoch: 0", "starting_epoch: 7", r"11:5: policies\[0\].ending_epoch: given 4; ending_epoch \(exclusive\) "
     "should be above starting_epoch, 7"),
    ("class: AutomatedGradualPruner", "class: StepLR", "4:5: pruners.p.class: StepLR is not a class of pruners: it belongs in "
     "lr_schedulers"),
    ("class: AutomatedGradualPruner", "class: AgpLevel", "it is a level, which is written in place of a number"),
    ("class: AutomatedGradualPruner", "class: CosineAnealingLR", "did you mean 'CosineAnnealingLR' of lr_schedulers"),
    ("class: AutomatedGradualPruner", "clas: AutomatedGradualPruner", r"the class is missing: .*\(is 'clas' meant for it\?\)"),
    ("[0.weight]", "[0.weight 2.weight]", "'0.weight 2.weight' matches no weight .*; it holds more than one name: in"),
    ("[0.weight]", "", "7:5: pruners.p.weights: it is empty; weights should be a list of text"),
    ("[0.weight]", "['5']", "'5' matches no weight of this model, .*; did you mean '5.weight'"),
    ("class: AutomatedGradualPruner", "class: AGP", "unknown class 'AGP' in pruners; did you mean 'AutomatedGradualPruner'"),
    ("class: AutomatedGradualPruner", "class: Zzz", "`python -m compress.config list` tells what each is for"),
    ("starting_epoch: 0", "start_epoch: 0", r"10:5: policies\[0\].start_epoch: unknown policy key 'start_epoch'; did you"),
    ("{instance_name: p}", "{instance_name: p, args: [keep_mask]}", r"given \['keep_mask'\], but args are written as"),
    ("pruner: {instance_name: p}", "pruner: p", r"9:5: policies\[0\].pruner: given 'p'; write `pruner: {instance_name: p}`"),
    ("pruner: {instance_name: p}", "pruner:\n    instance_name: p", "instance_name stands beside 'pruner'; indent it further"),
    ("{instance_name: p}", "{instance_name: p, frequency: 1}", "frequency stands inside of 'pruner'; they belong beside it"),
    ("pruner: {instance_name: p}", "prunner: {instance_name: p}", "unknown policy key 'prunner'; did you mean 'pruner'"),
    ("pruner: {instance_name: p}", "lr_scheduler: {instance_name: p}", "'p' is one of the pruners: write `pruner: "
     "{instance_name: p}`"),
    ("{instance_name: p}", "{instance_name: p, args: {keep_mask: 1}}", "given 1; keep_mask should be true or false"),
    ("policies:", "regularizers:\npolicies:", "the section is empty, but 'regularizers' holds instances"),
    ("policies:", "fine_tuning_epochs: -1\npolicies:", "whole number of epochs, 0 or more"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), CASES)
def test_one_fault_is_one_line(net: nn.Module, tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        build(net, tmp_path, GOOD.replace(old, new))
    assert len(caught.value.faults) == 1, caught.value


@pytest.mark.parametrize(("old", "new", "message"), CASES)
def test_faults_are_found_with_their_place(net: nn.Module, tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ScheduleError, match=message):
        build(net, tmp_path, GOOD.replace(old, new))


def lines(net: nn.Module, tmp_path: Path, text: str, **settings: Any) -> list[str]:
    """The lines of a report, the folder taken off."""
    with pytest.raises(ScheduleError) as caught:
        build(net, tmp_path, text, **settings)
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


def test_selectors_are_checked_beside_a_wrong_number(net: nn.Module, tmp_path: Path) -> None:
    _, number, selector = lines(net, tmp_path, GOOD.replace("0.5", "1.5").replace("[0.weight]", "[0.wieght, 2.weight]"))
    assert "6:5: pruners.p.final_sparsity: given 1.5" in number
    assert "7:15: pruners.p.weights[0]: '0.wieght' matches no weight" in selector


def test_selectors_are_checked_beside_a_wrong_entry_of_their_own_list_or_mapping(
    net: nn.Module, tmp_path: Path
) -> None:
    assert len(lines(net, tmp_path, GOOD.replace("[0.weight]", "[3, 0.wieght]"))) == 3
    pruner = "class: SparsityLevelParameterPruner\n    levels: {0.weight: 1.5, 2.wieght: 0.5}"
    start, end = GOOD.index("class:"), GOOD.index("policies:")
    _, level, name = lines(net, tmp_path, f"{GOOD[:start]}{pruner}\n{GOOD[end:]}")
    assert (
        "5:14: pruners.p.levels.0.weight: given 1.5; levels.0.weight should be a number, >= 0, <= 1 or class of"
        in level
    )
    assert "5:29: pruners.p.levels.2.wieght: '2.wieght' matches no weight" in name


def test_the_constructor_and_the_policy_are_checked_beside_a_wrong_selector(net: nn.Module, tmp_path: Path) -> None:
    text = (
        GOOD.replace("0.5", "0.05")
        .replace("[0.weight]", "[0.wieght, 2.weight]")
        .replace("frequency: 1", "frequency: 9")
    )
    report = "\n".join(lines(net, tmp_path, text))
    assert "2 faults and 1 warning" in report
    assert "final_sparsity 0.05 must be above initial_sparsity 0.1" in report
    text = GOOD.replace("[0.weight]", "[0.wieght, 2.weight]").replace("{instance_name: p}", "{instance_name: p, args: "
                                                                       "{mask_gradients: true}}")  # fmt: skip
    assert "needs mask_on_forward_only" in "\n".join(lines(net, tmp_path, text))


def test_a_misspelt_section_or_class_is_read_on(net: nn.Module, tmp_path: Path) -> None:
    text = GOOD.replace("pruners:", "prunners:").replace("0.5", "1.5")
    _, section, number = lines(net, tmp_path, text)
    assert "2:1: prunners: unknown section 'prunners'; did you mean 'pruners'?" in section
    assert "6:5: pruners.p.final_sparsity: given 1.5" in number
    assert len(lines(net, tmp_path, GOOD.replace("GradualPruner", "GradualPrunner").replace("0.5", "1.5"))) == 3


def test_an_instance_in_the_wrong_section_is_one_fault(net: nn.Module, tmp_path: Path) -> None:
    text = GOOD.replace("policies:", "  l: {class: StepLR, step_size: 2}\npolicies:\n  - lr_scheduler: {instance_name: l}\n"
                        "    epochs: [0]")  # fmt: skip
    _, fault = lines(net, tmp_path, text)
    assert "8:7: pruners.l.class: StepLR is not a class of pruners: it belongs in lr_schedulers" in fault


def test_a_level_in_place_is_one_fault_and_names_what_it_may_be(net: nn.Module, tmp_path: Path) -> None:
    pruner = "class: SparsityLevelParameterPruner\n    levels: {0.weight: LEVEL}"
    text = f"{GOOD[: GOOD.index('class:')]}{pruner}\n{GOOD[GOOD.index('policies:') :]}"
    for given, message in {
        "half": "given 'half'; levels.0.weight should be a number, >= 0, <= 1 or class of levels in place",
        "1.5": "given 1.5; levels.0.weight should be",
        "{class: LinearLevel, initial_sparsity: 0, final_sparsity: 7}": "levels.0.weight.final_sparsity: given 7; final_sp",
        "{class: LinearLevl}": "levels.0.weight.class: unknown class 'LinearLevl' in levels; did you mean 'LinearLevel'",
        "{initial_sparsity: 1}": "levels.0.weight.class: the class is missing; there are: AgpLevel",
    }.items():
        _, fault = lines(net, tmp_path, text.replace("LEVEL", given))
        assert message in fault


def test_warnings_are_counted_as_warnings(net: nn.Module, tmp_path: Path) -> None:
    unused = "  q: {class: SparsityLevelParameterPruner, levels: {'*': 0.1}}\npolicies:"
    text = GOOD.replace("policies:", unused)
    title, *_ = lines(net, tmp_path, text.replace("0.5", "1.5"))
    assert title == "the schedule has 1 fault and 1 warning; nothing was started:"
    title, *_ = lines(net, tmp_path, text, strict=True)
    assert title == "the schedule has 1 warning, which strict makes errors; nothing was started:"


def test_an_empty_list_of_policies_is_a_warning(net: nn.Module, tmp_path: Path) -> None:
    _, warning = lines(net, tmp_path, "policies: []", strict=True)
    assert warning == "  s.yaml:1:1: policies: warning: the list is empty, so nothing of this schedule ever acts"


def test_all_faults_come_in_one_report(net: nn.Module, tmp_path: Path) -> None:
    text = GOOD.replace("0.5", "1.5").replace("[0.weight]", "[3]").replace("frequency: 1", "frequency: 9")
    with pytest.raises(ScheduleError) as caught:
        build(net, tmp_path, text)
    assert len(caught.value.faults) == 3
    assert [fault.where.split(":")[-2] for fault in caught.value.faults] == ["6", "7", "12"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "s.yaml:1:5: the file ends inside"),
        ("!!python/object/apply:os.system ['true']", "would make an object"),
        ("pruners: !!python/name:os.system x", "would make an object"),
        ("&a [*a]", "an alias contains itself"),
        (BOMB, "more than 40 levels or 200,000 values, or an alias contains itself"),
        ("[" * 50 + "]" * 50, "more than 40 levels"),
        ("a: 1" + "0" * 5000, "this is not plain YAML: Exceeds the limit"),
        ("{1: a, true: b}", "holds|unknown section"),
        ("? [a, b]\n: 1", "a key must be plain text"),
        ("", "the schedule is empty"),
        ("- 1", "holds list"),
        ("a: 1\n---\nb: 2", "a second document begins here"),
        ("policies: 3", "holds a list of policies"),
        ("policies: [3]", "a policy is a mapping"),
        ("pruners: {p: 3}\npolicies: []", "an instance is written"),
        ("pruners: [p]\npolicies: []", "holds instances"),
        ("version: 1", "no section 'policies'"),
    ],
)
def test_what_is_no_schedule_is_refused(net: nn.Module, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        build(net, tmp_path, text)


WARNINGS = [
    ("policies:", "  q: {class: SparsityLevelParameterPruner, levels: {'*': 0.1}}\npolicies:", "no policy uses 'q'"),
    ("    final_sparsity: 0.5", "    final_sparsity: 0.4\n    final_sparsity: 0.5", "7:5: .*key 'final_sparsity' stands "
     r"twice \(first in line 6, which is lost\)"),
    ("policies:", "policies:\n  - pruner: {instance_name: p}\n    epochs: [2]", "'p' prunes '0.weight' in epoch 2 too"),
    ("    frequency: 1", "    frequency: 9", r"12:5: policies\[0\].frequency: warning: given 9, but the range has 4 epochs, so "
     "it acts once, in epoch 0"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), WARNINGS)
def test_warnings_are_logged_and_are_errors_if_strict(
    net: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture, old: str, new: str, message: str
) -> None:
    text = GOOD.replace(old, new)
    build(net, tmp_path, text)
    assert len(caplog.records) == 1
    with pytest.raises(ScheduleError, match=message):
        build(net, tmp_path, text, strict=True)


@pytest.mark.parametrize(
    ("selector", "message"),
    [("re:(", "is not a regular expression"), ("2.weight", "'2.weight' is none of the weights that 'p' prunes")],
)
def test_levels_of_a_policy_are_checked_too(net: nn.Module, selector: str, message: str) -> None:
    schedule = {
        "pruners": {"p": {"class": "SparsityLevelParameterPruner", "levels": {"0.weight": 0.5}}},
        "policies": [{"pruner": {"instance_name": "p", "args": {"levels": {selector: 0.5}}}, "epochs": [0]}],
    }
    with pytest.raises(ScheduleError, match=message):
        dict_config(net, torch.optim.SGD(net.parameters(), 0.1), schedule)


def test_module_is_ignored_anywhere(net: nn.Module, tmp_path: Path) -> None:
    for name in ("module.0.weight", "0.module.weight", "_orig_mod.module.0.weight", "module.0.w*"):
        assert build(net, tmp_path, GOOD.replace("[0.weight]", f"[{name}]")).scheduled_weights == ["0.weight"]
    for wrapped in (nn.DataParallel(net), torch.compile(net)):  # nothing is compiled before the first call
        assert build(wrapped, tmp_path, GOOD).scheduled_weights == ["0.weight"]


def test_a_value_that_is_huge_is_cut_in_the_report(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ScheduleError, match=r"given '?x+\.\.\.x+'?;") as caught:
        build(net, tmp_path, GOOD.replace("0.5", "x" * 50_000))
    assert len(str(caught.value)) < 400


def test_a_policy_outside_the_run_is_a_warning(net: nn.Module, tmp_path: Path) -> None:
    text = GOOD.replace("starting_epoch: 0", "starting_epoch: 2")
    with pytest.raises(ScheduleError, match="'p' never acts: the run ends after epoch 1, it starts in epochs 2..3"):
        build(net, tmp_path, text, strict=True, epochs=2)


def test_a_missing_file_is_one_clear_error(net: nn.Module) -> None:
    with pytest.raises(UserError, match=r"'none.yaml' cannot be read"):
        file_config(net, torch.optim.SGD(net.parameters(), 0.1), "none.yaml")


def test_numbers_like_1e_4_are_numbers(net: nn.Module, tmp_path: Path) -> None:
    scheduler = build(net, tmp_path, GOOD.replace("initial_sparsity: 0.1", "initial_sparsity: 1e-1"))
    assert scheduler.resolved["pruners"]["p"]["initial_sparsity"] == 0.1


def test_a_dict_is_left_as_it_was_and_can_be_used_twice(net: nn.Module) -> None:
    schedule = {
        "pruners": {"p": {"class": "SparsityLevelParameterPruner", "levels": {"*.weight": 0.5}}},
        "policies": [{"pruner": {"instance_name": "p"}, "epochs": [0]}],
    }
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    first = dict_config(net, optimizer, schedule).resolved
    assert dict_config(net, optimizer, schedule).resolved == first
    assert schedule["pruners"]["p"]["class"] == "SparsityLevelParameterPruner"
    assert first["pruners"]["p"]["levels"] == {"0.weight": 0.5, "2.weight": 0.5, "5.weight": 0.5}


def test_the_resolved_schedule_builds_the_same_scheduler(net: nn.Module) -> None:
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    schedule = {
        "pruners": {"p": {"class": "AutomatedGradualPruner", "initial_sparsity": 0, "final_sparsity": 0.5, "weights": "*.weight"}},
        "policies": [{"pruner": {"instance_name": "p"}, "starting_epoch": 0, "ending_epoch": 3}],
        "fine_tuning_epochs": 2,
    }  # fmt: skip
    once = dict_config(net, optimizer, schedule)
    twice = dict_config(net, optimizer, once.resolved)
    assert once.resolved == twice.resolved
    assert once.preview() == twice.preview()
    assert twice.suggested_epochs == 5


def test_thousands_of_wrong_values_are_told_soon_and_in_few_lines(net: nn.Module) -> None:
    text = (
        "pruners:\n  p: {class: NMPruner, weights: [" + ", ".join(map(str, range(5000))) + "]}\n"
        "policies:\n  - pruner: {instance_name: p}\n    epochs: [0]\n"
    )
    with pytest.raises(ScheduleError, match=r"4980 more values are wrong, the last of them weights\[4999\]") as refused:
        build_text(text, "many.yaml", net, torch.optim.SGD(net.parameters(), 0.1))
    assert len(str(refused.value).splitlines()) < 30


def test_a_file_that_is_far_too_long_is_refused_unread(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.config.loader._read_nodes", lambda *_: pytest.fail("it is parsed"))
    with pytest.raises(ScheduleError, match="it has 10,000,000 characters; a schedule has at most 1,000,000"):
        build_text("- a\n" * 2_500_000, "long.yaml", net, torch.optim.SGD(net.parameters(), 0.1))


@pytest.mark.parametrize("number", ["0" + "1" * 5000, "0x" + "f" * 5000, "1" + "0" * 400])
def test_a_number_that_python_will_not_write_is_a_fault(net: nn.Module, number: str) -> None:
    text = GOOD.replace("starting_epoch: 0", f"starting_epoch: {number}")
    with pytest.raises(ScheduleError, match=r"large.yaml:10:21: .*a whole number far too large") as refused:
        build_text(text, "large.yaml", net, torch.optim.SGD(net.parameters(), 0.1))
    assert len(str(refused.value)) < 1000

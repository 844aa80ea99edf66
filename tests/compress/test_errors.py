"""Errors for people: nearest names, one report."""

from compress.errors import Fault, ScheduleError, did_you_mean, nearest


def test_nearest_ignores_case_and_orders_by_likeness() -> None:
    assert nearest("adamw", ["SGD", "AdamW", "Adam"])[0] == "AdamW"


def test_nearest_puts_the_name_with_words_behind_it_first() -> None:
    known = ["preact_resnet20_cifar", "resnet", "resnet20", "resnet200", "Resnet20_Cifa"]
    assert nearest("resnet20_cifar", known) == ["resnet20", "Resnet20_Cifa", "preact_resnet20_cifar"]


def test_did_you_mean_gives_the_nearest_name() -> None:
    assert did_you_mean("mid.1.wieght", ["mid.1.weight", "tail.bias"]) == "did you mean 'mid.1.weight'?"


def test_did_you_mean_lists_everything_when_nothing_is_near() -> None:
    assert did_you_mean("zzz", ["alpha", "beta"]) == "there are: alpha, beta"
    assert did_you_mean("zzz", []) == "there are none"
    assert did_you_mean("zzz", [f"name{i}" for i in range(14)]).endswith("and 2 more")


def test_a_report_names_every_fault_with_its_place() -> None:
    error = ScheduleError([Fault("too large", "a.yaml:3:1", "pruners.p.x"), Fault("unused", fatal=False)])
    assert "1 fault and 1 warning" in str(error)
    assert "a.yaml:3:1: pruners.p.x: too large" in str(error)
    assert "warning: unused" in str(error)


def test_a_parameter_of_a_parametrization_goes_by_what_it_makes() -> None:
    known = ["tail.weight", "conv.bias", *(f"conv.parametrizations.weight.original{number}" for number in (0, 1))]
    assert nearest("conv.wieght", known, 2) == known[:1:-1]

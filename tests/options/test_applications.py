"""The table of applications: every part of each is there."""

import pytest

from compress.errors import UserError
from options.applications import APPLICATIONS

PARTS = ("train_options", "test_options", "training_loaders", "testing_loader", "trainer", "tester", "network")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", APPLICATIONS)
def test_every_part_of_every_application_is_there(name: str, part: str) -> None:
    assert callable(APPLICATIONS[name].load(part))


@pytest.mark.parametrize("name", APPLICATIONS)
def test_the_named_networks_are_those_of_the_zoo(name: str) -> None:
    application = APPLICATIONS[name]
    zoo, named = application.load("architectures"), application.named
    assert named is not None
    assert named.names.split() == list(zoo.architectures)
    assert named.libraries == tuple(zoo.libraries)


def test_a_mistyped_network_is_refused_as_the_options_are_read() -> None:
    options = APPLICATIONS["Classify"].load("train_options")()
    with pytest.raises(UserError, match="--arch=resnet21: unknown architecture; did you mean .*'resnet20'.*timm:NAME"):
        options.parse(["--arch=resnet21"])
    with pytest.raises(UserError, match="arguments of its constructor go into --arch-args"):
        options.parse(["--arch=resnet20(width=32)"])
    assert options.parse(["--arch=timm:resnet21"]).arch == "timm:resnet21"  # timm knows it or not

"""The table of applications: every part of each is there."""

import pytest

from options.applications import APPLICATIONS

PARTS = ("train_options", "test_options", "training_loaders", "testing_loader", "trainer", "tester", "network")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", APPLICATIONS)
def test_every_part_of_every_application_is_there(name: str, part: str) -> None:
    assert callable(APPLICATIONS[name].load(part))

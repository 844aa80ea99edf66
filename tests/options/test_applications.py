"""The table of applications, and what else must know each of them."""

from engine.saved.load_model import BUILDERS
from options.applications import APPLICATIONS
from tests.options.test_rules import OWN
from tests.test_torchrun import SMALL


def test_every_application_is_known_wherever_it_must_be() -> None:
    assert set(BUILDERS) == set(APPLICATIONS)
    assert set(SMALL) == set(APPLICATIONS)
    assert {name for name, _ in OWN} <= set(APPLICATIONS)


def test_every_part_of_every_application_is_there() -> None:
    parts = ("train_options", "test_options", "training_loaders", "testing_loader", "trainer", "tester")
    for application in APPLICATIONS.values():
        assert all(callable(application.load(part)) for part in parts)

"""Which command and application an option belongs to."""

import dataclasses

import pytest

from options.applications import APPLICATIONS
from options.option import dashed
from options.whose import belongs_to


@pytest.mark.parametrize(("option", "owners"), [
    ("--diagnose", "test.py"), ("--compress", "train.py"), ("--goals", "search.py"), ("--arch-args", "train.py"),
    ("--arch", "train.py and test.py and search.py"),
    ("--resume", "train.py and search.py"), ("--no-such-thing", ""),
])  # fmt: skip
def test_an_option_is_attributed(option: str, owners: str) -> None:
    assert belongs_to(option) == owners


def test_an_option_of_some_applications_names_them() -> None:
    fields = {
        name: {f"--{dashed(each.name)}" for each in dataclasses.fields(app.load("train_options").config)}
        for name, app in APPLICATIONS.items()
    }
    own = sorted(fields["SR"] - set.union(*(each for name, each in fields.items() if name != "SR")))
    assert own
    assert all(belongs_to(each).startswith("train.py --optform=SR") for each in own)

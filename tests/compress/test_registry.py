"""The registry: exact look-up, no silent replacement."""

import pytest

from compress.errors import UserError
from compress.registry import Registry


def test_a_class_is_found_by_its_name_and_its_alias() -> None:
    registry = Registry("pruners")

    @registry.alias("Old")
    @registry.register
    class New: ...

    assert registry.get("New") is registry.get("Old") is New
    assert list(registry) == ["New", "Old"]


def test_a_taken_name_raises() -> None:
    registry = Registry("pruners")
    registry.register(int, "Same")
    with pytest.raises(ValueError, match="'Same' is registered twice"):
        registry.register(str, "Same")


def test_an_unknown_name_gives_the_nearest() -> None:
    registry = Registry("pruners")
    registry.register(int, "MagnitudePruner")
    with pytest.raises(UserError, match="no class 'MagnitudPruner' in pruners; did you mean 'MagnitudePruner'"):
        registry.get("MagnitudPruner")

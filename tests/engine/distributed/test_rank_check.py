"""What differs between processes is named."""

import pytest
import torch

from compress.errors import UserError
from engine.distributed import rank_check
from engine.distributed.rank_check import check_ranks


def with_others(monkeypatch: pytest.MonkeyPatch, *others: object) -> None:
    """Stands in for the other processes: what each of them would send for the same call."""
    found: list[dict[str, str]] = [
        {name: rank_check._hash(value) for name, value in rank_check._leaves(other)} for other in others
    ]

    def sent(value: object) -> list[object]:
        if isinstance(value, dict):
            return [value, *found]
        return [value, *("another" for _ in found)]

    monkeypatch.setattr(rank_check, "several_processes", lambda: True)
    monkeypatch.setattr(rank_check, "of_every_process", sent)


def test_one_process_is_like_itself() -> None:
    check_ranks({"a": torch.ones(2)}, "now")


def test_a_tensor_a_type_a_number_and_a_missing_one_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"model": {"w": torch.ones(2), "b": torch.zeros(1)}, "steps": [1, 2]}
    second = {"model": {"w": torch.tensor([1.0, 1.5]), "b": torch.zeros(1)}, "steps": [1, 3]}
    third = {"model": {"w": torch.ones(2), "b": torch.zeros(1).double()}, "steps": [1, 2], "more": None}
    with_others(monkeypatch, second, third)
    with pytest.raises(UserError) as told:
        check_ranks(own, "after epoch 3")
    for named in ("after epoch 3", "model.w (ranks 1)", "model.b (ranks 2)", "steps.1 (ranks 1)", "more (ranks 2)"):
        assert named in str(told.value)

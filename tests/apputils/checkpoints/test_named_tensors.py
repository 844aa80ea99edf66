"""Where in a file the weights are: the usual keys, nested once; several that differ; a choice by key and by name."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from apputils.checkpoints.file import Damaged, load_weights, main
from apputils.checkpoints.named_tensors import STATE_KEYS, chosen, named_tensors, stripped
from compress.errors import UserError

STATE = {"a.weight": torch.ones(2), "a.bias": torch.zeros(2)}
OTHER = {name: tensor + 1 for name, tensor in STATE.items()}
PATH = Path("x.pt")


@pytest.mark.parametrize("key", [*STATE_KEYS, "model.state_dict", "ema.module"])
def test_the_usual_keys_nested_once(key: str) -> None:
    content: Any = STATE
    for part in reversed(key.split(".")):
        content = {"epoch": 3, part: content, "optimizer": {"state": {}}}
    assert named_tensors(content, PATH).keys() == STATE.keys()


@pytest.mark.parametrize(
    ("content", "keys", "other"),
    [
        ({"state_dict": STATE, "state_dict_ema": OTHER}, "state_dict, state_dict_ema", "state_dict_ema"),
        ({"params_ema": STATE, "params": OTHER}, "params, params_ema", "params_ema"),
        ({"model": {"state_dict": STATE}, "ema": OTHER}, "model.state_dict, ema", "ema"),
        ({"net": STATE, "network": {"b": torch.ones(3)}}, "net, network", "network"),
        ({"model": STATE, "ema": {name: tensor.half() for name, tensor in STATE.items()}}, "model, ema", "ema"),
    ],
)
def test_several_that_differ_are_refused(content: Any, keys: str, other: str) -> None:
    with pytest.raises(UserError, match=rf"under {keys}, and they differ; nothing was loaded.* x.pt .*={other},"):
        named_tensors(content, PATH)
    assert named_tensors({"model": STATE, "ema": dict(STATE), "net": {"layers": 3}}, PATH).keys() == STATE.keys()


def test_a_key_chooses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": STATE, "state_dict_ema": OTHER, "mine": {"deep": OTHER}}, tmp_path / "a.pt")
    for key in ("state_dict_ema", "mine.deep"):
        assert main(["weights", str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), f"--key={key}"]) == 0
        assert torch.equal(load_weights(tmp_path / "b.pt")["a.weight"], OTHER["a.weight"])
    assert main(["weights", str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), "--key=mine.none"]) == 2
    assert "has nothing under mine.none; its keys are deep" in capsys.readouterr().err
    with pytest.raises(UserError, match="holds no named tensors under mine; its keys are deep"):
        load_weights(tmp_path / "a.pt", "mine")
    with pytest.raises(UserError, match="holds no named tensors; its keys are state. .*--key=KEY"):
        named_tensors({"state": {"state_dict": STATE}}, PATH)
    assert main(["import", str(tmp_path / "a.pt"), "--trust-pickle", "--key=state_dict"]) == 0
    assert torch.equal(load_weights(tmp_path / "a.weights.pt")["a.weight"], STATE["a.weight"])


def test_names_choose(tmp_path: Path) -> None:
    both = STATE | {f"module.{name}": tensor for name, tensor in OTHER.items()}
    torch.save(both, tmp_path / "a.pt")
    for words, wanted in ((["--only=module.*"], OTHER), (["--without=module.*"], STATE)):
        assert main(["weights", str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), *words]) == 0
        found = load_weights(tmp_path / "b.pt")
        assert found.keys() == wanted.keys()
        assert torch.equal(found["a.weight"], wanted["a.weight"])
    with pytest.raises(UserError, match=r"'ema.\*' matches none of the 4 names \(a.weight"):
        chosen(both, ["ema.*"], [])
    with pytest.raises(UserError, match="none of the 4 tensors is left"):
        chosen(both, ["a.*"], ["*"])


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    (tmp_path / "a.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    with pytest.raises(UserError, match="needs the package safetensors: pip install safetensors") as found:
        load_weights(tmp_path / "a.safetensors")
    assert not isinstance(found.value, Damaged)


def test_a_prefix_is_taken_off_the_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"n": 3, **{f"net.{name}": tensor for name, tensor in STATE.items()}}, tmp_path / "a.pt")
    assert main(["weights", str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), "--strip=net."]) == 0
    assert load_weights(tmp_path / "b.pt").keys() == STATE.keys()
    assert main(["weights", str(tmp_path / "a.pt"), str(tmp_path / "c.pt"), "--strip=body."]) == 2
    assert "names begins with 'body.' (net.a.weight" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"two tensors are called a.weight; leave one out"):
        stripped({"a.weight": torch.zeros(1), "net.a.weight": torch.ones(1)}, "net.")

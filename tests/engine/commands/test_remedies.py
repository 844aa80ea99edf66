"""A diagnosis's remedies in the run's schedule: what its settings can say, and nothing else."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from compress.analysis.diagnosis.suspects import Suspect
from compress.config import file_config
from compress.errors import UserError
from engine.commands.remedies import remedied, write_remedied

WIDE = Suspect("0", "one scale", "per_channel_wts: true, or equalization: true", 20.0, {"0": {"bits_weights": 8}})
COARSE = Suspect("2", "too coarse", "more bits", 12.0, {"2": {"bits_activations": 8}})
WORDS = Suspect("0", "it computes something else", "look for a BatchNorm", 30.0)


def schedule(**settings: object) -> dict[str, object]:
    quantizer = {"class": "QuantAwareTrainRangeLinearQuantizer", "bits_weights": 8, "bits_activations": 4, **settings}
    policy = {"quantizer": {"instance_name": "q"}, "epochs": [0]}
    return {"version": 1, "quantizers": {"q": quantizer}, "policies": [policy]}


def test_the_schedule_that_is_written_is_one(tmp_path: Path) -> None:
    path, net = tmp_path / "new.yaml", nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1))
    given = schedule(overrides={"2": {"bits_weights": 6}})
    changes = write_remedied(path, given, [WIDE, COARSE], "r")
    assert changes == ["q: per_channel_wts: true", "q: 2: bits_activations: 8"]  # 0 has 8 bits already
    assert "# The schedule of the run r with what --diagnose recommends:\n#   q: per" in path.read_text()
    found = yaml.safe_load(path.read_text())["quantizers"]["q"]
    assert found["overrides"] == {"2": {"bits_weights": 6, "bits_activations": 8}}
    assert found["per_channel_wts"] is True
    assert given == schedule(overrides={"2": {"bits_weights": 6}})
    file_config(net, torch.optim.SGD(net.parameters(), 0.1), path, example_inputs=torch.rand(1, 1, 2, 2), epochs=1)


def test_what_cannot_be_written_is_left(tmp_path: Path) -> None:
    assert remedied(schedule(per_channel_wts=True), [WORDS])[1] == []
    assert remedied({}, [WIDE])[1] == []  # quantized after training
    assert write_remedied(tmp_path / "a.yaml", {}, [WIDE], "r") == []
    assert not (tmp_path / "a.yaml").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--write-schedule=.*file/a.yaml cannot be written"):
        write_remedied(tmp_path / "file" / "a.yaml", schedule(), [WIDE], "r")

"""`quantize_after_training`: faults, and the quantizer of a schedule that was checked."""

import logging
from typing import Any

import pytest
import torch
from torch import nn

from compress.config.build import build_text, dict_config
from compress.config.checks.after_training import quantizer_after_training
from compress.errors import ScheduleError

PTQ = "{class: PostTrainLinearQuantizer, per_channel_wts: true, overrides: {'2': null}}"
QAT = "{class: QuantAwareTrainRangeLinearQuantizer, bits_activations: 8, bits_weights: 8}"
AT = "starting_epoch: 0, ending_epoch: 2, frequency: 1"


def built(text: str, **more: Any) -> Any:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    return build_text(text, "s.yaml", net, torch.optim.SGD(net.parameters(), 0.1), torch.rand(1, 4), 2, **more)


def test_a_schedule_may_quantize_after_training_and_do_nothing_else() -> None:
    scheduler = built(f"quantizers: {{ptq: {PTQ}}}\npolicies: []\nquantize_after_training: ptq\n", strict=True)
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    again = dict_config(net, torch.optim.SGD(net.parameters(), 0.1), scheduler.resolved, torch.rand(1, 4), 2)
    quantizer = quantizer_after_training(again.resolved, torch.rand(1, 4))
    assert quantizer is not None
    quantized = quantizer.quantize(net.eval(), [torch.rand(8, 4)])
    assert "2" in quantizer.left_float
    assert "0" not in quantizer.left_float
    assert not torch.equal(quantized(torch.rand(8, 4)), net(torch.rand(8, 4)))
    assert quantizer_after_training({"policies": []}, None) is None


def test_a_loop_of_ones_own_is_told_that_it_must_quantize_itself(caplog: pytest.LogCaptureFixture) -> None:
    text = f"quantizers: {{ptq: {PTQ}}}\npolicies: []\nquantize_after_training: ptq\n"
    built(text, metrics=["psnr"])
    assert not caplog.records
    built(text)
    assert "must itself quantize the network when training ends" in caplog.text


@pytest.mark.parametrize(("rest", "message"), [
    ("quantize_after_training: pqt\n", "s.yaml:3:1: quantize_after_training: "
     "there is no quantizer 'pqt'; did you mean 'ptq'?; it names"),
    ("quantize_after_training: qat\n", "'qat' is a QuantAwareTrainRangeLinearQuantizer, which quantizes in training"),
    ("quantize_after_training: [ptq]\n", "holds the name of an instance of `quantizers`"),
    ("quantize_after_trainin: ptq\n", "did you mean 'quantize_after_training'"),
])  # fmt: skip
def test_names_that_are_wrong(rest: str, message: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        built(f"quantizers: {{ptq: {PTQ}, qat: {QAT}}}\npolicies: []\n{rest}")
    assert message in str(caught.value)


def test_a_network_is_quantized_once() -> None:
    text = f"quantizers: {{ptq: {PTQ}, qat: {QAT}}}\npolicies:\n  - {{quantizer: {{instance_name: NAME}}, {AT}}}\n"
    with pytest.raises(ScheduleError, match="'qat' quantizes the network in training, and quantize_after_training"):
        built(text.replace("NAME", "qat") + "quantize_after_training: ptq\n")
    with pytest.raises(ScheduleError, match="or leave the policy out and write `quantize_after_training: ptq`"):
        built(text.replace("NAME", "ptq"))


def test_an_instance_that_is_not_named_never_acts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    built(f"quantizers: {{ptq: {PTQ}, other: {PTQ}}}\npolicies: []\nquantize_after_training: ptq\n")
    built(f"quantizers: {{ptq: {PTQ}}}\npolicies: [{{lr_scheduler: {{instance_name: a}}, {AT}}}]\n"
          "lr_schedulers: {a: {class: CosineAnnealingLR, T_max: 2}}\n")  # fmt: skip
    assert "no policy uses 'ptq'" in caplog.text

"""Post-training files in the forms that Distiller published: taken, or each key refused by name with its place."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.config.post_training import load_post_training
from compress.errors import ScheduleError

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """Convolutions, a ReLU, a pooling, a classifier, under the names that the published files use."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
        self.maxpool, self.conv2, self.relu2 = nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()
        self.fc = nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.relu2(self.conv2(self.maxpool(self.relu(self.conv1(x))))).flatten(1))


def load(folder: Path, text: str) -> Any:
    (folder / "ptq.yaml").write_text(text)
    return load_post_training(Block(), folder / "ptq.yaml", X)


HEAD = "quantizers:\n  ptq:\n    class: PostTrainLinearQuantizer\n    bits_activations: 8\n    bits_parameters: 8\n"


def test_inputs_of_layers(tmp_path: Path) -> None:
    """The form of resnet18_imagenet_post_train_input_overrides.yaml: no policies, `clip_acts: None`."""
    text = HEAD + (
        "    bits_accum: 32\n    mode: ASYMMETRIC_UNSIGNED\n    per_channel_wts: True\n    clip_acts: AVG\n"
        "    inputs_quant_auto_fallback: False\n    overrides:\n      conv1:\n        input_overrides:\n          0:\n"
        "            from_output: True\n      fc:\n        clip_acts: None\n        input_overrides:\n          0:\n"
        "            clip_acts: AVG\n            bits_activations: 6\n            mode: SYMMETRIC\n"
        "      conv2:\n        clip_acts: None\n        input_quantization_settings:\n"
        "          0: {bits_activations: 7}\n"
    )
    quantizer = load(tmp_path, text)
    assert quantizer._clipping("conv2").method == "NONE"
    assert quantizer._clipping("fc").method == "AVG"
    net = quantizer.quantize(Block().eval(), [X])
    assert quantizer.bits_table() == {"conv1": "W8 A8", "relu": "A8", "conv2": "W8", "relu2": "A8", "fc": "W8"}
    assert net.fc.weight_quantizer.mode == "ASYMMETRIC_UNSIGNED"
    assert net.conv1.weight_quantizer.axis == 0


def test_settings_of_one_layer(tmp_path: Path) -> None:
    text = HEAD + (
        "    overrides:\n      conv1: {mode: ASYMMETRIC_SIGNED, per_channel_wts: true}\n"
        "      fc: {clip_acts: N_STD, clip_n_stds: 2.0, bits_bias: 32}\n"
    )
    quantizer = load(tmp_path, text)
    assert quantizer._clipping("fc").n_stds == 2.0
    net = quantizer.quantize(Block().eval(), [X])
    assert net.conv1.weight_quantizer.mode == net.conv1.input_quantizer.mode == "ASYMMETRIC_SIGNED"
    assert net.conv1.weight_quantizer.step.shape == (4,)
    assert net.conv2.weight_quantizer.mode == "SYMMETRIC"
    assert net.conv2.weight_quantizer.step.shape == ()


def test_nothing_but_what_overrides_name(tmp_path: Path) -> None:
    """The form of resnet18_imagenet_post_train_lapq.yaml."""
    text = (
        "quantizers:\n  q:\n    class: PostTrainLinearQuantizer\n    bits_activations: null\n"
        "    bits_parameters: null\n"
        "    bits_accum: 32\n    mode:\n      activations: ASYMMETRIC_UNSIGNED\n      weights: SYMMETRIC\n"
        "    inputs_quant_auto_fallback: True\n    overrides:\n      conv.*:\n        bits_activations: null\n"
        "        bits_weights: 4\n      relu.*:\n        bits_activations: 4\n        quantize_inputs: False\n"
    )
    quantizer = load(tmp_path, text)
    quantizer.quantize(Block().eval(), [X])
    assert quantizer.bits_table() == {"conv1": "W4", "relu": "A4", "conv2": "W4", "relu2": "A4"}


def test_what_the_greedy_search_writes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The form of resnet50.final_quantizer_sched_dict.yaml: no class, every key written out."""
    text = (
        "quantizers:\n  post_train_quantizer:\n    bits_activations: null\n    scale_approx_mult_bits: null\n"
        "    bits_parameters: null\n    clip_acts: NONE\n    clip_n_stds: null\n    bits_accum: 32\n"
        "    mode: ASYMMETRIC_SIGNED\n    clip_half_range: false\n    per_channel_wts: false\n"
        "    inputs_quant_auto_fallback: false\n    fp16: false\n    overrides:\n"
        "      conv1:\n        input_overrides:\n          0: {bits_activations: 8, clip_acts: NONE}\n"
        "        bits_activations: 8\n        bits_weights: 8\n        bits_bias: 32\n        clip_acts: GAUSS\n"
        "        clip_half_range: true\n"
        "      relu:\n        fpq_module: 32\n        fake: true\n        bits_weights: 8\n"
        "        bits_activations: 8\n"
        "        clip_acts: AVG\n        clip_half_range: false\n      conv2: {fpq_module: 32, fake: false}\n"
        "      maxpool: {fpq_module: 32, fake: true, bits_weights: 8, bits_activations: 8, clip_acts: AVG}\n"
    )
    quantizer = load(tmp_path, text)
    assert "overrides.maxpool: warning: a MaxPool2d has no fake quantizer here" in caplog.text
    assert quantizer._clipping("conv1").method == "NONE"
    assert quantizer._clipping("relu").method == "AVG"
    quantizer.quantize(Block().eval(), [X])
    assert quantizer.bits_table() == {"conv1": "W8 A8", "relu": "A8"}
    assert quantizer.left_float["conv2"] == "overrides"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("    scale_approx_mult_bits: 8\n", ":6:5: .*scale_approx_mult_bits has no place here: given 8"),
        ("    fp16: true\n", "fp16 has no place here"),
        ("    fpq_module: 16\n", "fpq_module has no place here: given 16; layers stay float by"),
        ("    overrides:\n      relu: {make_identity: true}\n", "make_identity has no place here"),
        ("    overrides:\n      relu: {quantize_inputs: true}\n", "quantize_inputs has no place here"),
        ("    overrides:\n      conv1: {fpq_module: 16}\n", ":7:15: .*fpq_module has no place here"),
        ("    overrides:\n      conv1: {fake: true, bits_weights: 8}\n", "fake has no place here.*bits_weights: null"),
        ("    overrides:\n      conv1: {input_overrides: {1: {clip_acts: AVG}}}\n", "layers have one input here"),
        ("    overrides:\n      conv1: {input_overrides: {0: {clip: AVG}}}\n", "unknown setting 'clip' of an input"),
        ("    overrides:\n      conv1: {input_overrides: 8}\n", "input_overrides is written"),
        ("    overrides:\n      conv1: {input_overrides: {0: 8}}\n", "it holds from_output, bits_activations"),
        ("    overrides:\n      .*add: {bits_activations: 8}\n", "'.*add' matches no module"),
        ("    overrides:\n      maxpool: {bits_activations: 8}\n", "MaxPool2d, which is never quantized"),
        ("    overrides:\n      conv1: {clip_acts: N_STD}\n", "N_STD needs clip_n_stds"),
    ],
)
def test_what_has_no_meaning_is_refused_by_name(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ScheduleError, match=words):
        load(tmp_path, HEAD + text)


def test_overrides_alone(tmp_path: Path) -> None:
    """The form of resnet20_cifar.ptq_greedy_search.yaml."""
    with pytest.raises(ScheduleError, match="settings of layers alone; put them below `overrides:`"):
        load(tmp_path, "conv1: {clip_acts: NONE, bits_weights: 8, bits_activations: 8, bits_bias: 32}\n")


def test_all_faults_in_one_report(tmp_path: Path) -> None:
    with pytest.raises(ScheduleError) as caught:
        load(tmp_path, HEAD + "    fp16: true\n    overrides:\n      relu: {make_identity: true, what: 3}\n")
    assert len(caught.value.faults) == 3

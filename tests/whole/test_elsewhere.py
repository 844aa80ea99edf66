"""What docs/thinning.md shows for another project: the network of a thinned, quantized, averaged run is made again."""

import re
from pathlib import Path

import pytest
import torch

from apputils.checkpoints.file import load_checkpoint
from tests.models.Classify.conftest import ClassifierOf
from tests.models.Classify.conftest import classifier_of as classifier_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "thinning.md"
SCHEDULE = """\
pruners:
  p: {class: L1RankedStructureParameterPruner, reg_regims: {conv2.weight: [0.5, 3D]}}
extensions:
  t: {class: FilterRemover}
quantizers:
  q: {class: DorefaQuantizer, bits_activations: 8, bits_weights: 8}
policies:
  - pruner: {instance_name: p}
    epochs: [0]
  - extension: {instance_name: t}
    epochs: [0]
  - quantizer: {instance_name: q}
    epochs: [1]
"""


def test_the_snippet_makes_the_network_that_was_measured(
    classifier_of: ClassifierOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("all.yaml").write_text(SCHEDULE)
    trainer = classifier_of("--compress=all.yaml", "--nEpochs=2", "--run=a", "--ema=0.5")
    trainer.run()
    measured = trainer.state.evaluated_model().eval()
    images = torch.rand(4, *trainer.example_inputs()[0].shape[1:])
    with torch.no_grad():
        expected = measured(images)
    saved = load_checkpoint(Path("checkpoints/a/best.pt"))
    averaged = {name: value for name, value in saved["averaged"]["model"].items() if name.endswith("weight")}
    assert any(not torch.equal(saved["model"][name], value) for name, value in averaged.items())

    [snippet] = [code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "Recipe" in code]
    monkeypatch.chdir("checkpoints/a")
    names: dict = {"MyNetwork": trainer.build_model}
    exec(snippet, names)
    with torch.no_grad():
        assert torch.equal(names["model"].eval()(images), expected)
    assert names["model"].conv2.out_channels < 16

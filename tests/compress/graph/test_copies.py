"""A network that writes into its input (`x *= 255`): whatever calls it again, or after another, sees the original."""

import torch
from torch import Tensor, nn

from compress.analysis.diagnosis.points import run_free
from compress.calibration.batch_norm import reestimate_batch_norm
from compress.calibration.replay import passing
from compress.distillation.capture import OUTPUT, Call, run
from compress.export.onnx.check import torch_outputs
from compress.thinning.proof.observe import observe
from compress.thinning.thin import remove_units
from compress.thinning.trials.trial import prunable_graph


class Writes(nn.Module):
    """spandrel's RCAN begins so."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x *= 3.0
        return self.last(self.norm(self.first(x)).relu())


def drawn(count: int = 1) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.rand(2, 3, 8, 8) for _ in range(count)]


def expected(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x.clone())


def test_reading_passes_leave_the_inputs() -> None:
    model, (x,) = Writes().eval(), drawn()
    before, right = x.clone(), expected(model, x)
    assert torch.equal(torch_outputs(model, [(x,)])[0][0], right)
    assert torch.equal(observe(model, x, "eval").outputs[0], right)
    assert torch.equal(run(model, Call((x,)), [OUTPUT])[OUTPUT], right)
    run_free(model, {"first": "first"}, [(x,)])
    reestimate_batch_norm(model, [x])
    list(passing(model, model.last, [x]))
    assert torch.equal(x, before)


def test_statistics_are_the_same_each_time() -> None:
    model, batches = Writes(), drawn(2)
    reestimate_batch_norm(model, batches)
    first = model.norm.running_var.clone()
    reestimate_batch_norm(model, batches)
    assert torch.equal(model.norm.running_var, first)


def test_it_can_be_thinned() -> None:
    model, (x,) = Writes().eval(), drawn()
    with torch.no_grad():
        for each in (model.first.weight, model.first.bias, model.norm.weight, model.norm.bias):
            each[2:4] = 0
    right = expected(model, x)
    remove_units(model, prunable_graph(model, x), {"first.weight[0]": [2, 3]}, x)
    assert model.first.out_channels == 6
    torch.testing.assert_close(expected(model, x), right)

"""Networks that the exporter makes something else of: a crash, NaN, an old weight, a fixed length. What is said."""

import os
import signal

import onnxruntime
import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.export.onnx.check import difference
from compress.export.onnx.crash_guard import Ended, apart
from compress.export.onnx.export import transform_to_onnx
from compress.export.onnx.export_report import ExportSettings


class Normed(nn.Module):
    """Divides by a length; the exporter drops `+ 1e-10`."""

    def forward(self, x):
        return x / torch.sqrt((x**2).sum(1, keepdim=True) + 1e-10)


class OwnWeight(nn.Module):
    """Replaces a weight in forward."""

    def __init__(self):
        super().__init__()
        self.wide, self.used = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x):
        self.used.weight.data = (2 * self.wide.weight).detach()
        return self.used(x)


class Recurrent(nn.Module):
    """An LSTM, and what comes behind it."""

    def __init__(self, behind):
        super().__init__()
        self.lstm, self.behind = nn.LSTM(5, 8, batch_first=True), behind

    def forward(self, x):
        return self.behind(self.lstm(x)[0])


class Attention(nn.Module):
    """Attention of a sequence to itself."""

    def __init__(self, width):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 1, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


def kill_itself():
    os.kill(os.getpid(), signal.SIGSEGV)


def refuse():
    raise UserError("no such thing")


def test_a_crash_is_an_error_message():
    with pytest.raises(Ended, match=r"the exporter ended by signal 11 \(SIGSEGV\)"):
        apart(kill_itself, "the exporter")


def test_an_exporter_that_crashes_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: kill_itself())
    with pytest.raises(UserError, match=r"given Normed, ended by signal 11 .*nothing was written.*`layer.weight.data"):
        transform_to_onnx(Normed(), tmp_path / "net.onnx", torch.zeros(1, 3, 8, 8), False)
    assert list(tmp_path.iterdir()) == []


def test_results_and_faults_come_back():
    assert apart(lambda: ["a", 1], "work") == ["a", 1]
    with pytest.raises(UserError, match="no such thing"):
        apart(refuse, "work")


def test_nan_is_blamed_on_its_operation(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), Normed(), nn.Conv2d(4, 2, 1)).eval()
    nn.init.constant_(net[0].bias, -9)  # every pixel is zero behind the ReLU
    with pytest.raises(UserError, match=r"NaN comes first from Div .*module '2'.*clamp_min.*nothing was written"):
        transform_to_onnx(net, tmp_path / "net.onnx", torch.zeros(1, 3, 8, 8), False)
    assert list(tmp_path.iterdir()) == []


def test_a_weight_replaced_in_forward_is_the_new_one_in_the_file(tmp_path):
    torch.manual_seed(0)
    report = transform_to_onnx(OwnWeight().eval(), tmp_path / "net.onnx", torch.zeros(1, 3, 8, 8), False)
    assert report.difference.max < 1e-5
    assert any("forward replaces used.weight through `.data`" in each for each in report.warnings)


def test_a_length_that_the_exporter_fixes_inside_is_refused(tmp_path):
    net = Recurrent(Attention(8)).eval()
    with pytest.raises(UserError, match=r"does not run on another size.*behind a recurrent layer.*nothing was written"):
        transform_to_onnx(
            net, tmp_path / "net.onnx", torch.zeros(2, 7, 5), False, settings=ExportSettings(free_axes=(1,))
        )


@pytest.mark.parametrize("make", [lambda: Recurrent(nn.Linear(8, 3)), lambda: Attention(5)])
def test_the_length_of_a_sequence_is_free_on_request(tmp_path, make):
    torch.manual_seed(0)
    net = make().eval()
    file = tmp_path / "net.onnx"
    report = transform_to_onnx(net, file, torch.zeros(2, 7, 5), False, settings=ExportSettings(free_axes=(1,)))
    ((batch, length, features),) = report.dynamic.values()
    assert isinstance(batch, str)
    assert isinstance(length, str)
    assert features == 5
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for size in (3, 12):
        x = torch.randn(4, size, 5)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), net(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("axis", "message"), [(1, "the network itself does not run on another"), (7, "no input has")])
def test_an_axis_that_cannot_be_free_is_named(tmp_path, axis, message):
    settings, file = ExportSettings(free_axes=(axis,)), tmp_path / "net.onnx"
    with pytest.raises(UserError, match=message):
        transform_to_onnx(nn.Conv2d(3, 4, 3), file, torch.zeros(1, 3, 8, 8), False, settings=settings)


def test_another_number_of_outputs_is_refused() -> None:
    x = torch.zeros(2)
    with pytest.raises(UserError, match="the file has 1 outputs, the network 2"):
        difference([[x, x]], [[x]])


def test_a_small_output_does_not_hide_behind_a_large_one() -> None:
    small, large, empty = torch.ones(4), torch.full((4,), 1000.0), torch.zeros(0)
    found = difference([[small, large, empty]] * 2, [[small + 0.5, large, empty]] * 2)
    assert found.mean == 0.25
    assert [(each.mean, each.largest, each.inputs) for each in found.outputs] == [(0.5, 1.0, 2), (0.0, 1000.0, 2)]
    assert found.worst == found.outputs[0]
    alone = difference([[small]], [[small]])
    assert (alone.outputs, alone.worst) == ((), alone)

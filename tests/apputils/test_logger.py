"""What TensorBoard and the CSV files get, read back from the event file."""

import csv
import struct
from pathlib import Path

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event
from torch import nn

from apputils.activations import ActivationStatistics
from apputils.logger import RunLogger
from apputils.runs import Run


def events(folder: Path) -> dict[tuple[str, int], object]:
    """(tag, step) -> the summary's value; a record is length, its check sum, data, their check sum."""
    found: dict[tuple[str, int], object] = {}
    for path in sorted(folder.glob("events.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found.update({(value.tag, event.step): value for value in event.summary.value})
            at += length + 16
    return found


def test_the_network_inside_is_logged(net: nn.Module, here: Path) -> None:
    net[0].weight.data[:2] = 0
    files = RunLogger(Run("one"))
    with torch.no_grad(), ActivationStatistics(net) as statistics:
        net(torch.randn(2, 3, 6, 6))
    report = statistics.report()
    for epoch in (0, 1):
        files.log_histograms(epoch, net)
        files.log_activations(epoch, report)
        files.log_pictures(epoch, {"example": torch.rand(3, 8, 8)})
    files.close()
    found = events(here / "logs" / "one")
    assert found["weights/0.weight", 1].histo.num == 54  # type: ignore[attr-defined]  # half of it is zero
    mean = found["activations/0/mean", 1].simple_value  # type: ignore[attr-defined]
    assert mean == pytest.approx(report.layers.iloc[0]["mean"], rel=1e-5)
    assert found["pictures/example", 0].image.width == 8  # type: ignore[attr-defined]
    assert not any(tag.endswith("bias") for tag, _ in found)


def test_a_repeated_epoch_replaces_its_rows(net: nn.Module, here: Path) -> None:
    """A run that died after writing an epoch's rows, and resumed before it, writes them again."""
    files = RunLogger(Run("one"))
    with torch.no_grad(), ActivationStatistics(net) as statistics:
        net(torch.randn(2, 3, 6, 6))
    for epoch in (0, 1, 2, 1):
        files.log_activations(epoch, statistics.report())
    files.close()
    with (here / "logs" / "one" / "activations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0"] * 6 + ["1"] * 6
    assert rows[0]["shape"] == "2 x 4 x 6 x 6"

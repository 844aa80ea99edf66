"""What TensorBoard and the CSV files get, read back from the event file."""

import csv
import errno
import logging
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event, SessionLog
from torch import nn

from apputils.runs import optional_files as side_files
from apputils.runs.folders import Run
from apputils.runs.logger import RunLogger
from compress.analysis.activations.statistics import ActivationStatistics
from tests import disks


def records(data: bytes) -> list[Event]:
    """The whole ones; a record is length, its check sum, data, their check sum."""
    found, at = [], 0
    while at + 16 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        if at + 16 + length <= len(data):
            found.append(Event.FromString(data[at + 12 : at + 12 + length]))
        at += length + 16
    return found


def events(folder: Path) -> dict[tuple[str, int], object]:
    """(tag, step) -> the summary's value."""
    found: dict[tuple[str, int], object] = {}
    for path in sorted(folder.glob("events.*")):
        for event in records(path.read_bytes()):
            found.update({(value.tag, event.step): value for value in event.summary.value})
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
        files.log_images(epoch, {"example": torch.rand(3, 8, 8)})
    files.close()
    found = events(here / "logs" / "one")
    assert found["weights/0.weight", 1].histo.num == 54  # type: ignore[attr-defined]  # half of it is zero
    mean = found["activations/0/mean", 1].simple_value  # type: ignore[attr-defined]
    assert mean == pytest.approx(report.layers.iloc[0]["mean"], rel=1e-5)
    assert found["images/example", 0].image.width == 8  # type: ignore[attr-defined]
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


def log_a_lot(net: nn.Module, files: RunLogger) -> None:
    """Some MB of everything."""
    with torch.no_grad(), ActivationStatistics(net) as statistics:
        net(torch.randn(2, 3, 6, 6))
    for epoch in range(30):  # more events than tensorboardX's own queue holds
        files.log_images(epoch, {"example": torch.rand(3, 64, 64)})
        files.log_histograms(epoch, net)
        files.log_activations(epoch, statistics.report())
        files.log_epoch([{"epoch": row, "loss": 0.5} for row in range(epoch + 1)])
        logging.getLogger("run").info("a line of the log, %s", "x" * 10_000)
    files.close()


def said_of(caplog: pytest.LogCaptureFixture, what: str) -> list[str]:
    return [line for line in caplog.messages if line.startswith(f"{what} cannot be written in logs/one: ")]


def test_a_full_disk_ends_what_is_logged_and_not_the_run(
    net: nn.Module, here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """/dev/full refuses every byte, as a full disk does."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write = side_files.RecordWriter
    monkeypatch.setattr("apputils.runs.logger.append_activations", full)  # which reads the file first
    monkeypatch.setattr(side_files, "RecordWriter", lambda path: write("/dev/full"))
    monkeypatch.setattr("apputils.runs.logger.write_records", full)
    monkeypatch.setattr(side_files, "appending", lambda path: Path("/dev/full").open("a"))  # noqa: SIM115
    with caplog.at_level(logging.INFO):
        log_a_lot(net, RunLogger(Run("one")))
    for what in ("TensorBoard's events", "log.txt", "metrics.csv", "activations.csv"):
        [line] = said_of(caplog, what)
        assert "the disk is full: No space left on device" in line
        assert line.endswith("; the run continues without")
    assert "Logging error" not in capsys.readouterr().err


@pytest.fixture
def small_disk(here: Path) -> Iterator[None]:
    """`logs/` is a disk of 128 KiB."""
    with disks.small_disk("logs", "128k"):
        yield


def test_a_disk_that_fills_while_it_is_logged(
    net: nn.Module, small_disk: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        log_a_lot(net, RunLogger(Run("one")))
    assert len(said_of(caplog, "TensorBoard's events")) == 1
    assert events(Path("logs/one"))  # what was written before stays readable


def test_events_of_epochs_that_are_trained_again_are_dropped(here: Path) -> None:
    """TensorBoard hides what an earlier file has from the step of a START on."""
    RunLogger(Run("one"), first_epoch=3).close()
    [path] = (here / "logs" / "one").glob("events.*")
    version, start = records(path.read_bytes())
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (3, SessionLog.START)

"""Architectures side by side: schedules that load for any network, the front, a page of real runs."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import zoo
from benchmarks.zoo import (
    ARCH,
    SCHEDULES,
    Pair,
    check_settings,
    front_of,
    fused,
    main,
    make,
    prunable_weights,
    schedule_text,
    table,
)
from compress.config import file_config
from compress.errors import UserError
from models.SR.zoo import ZOO
from options import own_network
from options.applications import find_application

ROWS = [
    {"quality": quality, "macs": macs, "bytes": size, "arch": name, "schedule": "dense", "metric": "psnr", "gain": 1.0,
     "baseline": "bicubic", "parameters": 10}
    for name, quality, macs, size in (
        ("a", 30.0, 5e9, 100), ("b", 31.0, 9e9, 90), ("c", 29.0, 6e9, None), ("d", 31.0, 9e9, 95),
    )
]  # fmt: skip


@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules_load_for_any_network_without_a_warning(kind: str, tmp_path: Path) -> None:
    network, example = ZOO("espcn", settings={"width": 8}, upscale_factor=2), torch.zeros(1, 3, 12, 12)
    assert fused(network) is None
    names = prunable_weights(network, (example,))
    assert names == ["first.weight", "second.weight"]
    loads_without_a_warning(network, example, schedule_text(kind, 12, names), tmp_path / f"{kind}.yaml")


@pytest.mark.parametrize("kind", SCHEDULES)
def test_blocks_are_fused_before_filters_leave_and_before_8_bits(kind: str, tmp_path: Path) -> None:
    network, example = ZOO("ecbsr", settings={"width": 4, "depth": 1}, upscale_factor=2), torch.zeros(1, 3, 12, 12)
    narrow = fused(network)
    assert narrow is not None
    names = prunable_weights(narrow, (example,))
    assert names == ["body.0.weight", "body.2.weight"]
    loads_without_a_warning(network, example, schedule_text(kind, 12, names, fuses=True), tmp_path / f"{kind}.yaml")


def loads_without_a_warning(network: nn.Module, example: torch.Tensor, text: str, path: Path) -> None:
    path.write_text(text)
    optimizer = torch.optim.Adam(network.parameters())
    scheduler = file_config(network, optimizer, path, example_inputs=example, strict=True)
    assert scheduler.suggested_epochs == 12


def test_the_front_is_what_nothing_beats() -> None:
    assert front_of(ROWS, "macs") == [0, 1, 3]
    assert front_of(ROWS, "bytes") == [1]
    lines = table(ROWS).splitlines()
    assert lines[0].split("|")[4].strip() == "bicubic"
    assert lines[2].split("|")[4].strip() == "30.00"
    assert "+1.00" not in table(ROWS)  # one run has no interval to claim a sign by
    assert lines[2].split("|")[1].strip() == "b"
    assert lines[2].rstrip(" |").endswith("*+")


@pytest.mark.parametrize("kept", ["checkpoints/zoo-SR-espcn-dense/last.pt", "results/zoo-SR-a-int8/test_summary.json"])
def test_runs_that_were_trained_otherwise_are_not_mixed(here: Path, kept: str) -> None:
    folder = Path("results/zoo-SR")
    folder.mkdir(parents=True)
    check_settings(folder, {"epochs": 9, "options": []})
    check_settings(folder, {"epochs": 6, "options": []})  # no run of the former was saved
    Path(kept).parent.mkdir(parents=True)
    Path(kept).touch()
    check_settings(folder, {"epochs": 6, "options": []})
    with pytest.raises(UserError, match="holds runs of '--epochs=6 --', and these would be of '--epochs=6 -- --lr=1'"):
        check_settings(folder, {"epochs": 6, "options": ["--lr=1"]})


def test_an_architecture_may_have_arguments() -> None:
    names = ARCH.findall("c2srcnn,edsr_baseline(width=16,depth=4),net.py:My")
    assert names == ["c2srcnn", "edsr_baseline(width=16,depth=4)", "net.py:My"]
    pair = Pair("SR", names[1], "dense")
    assert pair.options == ["--arch=edsr_baseline", "--arch-args={width: 16,depth: 4}"]
    assert pair.run == "zoo-SR-edsr_baseline_width_16_depth_4-dense"
    assert Pair("SR", names[0], "dense").options == ["--arch=c2srcnn"]


@pytest.mark.slow
def test_runs_are_made_once_and_shown(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [
        "--archs=espcn,none",
        "--schedules=half_macs",
        "--epochs=6",
        "--",
        "--samples=4",
        "--batchSize=2",
        "--width=8",
    ]
    with pytest.raises(UserError, match="1 of 2 pairs failed: zoo-SR-none-half_macs"):
        main(given)
    rows = json.loads(Path("results/zoo-SR/zoo.json").read_text())
    assert [(row["arch"], row["schedule"]) for row in rows] == [("espcn", "half_macs")]
    assert Path("results/zoo-SR/zoo.png").stat().st_size > 10_000
    assert "zoo-SR-none-half_macs: --arch=none: unknown architecture" in Path("results/zoo-SR/zoo.md").read_text()
    capsys.readouterr()
    main(["--archs=espcn", *given[1:]])
    assert "train.py" not in capsys.readouterr().out


def test_an_unknown_schedule_is_refused_before_anything_is_trained(here: Path) -> None:
    with pytest.raises(UserError, match="--schedules=half_mac: unknown schedule 'half_mac'; did you mean 'half_macs'"):
        main(["--archs=espcn", "--schedules=half_mac", "--epochs=1"])
    with pytest.raises(UserError, match="unknown schedule ''"):
        main(["--archs=espcn", "--schedules=dense,", "--epochs=1"])
    assert not Path("results").exists()


def test_a_pair_that_fails_is_reported_and_ends_with_an_error(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "_call", lambda program, *arguments: f"{program} ended with 2: no space")
    with pytest.raises(UserError, match="2 of 2 pairs failed: zoo-SR-none-dense, zoo-SR-espcn-dense"):
        main(["--archs=none,espcn", "--schedules=dense", "--epochs=1"])
    told = capsys.readouterr().out
    assert "zoo-SR-none-dense: --arch=none: unknown architecture" in told
    assert "zoo-SR-espcn-dense: train.py ended with 2: no space" in told


def test_code_of_ones_own_is_named_again_to_resume_and_to_test(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from torch import nn\nclass Net(nn.Sequential):\n    def __init__(self):\n"
    source += (
        "        super().__init__(nn.Conv2d(3, 3, 3, padding=1))\ndef dark(pixels, draw):\n    return pixels // 2\n"
    )
    (here / "zoo_of_mine.py").write_text(source)
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.setattr(own_network, "named", set())
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(zoo, "_call", lambda *arguments: calls.append(arguments))
    pair = Pair("Restore", "zoo_of_mine:Net", "dense")
    more = ["--samples=8", "--degradation=noise:5+zoo_of_mine.py:dark"]
    own = ("--arch=zoo_of_mine:Net", more[1])
    assert make(pair, find_application("Restore"), 1, more, here) is None
    assert calls[0][-1] == f"--run={pair.run}"
    assert calls[1][-2:] == own
    (here / "checkpoints" / pair.run).mkdir(parents=True)
    (here / "checkpoints" / pair.run / "last.pt").touch()
    assert make(pair, find_application("Restore"), 1, more, here) is None
    assert calls[2][2:] == (f"--resume={pair.run}", *own)
    assert calls[3][-2:] == own
    sys.modules.pop("zoo_of_mine", None)

"""`.pt2` files: the same outputs, any size, and nothing that runs code when it is loaded."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.export.exported_model import ExportedModel, describing, description_of
from compress.export.pt2 import export_pt2, load_pt2
from tests.compress.export.exported_nets import quantize

DESCRIPTION = {"run": "a", "optform": "SR", "network": {"arguments": {}}}


class Widened(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(x, (0, max(0, 12 - x.shape[3])))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))
    return quantize(net.eval(), torch.rand(2, 3, 8, 8))


@pytest.fixture(scope="module")
def file(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    report = export_pt2(network, path, torch.empty(1, 3, 8, 8), [torch.rand(3, 3, 10, 12)], DESCRIPTION)
    assert report.difference.max < 1e-6
    assert report.real_inputs
    assert not report.fixed_sizes
    assert report.bytes == path.stat().st_size
    return path


def test_a_fixed_size_leaves_only_the_batch_free(tmp_path: Path) -> None:
    export_pt2(nn.Conv2d(3, 2, 3).eval(), tmp_path / "net.pt2", torch.zeros(1, 3, 8, 8), fixed_size=True)
    network, _ = load_pt2(tmp_path / "net.pt2")
    assert network(torch.zeros(3, 3, 8, 8)).shape == (3, 2, 6, 6)
    with pytest.raises((RuntimeError, AssertionError)):
        network(torch.zeros(1, 3, 9, 9))


@pytest.mark.parametrize(
    "last",
    [
        pytest.param(lambda: nn.Upsample(scale_factor=1.5, mode="bilinear"), id="up-sampled by a float"),
        pytest.param(Widened, id="padded to a least size"),
    ],
)
def test_sizes_that_are_computed_by_floats_and_functions_of_torch(
    last: Callable[[], nn.Module], tmp_path: Path
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), last()).eval()
    report = export_pt2(network, tmp_path / "net.pt2", torch.empty(1, 3, 8, 8))
    assert not report.fixed_sizes
    x = torch.rand(2, 3, 7, 15)
    assert torch.equal(load_pt2(tmp_path / "net.pt2")[0](x), network(x))


def test_it_computes_the_same_at_any_size(network: nn.Module, file: Path) -> None:
    x = torch.rand(2, 3, 7, 15)
    model = ExportedModel(file)
    assert model.train() is model
    assert not model.training
    torch.testing.assert_close(model(x), network(x))


def test_its_description_says_of_which_run_it_is(file: Path) -> None:
    assert load_pt2(file)[1] == DESCRIPTION
    assert description_of(file) == DESCRIPTION


def test_a_checkpoints_plain_part_describes_it() -> None:
    checkpoint = {"run": "a", "model": {"w": 1}, "task": {"classes": ["x"]}, "extra": torch.zeros(1), "epoch": 3}
    assert describing(checkpoint) == {"run": "a", "task": {"classes": ["x"]}, "epoch": 3}


def changed(file: Path, target: Path, change: Callable[[str, bytes], bytes], **added: bytes) -> Path:
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(target, "w") as out:
        root = source.namelist()[0].split("/")[0]
        for name in source.namelist():
            out.writestr(name, change(name, source.read(name)))
        for name, content in added.items():
            out.writestr(f"{root}/data/constants/{name}", content)
    return target


class _Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def _replaced(old: bytes, new: bytes) -> Callable[[str, bytes], bytes]:
    return lambda name, content: content.replace(old, new) if name.endswith(".json") else content


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            b"torch.ops.aten.conv2d.default",
            b"torch.hub.load",
            "calls 'torch.hub.load', which is not an ordinary operation",
        ),
        (b'"use_pickle": false', b'"use_pickle": true', "a pickled tensor"),
        (b"Symbol(", b"__import__(", "is no arithmetic"),
        (b"Symbol(", b"1.5.__class__(", "is no arithmetic"),
        (b"Symbol(", b"Float.__init__(", "is no arithmetic"),
    ],
)
def test_files_that_would_run_code_are_refused(file: Path, here: Path, old: bytes, new: bytes, message: str) -> None:
    hostile = changed(file, here / "hostile.pt2", _replaced(old, new))
    assert hostile.read_bytes() != file.read_bytes()
    with pytest.raises(UserError, match=message):
        load_pt2(hostile)


def test_pickled_objects_are_refused_and_do_not_run(file: Path, here: Path) -> None:
    payload = pickle.dumps(_Payload(here / "mark"))
    with pytest.raises(UserError, match="custom_obj_0, which may run code"):
        load_pt2(changed(file, here / "hostile.pt2", lambda _, content: content, custom_obj_0=payload))
    samples = changed(file, here / "samples.pt2", lambda name, content: payload if "sample_inputs" in name else content)
    with pytest.raises(UserError, match="sample inputs hold more than tensors"):
        load_pt2(samples)
    assert not (here / "mark").exists()


@pytest.mark.parametrize("name", ["x.pt2", "x.onnx"])
def test_what_is_no_such_file_is_told(here: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"there is no file {name}"):
        ExportedModel(name)
    with pytest.raises(UserError, match=f"there is no file {name}"):
        description_of(name)
    Path(name).write_bytes(b"not a network")
    with pytest.raises(UserError, match=r"may be damaged|refuses"):
        ExportedModel(name)
    with pytest.raises(UserError, match="may be damaged"):
        description_of(name)


def test_a_file_of_unknown_origin_is_told(here: Path, network: nn.Module) -> None:
    export_pt2(network, "bare.pt2", torch.empty(1, 3, 8, 8), description=json.loads("{}"))
    with pytest.raises(UserError, match="does not say of which run it is"):
        description_of("bare.pt2")

"""Damaged and malicious checkpoints, through everything that `test.py`, `--weights` and `--resume` make of one."""

import copy
import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies
from torch import nn

from apputils.checkpoints.file import load_checkpoint, load_weights, save_checkpoint
from apputils.runs.folders import Run
from compress.errors import UserError
from compress.quantization.convert import apply
from engine.resume import last_checkpoint
from engine.saved.find_checkpoint import find_subject, load_subject
from engine.saved.load_model import load_network
from models.C2SRCNN.model import Net
from models.Classify.zoo import build_network
from models.Deblur.networks import build_networks
from options.applications import APPLICATIONS
from tests.engine.conftest import TrainerOf
from tests.engine.conftest import trainer_of as trainer_of
from tests.fuzz.damage import Damaged, damaged
from tests.fuzz.test_images import SAMPLES as IMAGES
from tests.fuzz.watch import fuzz, tiers

RECIPE = {
    "kept": {"mid_part.1.weight": {0: torch.arange(6)}, "mid_part.1.bias": {0: torch.arange(6)},
             "mid_part.3.weight": {1: torch.arange(6)}},
    "sizes": {"mid_part.1.weight": {0: 8}, "mid_part.1.bias": {0: 8}, "mid_part.3.weight": {1: 8}},
    "attributes": {"mid_part.1": {"out_channels": 6}, "mid_part.3": {"in_channels": 6}},
    "headed": [],
}  # fmt: skip
STRUCTURE = {
    "layers": {"last_part.0": {"weight_quantizer": {"class": "DorefaWeight", "bits": 4}}},
    "folded": {},
}
TASK = {"classes": ["a", "b"], "channels": 3, "size": 16, "mean": [0.5] * 3, "std": [0.5] * 3, "majority": [0, 1]}


def content_of(optform: str, network: nn.Module, task: dict[str, Any], **options: Any) -> dict[str, Any]:
    """A checkpoint as a run writes it, without what only a resumed run reads."""
    return {
        "format": 2, "run": "a", "optform": optform, "model": network.state_dict(), "averaged": None, "task": task,
        "network": {"class": type(network).__name__, "arguments": dict(network.arguments)},  # type: ignore[call-overload]
        "scheduler": {"recipes": [], "structures": []}, "schedule": {}, "scheduled_weights": [], "epoch": 3,
        "options": {"traindata": "images", "compress": None, **options}, "middle": None,
    }  # fmt: skip


def thinned() -> dict[str, Any]:
    """Of a network that was thinned."""
    network = Net(2, 8, 8)
    content = content_of("SR", network, {})
    for name, dims in RECIPE["kept"].items():  # type: ignore[attr-defined]
        for dim, indices in dims.items():
            content["model"][name] = content["model"][name].index_select(dim, indices)
    content["scheduler"]["recipes"] = [copy.deepcopy(RECIPE)]
    return content


def quantized() -> dict[str, Any]:
    """Of a network that was quantized."""
    content = content_of("SR", apply(Net(2, 8, 8), STRUCTURE), {})
    content["scheduler"]["structures"] = [copy.deepcopy(STRUCTURE)]
    return content


CONTENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "sr": lambda: content_of("SR", Net(2, 8, 8), {}),
    "thinned": thinned,
    "quantized": quantized,
    "classify": lambda: content_of(
        "Classify", build_network("lenet5", 2, 3, 16), TASK, dataset="digits", channels=None, size=16
    ),
    "deblur": lambda: content_of(
        "Deblur", build_networks(ngf=2, blocks=1, kind="resnet", norm="none", halvings=1), {}, sharp_only=True,
        blur_length=8.0,
    ),
}  # fmt: skip


@pytest.fixture
def place(here: Path) -> Path:
    """A present folder with data for each application."""
    for folder in ("a", "b"):
        (here / "images" / "test" / folder).mkdir(parents=True)
        (here / "images" / "test" / folder / "0.png").write_bytes(IMAGES["rgb.png"])
    (here / "images" / "test" / "0.png").write_bytes(IMAGES["rgb.png"])
    return here


def evaluated(file: Path) -> dict[str, float]:
    """What `test.py --model FILE` does before it writes anything: reads, builds, measures."""
    content = load_subject(file)
    application = APPLICATIONS.get(content["optform"])
    if application is None:
        raise UserError("no such application")
    options = application.load("test_options")().parse([f"--model={file}", "--testdata=images/test"])
    opt, checkpoint = find_subject(options)
    tester = application.load("tester")(opt, application.load("testing_loader")(opt, checkpoint))
    return tester.test(tester.build_model())


def read_all_ways(file: Path) -> None:
    """Evaluated; where that is refused, as `--weights` and a teacher read it too."""
    try:
        evaluated(file)
    except UserError:
        for read in (load_weights, load_network):
            with suppress(UserError):
                read(file)
        raise


@pytest.mark.parametrize("name", sorted(CONTENTS))
def test_whole_checkpoints_are_read(place: Path, name: str) -> None:
    save_checkpoint(place / "a.pt", CONTENTS[name]())
    assert evaluated(place / "a.pt")


def as_bytes(content: Any) -> bytes:
    """A checkpoint's bytes without a checksum, which a damaged one could not pass."""
    file = io.BytesIO()
    torch.save({**content, "format": 1}, file)
    return file.getvalue()


@tiers(few=15, many=500)
def test_damaged_checkpoints(place: Path, examples: int) -> None:
    samples = {name: as_bytes(make()) for name, make in CONTENTS.items()}
    samples["with a checksum"] = (save_checkpoint(place / "s.pt", CONTENTS["sr"]()), (place / "s.pt").read_bytes())[1]  # type: ignore[func-returns-value]

    def work(case: Damaged) -> None:
        (place / "a.pt").write_bytes(case.content)
        read_all_ways(place / "a.pt")

    watched = fuzz(damaged(samples), examples, work)
    assert watched.refused
    assert sorted(path.name for path in place.iterdir()) == ["a.pt", "images", "s.pt"]


VALUES: tuple[Any, ...] = (
    None, True, 0, 1, -1, 10**9, 10**30, 0.5, float("nan"), float("inf"), "", "x" * 1000, "../../x", "/tmp/x", [], {},
    [[]], {"a": 1}, [1, "a"], {1: 2}, (), torch.zeros(0), torch.zeros(3), torch.zeros(1).expand(10**12),
    torch.tensor([-1, 10**9]), torch.zeros(2, 2, dtype=torch.bool), "timm:resnet18", "torchvision:vgg11", "SR",
    {"class": "DorefaWeight", "bits": -3}, {"class": "os.system"}, {"forward": 3, "__class__": 1, "training": None},
)  # fmt: skip


def changed(content: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """One to three values, keys or types exchanged, anywhere but in the format's number."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        places, waiting = [], [content]
        while waiting:
            node = waiting.pop()
            for key in list(node) if isinstance(node, dict) else range(len(node)):
                places.append((node, key))
                if isinstance(node[key], dict | list):
                    waiting.append(node[key])
        parent, key = rng.choice(places)
        if parent is content and key == "format":
            continue
        if rng.random() < 0.2:
            del parent[key]
        else:
            parent[key] = copy.copy(rng.choice(VALUES))
    return content


@tiers(few=30, many=1500)
def test_checkpoints_with_wrong_content(place: Path, examples: int) -> None:
    whole = {name: make() for name, make in CONTENTS.items()}

    def work(case: tuple[str, int]) -> None:
        content = copy.deepcopy(whole[case[0]])
        save_checkpoint(place / "a.pt", changed(content, random.Random(case[1])))
        read_all_ways(place / "a.pt")

    cases = strategies.tuples(strategies.sampled_from(sorted(whole)), strategies.integers(0, 2**32))
    watched = fuzz(cases, examples, work)
    assert watched.refused
    assert watched.read or examples < 100  # a few of a hundred changes do no harm
    assert sorted(path.name for path in place.iterdir()) == ["a.pt", "images"]


@tiers(few=12, many=400)
def test_runs_that_go_on_from_wrong_content(trainer_of: TrainerOf, examples: int) -> None:
    """`--resume`, up to the step that would come next."""
    trainer_of("--compress=schedule.yaml", "--nEpochs=1", "--run=a", "--ema=0.9", "--keep=1").run()
    run = Run("a")
    whole = load_checkpoint(run.last)

    def work(seed: int) -> None:
        content, rng = copy.deepcopy(whole), random.Random(seed)
        part = rng.choice(sorted(whole.keys() - {"format"}))
        if rng.random() < 0.5 or not isinstance(content[part], dict | list) or not content[part]:
            content[part] = copy.copy(rng.choice(VALUES))
        else:
            changed(content[part], rng)
        save_checkpoint(run.last, content)
        trainer = trainer_of("--resume=a", "--nEpochs=2")
        with trainer.session:
            trainer.session.take(run)
            trainer.set_to(last_checkpoint(run))

    watched = fuzz(strategies.integers(0, 2**32), examples, work)
    assert watched.refused
    assert watched.read


# Malicious on purpose -------------------------------------------------------------------------------------------------


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


def payloads(mark: Path) -> list[Payload]:
    """Ways to create `mark`."""
    return [
        Payload(os.system, f"touch {mark}"),
        Payload(eval, f"open({str(mark)!r}, 'w')"),
        Payload(exec, f"open({str(mark)!r}, 'w')"),
        Payload(open, str(mark), "w"),
        Payload(os.mkdir, str(mark)),
        Payload(torch.save, {}, str(mark)),
        Payload(np.save, str(mark), 1),
        Payload(__import__, "this"),
    ]


@pytest.mark.parametrize("form", ["zip", "old", "plain", "inside", "renamed"])
@pytest.mark.parametrize("number", range(8))
def test_a_malicious_checkpoint_is_refused_and_its_payload_does_not_run(place: Path, form: str, number: int) -> None:
    mark, file = place / "ran", place / "a.pt"
    payload = payloads(mark)[number]
    content = {**CONTENTS["sr"](), "options": payload if form == "inside" else {}}
    if form == "zip":
        torch.save({**content, "history": [payload]}, file)
    elif form == "old":
        torch.save({**content, "history": payload}, file, _use_new_zipfile_serialization=False)
    elif form == "plain":
        file.write_bytes(pickle.dumps(payload))
    elif form == "renamed":  # a pickle where torch expects its own
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(payload))
            archive.writestr("archive/version", "3\n")
    else:
        torch.save(content, file)
    for read in (evaluated, load_weights, load_network):
        with pytest.raises(UserError):
            read(file)
    assert not mark.exists()
    assert not Path(f"{mark}.npy").exists()


def test_a_compressed_archive_is_refused_before_it_is_unpacked(place: Path) -> None:
    with zipfile.ZipFile(place / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (1 << 26))
    assert (place / "a.pt").stat().st_size < 100_000
    with pytest.raises(UserError, match="is compressed, which nothing that torch wrote is"):
        load_weights(place / "a.pt")


def test_a_tensor_without_its_values_is_refused(place: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(10**12)}, place / "a.pt")
    with pytest.raises(UserError, match="fewer values than that"):
        load_weights(place / "a.pt")
    torch.save({"w": torch.eye(3).to_sparse()}, place / "a.pt")
    with pytest.raises(UserError, match="sparse, quantized, nested or without values"):
        load_weights(place / "a.pt")


@pytest.mark.parametrize("run", ["../../escaped", "/tmp/escaped", "", ".", "a\nb", 3])
def test_a_run_that_is_no_folder_name_is_refused(place: Path, run: Any) -> None:
    save_checkpoint(place / "a.pt", {**CONTENTS["sr"](), "run": run})
    with pytest.raises(UserError, match="is not a checkpoint of a run: run: "):
        load_subject(place / "a.pt")


def test_a_network_out_of_proportion_is_refused(place: Path) -> None:
    content = CONTENTS["sr"]()
    content["network"]["arguments"] = {"upscale_factor": 2, "features": 60_000, "shrunk": 60_000}
    save_checkpoint(place / "a.pt", content)
    with pytest.raises(UserError, match=r"it would have [\d,]+ parameters, and the file holds"):
        evaluated(place / "a.pt")


@pytest.mark.parametrize("attribute", ["forward", "__class__", "_parameters", "weight", "padding_mode"])
def test_a_recipe_does_not_exchange_a_method(place: Path, attribute: str) -> None:
    content = thinned()
    content["scheduler"]["recipes"][0]["attributes"]["mid_part.1"] = {attribute: 3}
    save_checkpoint(place / "a.pt", content)
    with pytest.raises(UserError, match="has no number"):
        load_network(place / "a.pt")


def test_a_recipe_does_not_make_a_tensor_larger(place: Path) -> None:
    content = thinned()
    content["scheduler"]["recipes"][0]["kept"]["mid_part.1.weight"][0] = torch.zeros(10**6, dtype=torch.int64)
    save_checkpoint(place / "a.pt", content)
    with pytest.raises(UserError, match=r"keeps of mid_part.1.weight other than ascending indices in \[0, 8\)"):
        load_network(place / "a.pt")


def test_settings_of_a_library_that_load_files_are_refused() -> None:
    with pytest.raises(UserError, match="a network's settings are width_mult, base, dropout, exits; given are check"):
        build_network("timm:resnet18", 2, settings={"checkpoint_path": "/tmp/evil.pt"})

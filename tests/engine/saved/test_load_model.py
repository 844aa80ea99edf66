"""A network comes back from a file, whole or by its weights alone, wherever it was trained."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from apputils.checkpoints.file import load_checkpoint, load_weights, main, save_checkpoint
from compress.errors import UserError
from engine.saved.load_model import load_network, new_network
from tests.engine.conftest import TrainerOf
from tests.models.Classify.conftest import FILTERS, ClassifierOf, classifier_of  # noqa: F401
from tests.models.Classify.test_tester import evaluate


def test_a_thinned_classifier_comes_back_whole(classifier_of: ClassifierOf) -> None:  # noqa: F811
    trainer = classifier_of("--compress=filters.yaml", "--run=a")
    trainer.run()
    assert main(["network", "checkpoints/a/best.pt", "small.pt"]) == 0
    assert "optimizer" not in load_checkpoint(Path("small.pt"))
    images = torch.randn(2, 1, 20, 20)
    wanted = trainer.model.eval()(images)
    for path in ("checkpoints/a/best.pt", "small.pt"):
        network = load_network(path)
        assert network.conv2.out_channels == 8
        assert torch.equal(network(images), wanted)


def test_a_network_without_its_run_is_tested_and_reported(classifier_of: ClassifierOf) -> None:  # noqa: F811
    classifier_of("--nEpochs=1", "--run=a").run()
    assert main(["network", "checkpoints/a/best.pt", "small.pt"]) == 0
    summary = evaluate("--model=small.pt", "--no-export", "--sense=none")
    assert summary["checkpoint"] == "small.pt"
    content = json.loads(Path("results/a/small/report.json").read_text())
    assert (content["checkpoint"], content["history"]) == ("small.pt", [])
    assert "small.pt" in Path("results/a/small/report.html").read_text()


def test_a_super_resolution_network_comes_back(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    assert load_network("checkpoints/a/best.pt").upscale_factor == 2


def test_weights_alone_go_into_a_wrapped_network_and_back(classifier_of: ClassifierOf) -> None:  # noqa: F811
    classifier_of("--nEpochs=1", "--run=a").run()
    assert main(["weights", "checkpoints/a/best.pt", "weights.pt"]) == 0
    checkpoint = load_checkpoint(Path("checkpoints/a/best.pt"))
    wrapped = nn.DataParallel(new_network(checkpoint))
    wrapped.module.load_state_dict(torch.load("weights.pt", weights_only=True))
    torch.save(wrapped.state_dict(), "parallel.pt")
    assert all(
        torch.equal(value, checkpoint["model"][name]) for name, value in load_weights(Path("parallel.pt")).items()
    )
    trainer = classifier_of("--weights=parallel.pt", "--nEpochs=1", "--run=b")
    trainer.build()
    assert torch.equal(trainer.model.fc1.weight, checkpoint["model"]["fc1.weight"])


def test_an_application_without_a_builder_is_refused(tmp_path: Path) -> None:
    checkpoint = {"optform": "Sound", "network": {"arguments": {}}}
    with pytest.raises(UserError, match="networks of --optform=Sound cannot be built here; SR, .*Restore can"):
        new_network(checkpoint)
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    with pytest.raises(UserError, match=r"a.pt is not a checkpoint of a run: run: Field required"):
        load_network(tmp_path / "a.pt")

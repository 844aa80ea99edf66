"""Training of classifiers: the metric, resuming, the classes of a resumed run, the best of each size."""

import csv
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from apputils.checkpoints.file import load_checkpoint
from apputils.Classify_apputils.contact_sheet import CAPTION, COLUMNS, SIDE
from compress.errors import UserError
from data.Classify_data.loaders import classify_training_loaders
from engine.saved.load_model import load_network
from models.Classify.optimizers import make_optimizer
from models.Classify.quality import Answers, loss, majority_scores, scores
from models.Classify.solver import ClassifyTrainer
from options.Classify_options.train_options import OPTIMIZERS, TrainOptions
from tests.apputils.runs.test_logger import events
from tests.models.Classify.conftest import ClassifierOf


def weights(run: str) -> dict[str, torch.Tensor]:
    return load_checkpoint(Path("checkpoints") / run / "last.pt")["model"]


def test_it_learns_and_is_measured_beside_the_majority_class(classifier_of: ClassifierOf) -> None:
    summary = classifier_of("--nEpochs=6", "--run=a").run()
    assert summary["quality"]["top1"]["majority class"] == pytest.approx(100 / 3)
    assert summary["quality"]["top1"]["model"] > 60
    assert summary["quality"]["top5"]["model"] == 100
    content = load_checkpoint(Path("checkpoints/a/best.pt"))
    assert content["task"]["classes"] == ["dark", "grey", "light"]
    assert content["network"]["arguments"]["arch"] == "lenet5"


@pytest.mark.parametrize("schedule", ["schedule.yaml", "filters.yaml"])
def test_a_resumed_run_is_the_same_run(classifier_of: ClassifierOf, schedule: str) -> None:
    classifier_of(f"--compress={schedule}", "--nEpochs=3", "--run=whole").run()
    classifier_of(f"--compress={schedule}", "--nEpochs=2", "--run=cut").run()
    classifier_of("--resume=cut", "--nEpochs=3").run()
    whole, cut = (load_checkpoint(Path("checkpoints") / run / "last.pt") for run in ("whole", "cut"))
    assert all(torch.equal(whole["model"][name], value) for name, value in cut["model"].items())
    assert str(whole["optimizer"]) == str(cut["optimizer"])
    assert whole["sizes"] == cut["sizes"]


def test_a_run_is_not_resumed_with_other_classes(classifier_of: ClassifierOf) -> None:
    classifier_of("--nEpochs=1", "--run=a").run()
    for part in ("train", "val"):
        shutil.move(f"images/{part}/grey", f"images/{part}/middle")
    with pytest.raises(UserError, match="missing: grey; extra: middle"):
        classifier_of("--resume=a", "--nEpochs=2").run()


def test_the_best_network_of_each_size_is_kept(classifier_of: ClassifierOf) -> None:
    classifier_of("--compress=filters.yaml", "--run=a").run()
    rows = list(csv.DictReader(Path("results/a/sizes.csv").read_text().splitlines()))
    assert [row["thinned"] for row in rows] == ["0 times", "1 times"]
    for row in rows:
        network = load_network(Path("checkpoints/a") / row["checkpoint"])
        assert sum(p.numel() for p in network.parameters()) == int(row["parameters"])
        epoch = load_checkpoint(Path("checkpoints/a") / row["checkpoint"])["epoch"]
        assert int(row["best epoch"]) == epoch  # counted from 0, as in the log and in every checkpoint
    assert float(rows[1]["width"]) == pytest.approx(
        (6 + 8 + 400 + 120 + 84 + 3) / (6 + 16 + 400 + 120 + 84 + 3), abs=1e-4
    )
    assert int(rows[1]["MACs"]) < int(rows[0]["MACs"])


@pytest.mark.parametrize("arch", ["lenet5", "resnet_signs"])
def test_the_hand_sign_recipes_learn_from_hdf5(arch: str, here: Path) -> None:
    """Three colours behind each other, in the two files of the hand signs."""
    draw = np.random.default_rng(0)
    Path("signs").mkdir()
    for part, count in (("train", 24), ("test", 6)):
        with h5py.File(f"signs/{part}_signs.h5", "w") as file:
            images = draw.integers(0, 60, (count, 64, 64, 3), dtype=np.uint8)
            for i in range(count):
                images[i, :, :, i % 3] += 190
            file[f"{part}_set_x"], file[f"{part}_set_y"] = images, np.arange(count)[None] % 3
            file["list_classes"] = np.array([b"red", b"green", b"blue"])
    small = ["--width-mult=0.0625", "--nEpochs=1"] if arch == "resnet_signs" else ["--nEpochs=4"]
    config = TrainOptions().parse(
        [f"--arch={arch}", "--size=64", "--traindata=signs", "--weight-decay=1e-3", f"--compress={arch.split('_')[0]}"
         "_signs.yaml", "--batchSize=8", "--run=a", *small]
    )  # fmt: skip
    summary = ClassifyTrainer(config, *classify_training_loaders(config)).run()
    assert load_checkpoint(Path("checkpoints/a/best.pt"))["task"]["classes"] == ["red", "green", "blue"]
    if arch == "lenet5":
        assert summary["quality"]["top1"]["model"] == 100


def test_scores_against_counting() -> None:
    logits = torch.tensor([[3.0, 1, 0, 0, 0, 0], [0, 3, 1, 0, 0, 0], [9, 5, 4, 3, 2, 1], [0, 0, 0, 0, 0, 1]])
    given = Answers(logits, torch.tensor([0, 2, 5, 5]))
    assert scores(given) == {"top1": 50.0, "top5": 75.0}
    own = -torch.log_softmax(logits, 1)[range(4), given.labels].mean()
    assert loss(given) == pytest.approx(float(own))


def test_the_majority_is_that_of_training(classifier_of: ClassifierOf) -> None:
    task = classifier_of("--nEpochs=1").task
    assert majority_scores(torch.tensor([0, 0, 1, 2]), task)["top1"] == 50.0


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("everything", [False, True])
def test_norms_and_biases_do_not_decay_unless_asked(net: torch.nn.Module, name: str, everything: bool) -> None:
    arguments = [f"--optimizer={name}", "--weight-decay=0.1", *(["--decay-all"] if everything else [])]
    optimizer = make_optimizer(net, TrainOptions().parse(arguments))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for parameter in net.parameters():
        assert decay[id(parameter)] == (0.1 if everything or parameter.dim() > 1 else 0.0)


def test_early_exits_are_trained_with_their_weight(classifier_of: ClassifierOf) -> None:
    trainer = classifier_of("--arch=resnet20", "--width-mult=0.25", "--exits=layer1,layer2", "--exit-weight=0.5")
    trainer.build()
    trainer.model.train()
    batch = next(iter(trainer.training_loader))
    torch.manual_seed(0)
    own = [float(torch.nn.functional.cross_entropy(logits, batch[1])) for logits in trainer.model(batch[0])]
    assert len(own) == 3
    assert float(trainer.compute_loss(batch)) == pytest.approx(own[0] + 0.5 * (own[1] + own[2]), rel=1e-4)


def test_example_images_carry_what_they_are_taken_for(classifier_of: ClassifierOf) -> None:
    """In TensorBoard after each epoch: the twelve validation images as they are, in two rows of eight and four."""
    trainer = classifier_of("--nEpochs=1", "--run=a")
    trainer.run()
    found = events(Path("logs/a"))
    assert found["images/answers", 0].image.width == COLUMNS * SIDE  # type: ignore[attr-defined]
    assert found["images/answers", 0].image.height == 2 * (SIDE + CAPTION)  # type: ignore[attr-defined]
    sheet = trainer.example_images(trainer.model)["answers"]
    first = sheet[:, : SIDE - 2, : SIDE - 2]
    assert float(first.mean()) == pytest.approx(40 / 255, abs=0.02)  # `dark`: normalisation is taken back

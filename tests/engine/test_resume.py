"""What a resumed run may change, and the two ways to continue with another run."""

import gzip
import hashlib
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from apputils.checkpoints import differences
from apputils.checkpoints.file import load_checkpoint, save_checkpoint
from compress.errors import UserError
from compress.masks import unpacked
from data.data_fingerprint import Origin, check_same_data
from engine.resume import restore_optimizer, resumed
from engine.saved.rebuild import load_exact_weights
from tests.engine.conftest import TrainerOf
from tests.models.Classify.conftest import ClassifierOf
from tests.models.Classify.conftest import classifier_of as classifier_of

SPARSE = "--compress=schedule.yaml"
PLAIN_RATE = """\
lr_schedulers:
  lr: {class: StepLR, step_size: 1, gamma: 0.1}
policies:
  - lr_scheduler: {instance_name: lr}
    starting_epoch: 0
    ending_epoch: 4
    frequency: 1
"""


def last(run: str = "a") -> dict:
    return load_checkpoint(Path(f"checkpoints/{run}/last.pt"))


def test_every_option_that_differs_is_told_with_the_way_to_change_it(trainer_of: TrainerOf) -> None:
    trainer_of(SPARSE, "--nEpochs=1", "--run=a").run()
    Path("other.yaml").write_text(PLAIN_RATE)
    with pytest.raises(UserError) as e:
        trainer_of("--resume=a", "--lr=0.5", "--patch_size=48", "--compress=other.yaml")
    for words in (
        "--lr=0.5: the run was trained with 0.003", "--patch_size=48: the run was trained with 24",
        "other.yaml: the run was trained with", "--reset-optimizer lets lr change",
        "--reset-schedule lets compress change",
    ):  # fmt: skip
        assert words in str(e.value)
    with pytest.raises(UserError, match="patch_size") as e:
        trainer_of("--resume=a", "--lr=0.5", "--patch_size=48", "--reset-optimizer")
    assert "--lr" not in str(e.value)
    with pytest.raises(UserError, match=r"--reset-optimizer.* is for a run that continues; give --resume=RUN"):
        trainer_of("--reset-optimizer", "--reset-schedule")


def test_the_optimizer_starts_anew_and_everything_else_goes_on(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    assert {int(each["step"]) for each in last()["optimizer"]["state"].values()} == {3}
    trainer_of("--resume=a", "--nEpochs=2", "--reset-optimizer", "--lr=0.001").run()
    content = last()
    assert {int(each["step"]) for each in content["optimizer"]["state"].values()} == {3}  # not 6
    assert [row["lr"] for row in content["history"]] == [0.003, 0.001]
    assert "reset_optimizer" not in content["options"]
    trainer_of("--resume=a", "--nEpochs=3").run()  # the run's own from now on
    assert last()["optimizer"]["param_groups"][0]["lr"] == 0.001


def test_other_data_are_refused_and_a_moved_folder_is_not(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    facts = last()["task"]["data"]
    assert (facts["place"], facts["files"]) == ("images/train", 3)
    shutil.copytree("images/train", "elsewhere")
    check_same_data(facts, Origin("elsewhere", Path("elsewhere").iterdir()).facts)
    shutil.copy("images/train/train0.png", "images/train/more.png")
    with pytest.raises(UserError, match=r"train \(3 files\); here it would continue with images/train \(4 files\)"):
        trainer_of("--resume=a", "--nEpochs=2").run()
    Path("images/train/more.png").unlink()
    with Path("images/train/train0.png").open("ab") as file:
        file.write(b"longer")
    with pytest.raises(UserError, match="of which names or sizes are not the same"):
        trainer_of("--resume=a", "--nEpochs=2").run()
    assert last()["epoch"] == 0


def test_other_files_of_the_same_classes_are_refused(classifier_of: ClassifierOf) -> None:
    classifier_of("--nEpochs=1", "--run=a").run()
    shutil.copy("images/train/dark/0.png", "images/train/dark/more.png")
    with pytest.raises(UserError, match=r"images.train \(42 files\); here it would continue with .* \(43 files\)"):
        classifier_of("--resume=a", "--nEpochs=2").run()


@pytest.mark.slow
def test_other_images_or_labels_of_an_array_are_refused(
    classifier_of: ClassifierOf, caplog: pytest.LogCaptureFixture
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 20, 20), dtype=np.uint8)
    labels = np.arange(40) % 3
    np.savez("d.npz", x_train=images, y_train=labels)
    classifier_of("--traindata=d.npz", "--mean-std=mnist", "--nEpochs=1", "--run=a").run()
    facts = last()["task"]["data"]
    assert (facts["files"], facts["images"]) == (0, 40)
    other = images.copy()
    other[7, 0, 0] ^= 1
    for x, y in ((images, labels[::-1]), (other, labels)):
        np.savez("d.npz", x_train=x, y_train=y)
        wanted = r"on d\.npz \(40 images\); here .* with d\.npz \(40 images\), which are other images or labels"
        with pytest.raises(UserError, match=wanted):
            classifier_of("--resume=a", "--nEpochs=2").run()
    for path in Path("checkpoints/a").glob("*.pt"):  # of an older version, which kept no content
        content = {name: value for name, value in load_checkpoint(path).items() if name != "format"}
        kept = {"place": "d.npz", "files": 0, "digest": hashlib.sha256().hexdigest()}
        save_checkpoint(path, {**content, "task": {**content["task"], "data": kept}})
    classifier_of("--resume=a", "--nEpochs=2").run()
    assert "says nothing of what d.npz held, so whether d.npz holds the same is not checked" in caplog.text


def test_another_schedule_keeps_what_is_masked(trainer_of: TrainerOf, caplog: pytest.LogCaptureFixture) -> None:
    trainer_of(SPARSE, "--nEpochs=3", "--run=a", "--ema=0.8").run()
    masked = unpacked(last()["scheduler"]["masks"]["mid_part.1.weight"]["mask"])
    Path("other.yaml").write_text(PLAIN_RATE)
    trainer = trainer_of("--resume=a", "--compress=other.yaml", "--reset-schedule", "--reset-optimizer", "--nEpochs=4")
    trainer.run()
    content = last()
    assert "pruners" not in content["schedule"] or not content["schedule"]["pruners"]
    assert torch.equal(unpacked(content["scheduler"]["masks"]["mid_part.1.weight"]["mask"]), masked)
    assert torch.count_nonzero(content["model"]["mid_part.1.weight"][~masked]) == 0
    with caplog.at_level(logging.WARNING):
        trainer_of("--resume=a", "--compress=other.yaml", "--nEpochs=4")
    assert "--reset-schedule" not in caplog.text
    Path("other.yaml").write_text(PLAIN_RATE.replace("gamma: 0.1", "gamma: 0.2"))
    trainer_of("--resume=a", "--compress=other.yaml", "--nEpochs=4")
    assert (
        "differs from the file now:\n  lr_schedulers.lr.gamma: 0.1 in the run, 0.2 in the file\n--reset" in caplog.text
    )


def test_another_schedule_goes_on_with_the_thinned_network(classifier_of: ClassifierOf) -> None:
    classifier_of("--compress=filters.yaml", "--nEpochs=2", "--run=a").run()
    shape = last()["model"]["conv2.weight"].shape
    assert shape[0] < 16
    classifier_of("--resume=a", "--reset-schedule", "--nEpochs=3").run()
    assert last()["model"]["conv2.weight"].shape == shape
    classifier_of("--resume=a", "--nEpochs=4").run()
    assert last()["epoch"] == 3


@pytest.fixture
def saved(trainer_of: TrainerOf) -> dict:
    """The content of the checkpoint of a run `a` that has not begun yet."""
    trainer = trainer_of("--nEpochs=1", "--run=a")
    with trainer.session:
        trainer.prepare()
    return last()


def test_options_that_this_version_lacks_are_left_out(
    trainer_of: TrainerOf, saved: dict, caplog: pytest.LogCaptureFixture
) -> None:
    options = {**saved["options"], "of_another_version": 3, "explicit": [], "seed": 5}
    save_checkpoint(Path("checkpoints/a/last.pt"), {**saved, "options": options})
    trainer = trainer_of("--resume=a")
    assert trainer.config.seed == 5
    assert "lacks, which are left out: 'of_another_version'; 'explicit'" in caplog.text


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("options", None, "last checkpoint, which has not its form: options: Input should be a valid dict"),
        ("options", {"batchSize": "abc"}, "options .* cannot be: batchSize is 'abc': Input should be a valid integer"),
        ("options", {"batchSize": 0, "lr": float("nan"), "on_nan": "x", "seed": None},
         "batchSize is 0: .*greater.*; lr is nan: .*finite.*; on_nan is 'x': .* of stop, skip, rollback; seed"),
        ("history", 5, "history: Input should be a valid list"),
        ("middle", {"step": 1}, "middle.steps: Field required"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_form_is_told(
    trainer_of: TrainerOf, saved: dict, part: str, value: object, message: str
) -> None:
    save_checkpoint(Path("checkpoints/a/last.pt"), {**saved, part: value})
    with pytest.raises(UserError, match=message):
        trainer_of("--resume=a")


def test_all_that_is_missing_is_told_at_once(trainer_of: TrainerOf, saved: dict) -> None:
    for part in ("options", "schedule", "history"):
        del saved[part]
    save_checkpoint(Path("checkpoints/a/last.pt"), saved)
    with pytest.raises(UserError, match="run a cannot continue") as e:
        trainer_of("--resume=a")
    assert all(f"{part}: Field required" in str(e.value) for part in ("options", "schedule", "history"))


def test_a_run_that_torchrun_started_again_goes_on_with_itself(trainer_of: TrainerOf, saved: dict) -> None:
    """Its command has no --resume, and neither has what was saved of it."""
    config = replace(trainer_of("--nEpochs=1").config, resume="a")
    assert saved["options"]["resume"] is None
    assert resumed(config).resume == "a"


def test_a_quantized_run_does_not_go_on_by_thinning(classifier_of: ClassifierOf) -> None:
    Path("qat.yaml").write_text(
        "quantizers:\n  q: {class: DorefaQuantizer, bits_activations: 8, bits_weights: 8}\n"
        "policies:\n  - quantizer: {instance_name: q}\n    epochs: [0]\n"
    )
    classifier_of("--compress=qat.yaml", "--nEpochs=1", "--run=a").run()
    going_on = ("--resume=a", "--compress=filters.yaml", "--reset-schedule", "--nEpochs=3")
    with pytest.raises(UserError, match="extension 't': the network is quantized already.*leave 't' out"):
        classifier_of(*going_on).run()
    assert last()["epoch"] == 0
    classifier_of("--resume=a", "--nEpochs=2").run()  # the run itself is as it was


def test_groups_that_differ_are_told() -> None:
    def made(*sizes: int) -> torch.optim.Optimizer:
        groups = [{"params": [torch.nn.Parameter(torch.ones(1)) for _ in range(size)]} for size in sizes]
        return torch.optim.SGD(groups, lr=0.1)

    with pytest.raises(UserError, match=r"groups of \[2\] parameters, here there are groups of \[2, 1\].*--reset-opt"):
        restore_optimizer(made(2, 1), made(2).state_dict(), False, None)
    new = made(2, 1)
    restore_optimizer(new, {"param_groups": [{"lr": 0.02, "params": [0, 1]}]}, True, None)
    assert [group["lr"] for group in new.param_groups] == [0.02, 0.1]


def test_another_network_is_told_in_words() -> None:
    here = {"a.weight": torch.Size((2, 3)), "b": torch.Size((1,)), "same": torch.Size((1,)), "n": torch.Size((1,))}
    saved = {"a.weight": torch.Size((4, 3)), "c": torch.Size((1,)), "same": torch.Size((1,)), "n": None}
    assert differences.of_shapes(here, saved) == [
        "1 tensors of this network are not in it: b",
        "1 tensors in it are not of this network: c",
        "2 tensors are of another shape: a.weight is (4, 3) there and (2, 3) here, n is not a tensor there and "
        "(1,) here",
    ]
    assert differences.of_shapes(here, here) == []
    with pytest.raises(UserError, match=r"fit this network .Linear.: 1 tensors of this .*: bias; .*shape: weight"):
        load_exact_weights(torch.nn.Linear(2, 2), {"weight": torch.ones(3, 2)})


def test_what_was_changed_in_a_schedule() -> None:
    run = "pruners:\n  a: {class: X, levels: [0.1, 0.2]}\n  b: {class: Y}\npolicies:\n- {pruner: a, epochs: [1]}\n"
    assert differences.of_schedules(f"# new words\n{run}", run) == []
    file = run.replace("0.2", "0.3").replace("  b: {class: Y}\n", "").replace("epochs", "frequency")
    assert differences.of_schedules(file, run) == [
        "pruners.a.levels: [0.1, 0.2] in the run, [0.1, 0.3] in the file",
        "pruners.b.class: 'Y' in the run, nothing in the file",
        "policies[0].epochs: [1] in the run, nothing in the file",
        "policies[0].frequency: nothing in the run, [1] in the file",
    ]
    many = differences.of_schedules("".join(f"a{i}: 1\n" for i in range(50)), "b: 1\n")
    assert many is not None
    assert (len(many), many[-1]) == (13, "and 39 places more")
    assert differences.of_schedules("a: [", run) is None


def test_a_prefix_is_told() -> None:
    names = {"a.weight": 1, "b.weight": 2}
    both = {f"netG.{name}": value for name, value in names.items()} | {"netD.c.weight": 3}
    for here, saved, words in (
        (both, names, "names here have 'netG.' in"),
        (names, both, "names there have 'netG.' in"),
    ):
        assert words in differences.of_shapes(here, saved)[-1]


def test_another_machine_is_told() -> None:
    assert differences.of_machines(differences.machine()) is None
    assert differences.of_machines(None) is None
    found = differences.of_machines({"torch": "1.0", "threads": torch.get_num_threads()})
    assert found is not None
    assert found.startswith(f"torch 1.0 there, {torch.__version__} here: the resumed run may differ")


def test_a_run_of_format_1_goes_on(classifier_of: ClassifierOf) -> None:
    """The file was written by the version before checksums, after the first of three epochs."""
    Path("checkpoints/old").mkdir(parents=True)
    file = Path(__file__).parent / "format1.pt.gz"
    Path("checkpoints/old/last.pt").write_bytes(gzip.decompress(file.read_bytes()))
    for folder in ("train/dark", "train/light", "val/dark", "val/light"):  # it was trained on two classes
        Path("pics", folder).parent.mkdir(parents=True, exist_ok=True)
        Path("pics", folder).symlink_to(Path("images", folder).resolve())
    classifier_of("--resume=old", "--nEpochs=3").run()
    content = last("old")
    assert (content["format"], content["epoch"]) == (2, 2)
    weight = content["model"]["fc.weight"]
    assert int((weight == 0).sum()) == round(0.5 * weight.numel())

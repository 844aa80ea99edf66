"""Distillation in a whole run: where teachers come from, that they are saved once, that a resumed run has the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import WeightsEnum

from apputils.checkpoints.file import load_checkpoint, save_checkpoint, save_plain
from apputils.runs.folders import Run
from compress.errors import ScheduleError, UserError
from engine.saved.dense_baseline import dense_of_checkpoint
from engine.saved.run_teachers import RunTeachers
from models.C2SRCNN.solver import C2SRCNNTrainer
from models.Classify.teacher_networks import named_network, pretrained_network
from models.Classify.zoo import build_network
from tests.engine.conftest import TrainerOf

SCHEDULE = """\
pruners:
  filters: {{class: L1RankedStructureParameterPruner, reg_regims: {{mid_part.1.weight: [0.5, 3D]}}}}
extensions:
  thinner: {{class: FilterRemover}}
distillers:
  it: {{class: {cls}, teacher: {teacher}{more}}}
policies:
  - distiller: {{instance_name: it}}
    starting_epoch: 1
    ending_epoch: 4
  - pruner: {{instance_name: filters}}
    epochs: [2]
  - extension: {{instance_name: thinner}}
    epochs: [2]
"""


@pytest.fixture(autouse=True)
def small_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thinning and MAC counting trace with an image of 24 x 24 instead of 640 x 360."""
    monkeypatch.setattr(C2SRCNNTrainer, "example_inputs", lambda trainer: (torch.zeros(1, 3, 24, 24),))


def schedule(teacher: str, cls: str = "OutputDistillation", more: str = "") -> str:
    Path("distil.yaml").write_text(SCHEDULE.format(cls=cls, teacher=teacher, more=more))
    return "--compress=distil.yaml"


def weights(run: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_checkpoint(Path(f"checkpoints/{run}/last.pt"))["model"]
    return found


@pytest.mark.parametrize(
    ("cls", "more"),
    [("OutputDistillation", ""), ("FeatureDistillation", ", layers: [mid_part.2, mid_part.7], adaptors: always")],
)
def test_a_resumed_run_has_the_same_teacher_and_the_same_weights(trainer_of: TrainerOf, cls: str, more: str) -> None:
    trainer_of(schedule("self", cls, more), "--nEpochs=4", "--run=whole").run()
    trainer_of(schedule("self", cls, more), "--nEpochs=2", "--run=cut").run()
    trainer_of("--resume=cut", "--nEpochs=4").run()
    whole, cut = weights("whole"), weights("cut")
    assert whole["mid_part.1.weight"].shape[0] == 16
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
    teachers = [load_checkpoint(Path(f"checkpoints/{run}/teachers.pt"))["teachers"]["self"] for run in ("whole", "cut")]
    assert teachers[0]["weights"]["mid_part.1.weight"].shape[0] == 32
    assert all(torch.equal(value, teachers[1]["weights"][name]) for name, value in teachers[0]["weights"].items())


def test_the_checkpoints_do_not_hold_the_teacher_and_its_file_is_written_once(trainer_of: TrainerOf) -> None:
    trainer = trainer_of(schedule("self"), "--nEpochs=4", "--run=a")
    path, written = Path("checkpoints/a/teachers.pt"), []
    save = trainer.save

    def note() -> None:
        save()
        written.append(path.stat().st_mtime_ns if path.exists() else None)

    trainer.save = note  # type: ignore[method-assign]
    summary = trainer.run()
    assert list(summary["quality"]["psnr"]) == ["bicubic", "dense network (teacher self)", "model"]
    assert summary["dense"] == "dense network (teacher self)"
    checkpoint = load_checkpoint(Path("checkpoints/a/last.pt"))
    [dense] = dense_of_checkpoint(Run("a"), checkpoint).values()
    assert dense.mid_part[1].weight.shape[0] == 32  # as it was before it was thinned
    measured = trainer.measure(dense)["psnr"]["model"]
    assert measured == pytest.approx(summary["quality"]["psnr"]["dense network (teacher self)"], abs=1e-6)
    assert written[0] is None
    assert len(set(written[1:])) == 1
    assert load_checkpoint(Path("checkpoints/a/last.pt"))["scheduler"]["teachers"]["self"]["weights"] is None


def test_a_run_a_file_and_a_thinned_network_teach(trainer_of: TrainerOf) -> None:
    trainer_of(schedule("self"), "--nEpochs=4", "--run=small").run()
    assert load_checkpoint(Path("checkpoints/small/best.pt"))["scheduler"]["recipes"]
    by_run = trainer_of(schedule("small"), "--nEpochs=2", "--run=by-run")
    by_run.run()
    trainer_of(schedule("checkpoints/small/best.pt"), "--nEpochs=2", "--run=by-file").run()
    teacher = by_run.compression_scheduler.teachers.find("small", by_run.model)
    assert teacher.get_parameter("mid_part.1.weight").shape[0] == 16
    assert all(torch.equal(value, weights("by-file")[name]) for name, value in weights("by-run").items())
    trainer_of(schedule("small"), "--nEpochs=4", "--run=whole").run()
    Path("checkpoints/small/best.pt").unlink()
    trainer_of("--resume=by-run", "--nEpochs=4").run()
    assert all(torch.equal(value, weights("by-run")[name]) for name, value in weights("whole").items())


def test_no_teacher_and_no_file_of_teachers_are_named(trainer_of: TrainerOf) -> None:
    with pytest.raises(
        ScheduleError, match=r"distillers.it: there is no teacher 'smal'; a teacher is `self`, a checkpoint"
    ):
        trainer_of(schedule("smal"), "--nEpochs=2").run()
    with pytest.raises(ScheduleError, match="--arch=big: unknown architecture; there are: c2srcnn"):
        trainer_of(schedule("big=big.pt"), "--nEpochs=2").run()
    trainer_of(schedule("self"), "--nEpochs=2", "--run=a").run()
    Path("checkpoints/a/teachers.pt").unlink()
    with pytest.raises(UserError, match=r"the run's teachers.pt, which keeps the teachers self, is missing. Put it"):
        trainer_of("--resume=a", "--nEpochs=4").run()


def test_a_damaged_file_of_teachers_is_made_anew_as_its_message_says(trainer_of: TrainerOf) -> None:
    given = schedule("self")
    trainer_of(given, "--nEpochs=2", "--run=a").run()
    file = Path("checkpoints/a/teachers.pt")
    save_checkpoint(file, {"sources": {}})
    with pytest.raises(UserError, match=r"is not a file of teachers: teachers: Field required. It keeps the teachers"):
        trainer_of("--resume=a", "--nEpochs=3").run()
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"teachers.pt .*damaged.* --reset-schedule --compress=SCHEDULE, with"):
        trainer_of("--resume=a", "--nEpochs=3").run()
    file.unlink()
    trainer_of("--resume=a", "--nEpochs=3", "--reset-schedule", given).run()
    trainer_of("--resume=a", "--nEpochs=4").run()


def build(name: str, pretrained: bool = False) -> Any:
    """As the classifiers' trainer does, for three classes and images of 32 pixels in colour."""
    return pretrained_network(name, 3, 32) if pretrained else named_network(name, 3, 3, 32)


def test_an_architecture_with_a_file_of_weights(here: Path) -> None:
    network = build("lenet5")
    save_plain(here / "lenet.pt", network.state_dict())
    before = torch.get_rng_state()
    found = RunTeachers("Classify", build)("lenet5=lenet.pt")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in network.state_dict().items())
    broken = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    next(iter(broken.values())).view(-1)[0] = float("nan")
    save_plain(here / "nan.pt", broken)
    with pytest.raises(UserError, match=r"the teacher 'lenet5=nan.pt': NaN or infinity in 1 of .*nothing was loaded"):
        RunTeachers("Classify", build)("lenet5=nan.pt")
    with pytest.raises(UserError, match=r"does not fit this network.*as in vgg16_named\(width_mult=0.25\)=FILE"):
        RunTeachers("Classify", build)("simplenet=lenet.pt")


def test_an_architecture_with_settings_and_a_file_of_weights(here: Path) -> None:
    network = build_network("resnet20", 3, 3, 32, {"width_mult": 0.25, "exits": ["layer1", "layer2"]})
    save_plain(here / "small.pt", network.state_dict())
    name = "resnet20(width_mult=0.25, exits=layer1,layer2)=small.pt"
    found = RunTeachers("Classify", build)(name)
    assert found.arguments == network.arguments
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet20",
            "'resnet20' is an architecture without weights, .*; write resnet20=FILE with a file of its weights",
        ),
        ("resnet20(width_mult=0.5)", r"write resnet20\(width_mult=0.5\)=FILE"),
        ("torchvision:resnet18", "write torchvision:resnet18=FILE .*, or torchvision:resnet18=pretrained"),
        ("resnet2", "there is no teacher 'resnet2'; a teacher is `self`"),
        ("resnet20(width=0.5)=a.pt", "unknown setting 'width' of a network; did you mean 'width_mult'"),
        ("resnet20(width_mult=much)=a.pt", "width_mult is 'much'; it must be a number"),
        ("resnet20(width_mult=inf)=a.pt", "width_mult is 'inf'; it must be a number"),
        ("resnet20(base=4)=a.pt", "--base does not apply to --arch=resnet20"),
        ("resnet20=absent.pt", "there is no checkpoint absent.pt"),
        ("resnet20=pretrained", "only torchvision:NAME and timm:NAME have trained weights; resnet20 has none"),
        ("torchvision:resnet18(dropout=0.1)=pretrained", "takes no settings; give torchvision:resnet18=pretrained"),
        ("torchvision:resnet1=pretrained", "the trained weights of torchvision:resnet1 cannot be fetched"),
    ],
)
def test_what_is_no_teacher_says_what_to_write(here: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        RunTeachers("Classify", build)(name)


def test_a_librarys_trained_network(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = build_network("torchvision:squeezenet1_1", 1000, 3, 32).state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **_: {**trained, "aux.weight": torch.zeros(1)})
    teachers = RunTeachers("Classify", build)
    found = teachers("torchvision:squeezenet1_1=pretrained")
    assert all(torch.equal(value, trained[key]) for key, value in found.state_dict().items())
    again = teachers("torchvision:squeezenet1_1=pretrained")  # by its source, as a resumed run finds it
    assert [each.shape for each in again.parameters()] == [each.shape for each in found.parameters()]
    with pytest.raises(UserError, match="reads images of three channels, and these have one; give --channels=3"):
        pretrained_network("torchvision:squeezenet1_1", 1, 32)


def test_a_distilling_schedule_passes_the_smoke_run(trainer_of: TrainerOf) -> None:
    from engine.commands.smoke import smoke

    smoke(trainer_of(schedule("self"), "--nEpochs=4"))


@pytest.mark.slow
def test_a_compiled_student_is_heard(trainer_of: TrainerOf) -> None:
    losses = {}
    for option in ("--no-compile", "--compile"):
        more = ", layers: [mid_part.2], student_wt: 0.0"
        trainer = trainer_of(schedule("self", "FeatureDistillation", more), "--nEpochs=3", "--samples=4", option)
        trainer.run()
        losses[option] = trainer.progress.history[1]["it_loss"]
    assert losses["--compile"] == pytest.approx(losses["--no-compile"], rel=1e-3)


def test_a_teacher_that_does_not_fit_is_in_the_report_with_the_other_faults(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=dense").run()
    other = trainer_of("--nEpochs=1", "--run=three", "--upscale_factor=3")
    other.run()
    text = SCHEDULE.format(cls="OutputDistillation", teacher="three", more="")
    Path("distil.yaml").write_text(text.replace("mid_part.1.weight", "mid.weight"))
    with pytest.raises(ScheduleError) as e:
        trainer_of("--compress=distil.yaml", "--nEpochs=4", "--run=a").run()
    assert "the schedule has 2 faults" in str(e.value)
    assert "distillers.it: the student's output is (1, 3, " in str(e.value)
    assert "'mid.weight' matches no weight" in str(e.value)
    assert not Path("logs/a").exists()

"""Distillation in a whole run: where teachers come from, that they are saved once, that a resumed run has the same."""

from pathlib import Path
from typing import Any

import pytest
import torch

from apputils.checkpoint import load_checkpoint, save_checkpoint, save_plain
from compress.errors import ScheduleError, UserError
from models.C2SRCNN.solver import C2SRCNNTrainer
from models.teachers import RunTeachers
from tests.models.conftest import TrainerOf

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
    """Thinning and MAC counting trace with a picture of 24 x 24 instead of 640 x 360."""
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
    trainer.run()
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
    with pytest.raises(ScheduleError, match=r"--optform=SR has no architecture 'big': its network is always the same"):
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
    with pytest.raises(UserError, match=r"is no file of teachers: teachers: Field required. It keeps the teachers"):
        trainer_of("--resume=a", "--nEpochs=3").run()
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"teachers.pt .*damaged.* --reset-schedule --compress=SCHEDULE, with"):
        trainer_of("--resume=a", "--nEpochs=3").run()
    file.unlink()
    trainer_of("--resume=a", "--nEpochs=3", "--reset-schedule", given).run()
    trainer_of("--resume=a", "--nEpochs=4").run()


def test_an_architecture_with_a_file_of_weights(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.Classify.zoo import build_network

    def build(name: str) -> Any:
        return build_network(name, 10, 1, 32)

    network = build("lenet5")
    save_plain(here / "lenet.pt", network.state_dict())
    before = torch.get_rng_state()
    found = RunTeachers("Classify", build)("lenet5=lenet.pt")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in network.state_dict().items())
    with pytest.raises(UserError, match="does not fit this network"):
        RunTeachers("Classify", build)("simplenet=lenet.pt")


def test_a_distilling_schedule_passes_the_smoke_run(trainer_of: TrainerOf) -> None:
    from models.smoke import smoke

    smoke(trainer_of(schedule("self"), "--nEpochs=4"))


@pytest.mark.slow
def test_a_compiled_student_is_heard(trainer_of: TrainerOf) -> None:
    losses = {}
    for option in ("--no-compile", "--compile"):
        more = ", layers: [mid_part.2], student_wt: 0.0"
        trainer = trainer_of(schedule("self", "FeatureDistillation", more), "--nEpochs=3", "--samples=4", option)
        trainer.run()
        losses[option] = trainer.history[1]["it_loss"]
    assert losses["--compile"] == pytest.approx(losses["--no-compile"], rel=1e-3)

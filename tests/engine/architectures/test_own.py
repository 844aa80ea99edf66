"""A network of one's own is trained, resumed, thinned and tested; a checkpoint alone never imports it."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from apputils.checkpoints.file import load_checkpoint
from compress.errors import UserError
from data.loaders import sr_testing_loader
from engine.architectures.own import own_function
from engine.saved.load_model import load_network
from models.C2SRCNN.solver import C2SRCNNTrainer
from models.Classify.solver import ClassifyTrainer
from models.Deblur.solver import DeblurTrainer
from models.SR.tester import XSRCNNTester
from models.SR.zoo import ZOO
from options import own_network
from options.Classify_options.train_options import TrainOptions as ClassifyOptions
from options.Deblur_options.train_options import TrainOptions as DeblurOptions
from options.Normal_options.test_options import TestOptions
from options.Normal_options.train_options import TrainOptions
from options.Restore_options.train_options import TrainOptions as RestoreOptions
from tests.engine.conftest import TrainerOf

THINNED = """\
version: 1
pruners:
  filters: {class: L1RankedStructureParameterPruner, reg_regims: {first.0.weight: [0.5, 3D]}}
extensions:
  thinner: {class: FilterRemover}
policies:
  - pruner: {instance_name: filters}
    epochs: [0]
  - extension: {instance_name: thinner}
    epochs: [0]
fine_tuning_epochs: 2
"""


def last(run: str) -> dict[str, Any]:
    return load_checkpoint(Path("checkpoints") / run / "last.pt")


def forget() -> None:
    """As in a new process: nothing has been typed."""
    own_network.named.clear()


def test_it_is_trained_thinned_resumed_and_loaded(nets: Path, trainer_of: TrainerOf, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "run")
    Path("thin.yaml").write_text(THINNED)
    arch = f"--arch={nets}:Fine"
    given = (arch, "--arch-args={width: 6}", "--compress=thin.yaml")
    trainer_of(*given, "--run=whole", "--nEpochs=3").run()
    story = "99 % of 1,170 parameters are in layers that can lose channels. Pinned: last.weight[0]: network output"
    assert f"network {nets}:Fine: {story}" in caplog.text
    assert f"next: python test.py --run=whole --arch={nets}:Fine" in caplog.text
    trainer_of(*given, "--run=cut", "--nEpochs=2").run()
    forget()
    with pytest.raises(
        UserError, match=f"a checkpoint never imports code by itself. If you trust .*--arch={nets}:Fine"
    ):
        trainer_of("--resume=cut", "--nEpochs=3").run()
    trainer_of("--resume=cut", "--nEpochs=3", arch).run()
    whole, cut = last("whole"), last("cut")
    assert all(torch.equal(value, cut["model"][name]) for name, value in whole["model"].items())
    network = whole["network"]["arguments"]
    assert {**network, "source": None} == {
        "arch": f"{nets}:Fine", "upscale_factor": 2, "settings": {"width": 6}, "source": None,
    }  # fmt: skip
    forget()
    with pytest.raises(UserError, match="never imports"):
        load_network(Path("checkpoints/cut/last.pt"))
    own_network.allow([f"{nets}:Fine"])
    assert load_network(Path("checkpoints/cut/last.pt")).first[0].out_channels == 3


@pytest.mark.slow
def test_what_nobody_runs_is_declared_recorded_and_heeded(
    nets: Path, trainer_of: TrainerOf, caplog: Any, monkeypatch: Any
) -> None:
    caplog.set_level(logging.INFO, "run")
    masked = THINNED.replace("  - extension: {instance_name: thinner}\n    epochs: [0]\n", "")
    Path("mask.yaml").write_text(masked.replace("extensions:\n  thinner: {class: FilterRemover}\n", ""))
    monkeypatch.setattr(C2SRCNNTrainer, "example_inputs", lambda self: (torch.zeros(1, 3, 24, 24),))
    given = (f"--arch={nets}:Kept", "--compress=mask.yaml", "--nEpochs=1")
    with pytest.raises(UserError, match="'odl', which is declared as unused, covers no parameter.*mean 'old'"):
        trainer_of(*given, "--unused", "odl", "older").build()
    trainer_of(*given, "--run=told", "--unused", "old", "older").run()
    assert last("told")["options"]["unused"] == ("old", "older")
    trainer_of(*given, "--run=plain").run()
    assert "no example call reads old.weight" in caplog.text
    assert "--unused old older" in caplog.text
    arch = f"--arch={nets}:Kept"
    with pytest.raises(UserError, match=r"(?s)--unused=.*--reset-schedule lets unused change\. --thin lets unused"):
        trainer_of("--resume=told", "--nEpochs=2", "--unused", "old", arch)
    trainer_of("--resume=told", "--nEpochs=2", "--thin", arch).run()
    trainer_of("--resume=plain", "--nEpochs=2", "--thin", "--unused", "old", "older", arch).run()
    assert last("told")["model"]["first.0.weight"].shape[0] == 4
    assert last("told")["options"]["unused"] == last("plain")["options"]["unused"] == ("old", "older")


def test_it_is_evaluated_where_it_is_named(nets: Path, trainer_of: TrainerOf) -> None:
    trainer_of(f"--arch={nets}:narrow_fine", "--nEpochs=1", "--run=a").run()  # a function that makes a network
    forget()
    opt = TestOptions().parse(["--model=checkpoints/a/best.pt", "--no-export", "--no-report", "--sense=none"])
    checkpoint = load_checkpoint(Path("checkpoints/a/best.pt"))

    def tester() -> XSRCNNTester:
        return XSRCNNTester(opt, sr_testing_loader(SimpleNamespace(testdata="images/val"), checkpoint), checkpoint)

    with pytest.raises(UserError, match="never imports"):
        tester().run()
    TestOptions().parse([f"--arch={nets}:narrow_fine"])
    assert tester().run()["params"] == 712


def test_resuming_with_an_edited_file_is_warned_of(nets: Path, trainer_of: TrainerOf, caplog: Any) -> None:
    arch = f"--arch={nets}:narrow_fine"
    trainer_of(arch, "--nEpochs=1", "--run=a").run()
    trainer_of(arch, "--nEpochs=2", "--resume=a").run()
    assert "is not the file" not in caplog.text
    nets.write_text(nets.read_text() + "# edited\n")
    trainer_of(arch, "--nEpochs=3", "--resume=a").run()
    words = f"{nets} is not the file that the network of {arch} was trained with"
    assert words in caplog.text
    assert words in str(last("a")["warnings"])


def test_a_checkpoint_alone_imports_nothing(nets: Path, here: Path) -> None:
    with pytest.raises(UserError, match="a checkpoint never imports code by itself"):
        ZOO(f"{nets}:Fine", upscale_factor=2)
    assert not (here / "imported").exists()
    own_network.allow([f"{nets}:Fine"])
    ZOO(f"{nets}:Fine", upscale_factor=2)
    assert (here / "imported").exists()


def test_a_file_that_moved_is_found_by_its_class(nets: Path, here: Path, caplog: Any) -> None:
    own_network.allow([f"{nets}:Fine"])
    network = ZOO("old/place/nets.py:Fine", settings={"width": 4}, upscale_factor=2)
    source = vars(network)["checkpoint_arguments"]["source"]
    assert not caplog.text
    assert ZOO("nets:Fine", source=source, upscale_factor=2) is not None
    ZOO("nets:Fine", source="another", upscale_factor=2)
    assert "is not the file that the network of" in caplog.text


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        (
            "Narrow",
            [],
            "an input of 1 x 3 x 12 x 12 the output is 1 x 3 x 24 x 23, and the task needs 1 x 3 x 24 x 24",
        ),
        ("InPlace", [], "InPlace changes its input in place"),
        ("Tuple", [], "the output is a tuple, and the task needs"),
        ("TupleInTraining", [], "the output in training mode is a tuple, and the task needs 2 x 3 x 24 x 24"),
        ("NarrowInTraining", [], "in training mode is 2 x 3 x 24 x 23, and the task needs .*pad inside its forward"),
        ("InPlaceInTraining", [], "changes its input in place in training mode"),
        ("OneAtATime", [], "in training mode is 1 x 3 x 24 x 48"),
        ("Frozen", [], "has no parameter that asks for gradients"),
        ("Detached", [], "does not depend on a parameter that is trained"),
        ("TornGradient", [], "its gradients cannot be computed: RuntimeError: one of the variables"),
        ("Complex", [], "1 x 3 x 24 x 24 of torch.complex64, and the task needs"),
        ("Lazy", [], "has lazy layers.*write them out"),
        ("MadeLate", [], "its forward makes or removes scale, so a checkpoint would not fit"),
        ("Leaving", [], r"cannot be built: SystemExit: usage: mine \(line \d+ of"),
        ("made", [], "is a network; name its class"),
        ("Untraced", [], r"cannot be traced .*nets.py:3\d.*MACs, thinning and export need the trace"),
        (
            "Multiples",
            [],
            r"does not run on an input of 1 x 3 x 24 x 24: AssertionError: sides must be .*line 4\d of",
        ),
        (
            "Failing",
            ["--arch-args={size: 1}"],
            r"built with size: 1: KeyError: 'no such size' \(line [56]\d of .*nets.py\)",
        ),
        ("Failing", [], "needs size; give --arch-args='{size: ...}'"),
        ("Fine", ["--arch-args={widht: 1}"], "takes no argument 'widht'; did you mean 'width'"),
        ("Fine", ["--width=0"], "--width"),
        ("Fein", [], "Fein is not in it; did you mean 'Fine'"),
        ("seven", [], "seven is not callable"),
        ("nothing", [], "gives int, not a torch.nn.Module"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    nets: Path,
    trainer_of: TrainerOf,
    name: str,
    more: list[str],
    message: str,
) -> None:
    with pytest.raises((UserError, SystemExit)) as error:
        trainer_of(f"--arch={nets}:{name}", *more, "--run=a").run()
    if isinstance(error.value, UserError):
        error.match(message)
        assert "nothing was started" in str(error.value).lower()
    assert not Path("checkpoints/a").exists()


def test_files_and_modules_that_are_not_there(nets: Path, here: Path) -> None:
    for arch, message in {
        f"{nets.parent}/nest.py:Fine": "there is no file .*did you mean '.*nets.py:Fine'",
        "no_such_module_here:Net": "there is no module no_such_module_here, neither in this folder nor installed",
        "models.SR.zoo:Nett": "Nett is not in it",
    }.items():
        own_network.allow([arch])
        with pytest.raises(UserError, match=message):
            ZOO(arch, upscale_factor=2)
    (here / "broken.py").write_text("import torch\nx = = 1\n")
    own_network.allow(["broken.py:Net"])
    with pytest.raises(UserError, match=r"--arch=broken.py:Net cannot be imported: SyntaxError.*broken.py, line 2"):
        ZOO("broken.py:Net", upscale_factor=2)


def test_a_try_leaves_a_network_as_it_was(nets: Path, trainer_of: TrainerOf) -> None:
    trainer = trainer_of(f"--arch={nets}:Fine")
    trainer.build()
    before = ZOO(f"{nets}:Fine", upscale_factor=2)
    after = trainer.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.state_dict().items() if "norm" in name)
    assert all(module.training for module in trainer.model.modules())
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_a_try_leaves_a_buffer_that_forward_replaces(nets: Path, trainer_of: TrainerOf) -> None:
    trainer = trainer_of(f"--arch={nets}:Replacing")
    trainer.build()
    assert float(trainer.model.mean) == 0


def test_a_constructor_that_changes_the_folder_moves_no_run(nets: Path, here: Path) -> None:
    own_network.allow([f"{nets}:Moving"])
    ZOO(f"{nets}:Moving", upscale_factor=2)
    assert Path.cwd() == here
    (here / "inner").mkdir()
    (here / "moves.py").write_text("import os\nfrom torch import nn\nos.chdir('inner')\nNet = nn.Identity\n")
    own_network.allow(["moves.py:Net"])
    ZOO("moves.py:Net", upscale_factor=2)
    assert Path.cwd() == here


def test_a_network_that_keeps_what_it_computed_is_trained(nets: Path, trainer_of: TrainerOf) -> None:
    trainer = trainer_of(f"--arch={nets}:Remembering")
    trainer.build()
    trainer.compute_loss(next(iter(trainer.training_loader))).backward()


def test_a_wrapped_network_is_trained_without_its_wrapper(nets: Path, trainer_of: TrainerOf, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "run")
    trainer = trainer_of(f"--arch={nets}:compiled_fine")
    trainer.build()
    assert "is wrapped in OptimizedModule; the Fine inside is trained" in caplog.text
    assert "first.0.weight" in trainer.model.state_dict()


def test_files_of_a_package_import_their_neighbours(here: Path) -> None:
    """Also where the package has the name of one of the bench's."""
    for folder, own in {"theirs": "theirs.deep.net", "models": "own_models_"}.items():
        deep = here / folder / "deep"
        deep.mkdir(parents=True)
        (here / folder / "__init__.py").write_text("")
        (deep / "__init__.py").write_text("")
        (here / folder / "part.py").write_text("from torch import nn\nclass Part(nn.Conv2d): ...\n")
        (deep / "net.py").write_text("from ..part import Part\ndef net(): return Part(3, 3, 1)\n")
        own_network.allow([f"{folder}/deep/net.py:net"])
        network = ZOO(f"{folder}/deep/net.py:net")
        assert type(network).__name__ == "Part"
        assert type(network).__module__.startswith(own.partition(".")[0])


def test_a_neighbour_that_a_module_of_the_bench_hides(here: Path) -> None:
    folder = here / "plain"
    folder.mkdir()
    (folder / "data.py").write_text("from torch import nn\nclass D(nn.Identity): ...\n")
    (folder / "uses.py").write_text("from data import D\n")
    (folder / "near.py").write_text("from .data import D\n")
    own_network.allow([f"plain/{name}.py:D" for name in ("uses", "near")])
    with pytest.raises(
        UserError, match=r"data is .*__init__.py here, not .*plain/data.py: rename that, or write `from"
    ):
        ZOO("plain/uses.py:D")
    assert type(ZOO("plain/near.py:D")).__name__ == "D"


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        ("--run=a", "--run=a --arch=n.py:B"),
        ("--arch=n.py:A --run=a", "--run=a --arch=n.py:B"),
        ("--arch n.py:A --run=a", "--run=a --arch=n.py:B"),
        ("--compare a b", "--compare a b --arch=n.py:B"),
        ("--compare a b --arch n.py:A", "--compare a b --arch n.py:A n.py:B"),
        ("--arch=n.py:A --compare a b", "--compare a b --arch n.py:A n.py:B"),
    ],
)
def test_what_it_says_to_type_can_be_typed(monkeypatch: pytest.MonkeyPatch, typed: str, asked: str) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("sys.argv", ["test.py", *typed.split()])
    with pytest.raises(UserError) as error:
        ZOO("n.py:B")
    assert str(error.value).endswith(f"type: python test.py {asked}")


def test_arguments_must_be_plain(nets: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apputils.checkpoints.bounded._memory", lambda: 10**9)
    for text, message in {
        "[1": "is not YAML",
        "3": "must hold arguments by name",
        "{1: 2}": "must hold arguments by name",
        "{a b: 2}": "must hold arguments by name",
        "{width: 2020-01-01}": "is no plain value",
        "{width: .nan}": "nan is not a finite number",
        "{width: 1000000000000}": "cannot be built with width: 1000000000000: RuntimeError: .*can't allocate memory",
        "{width: 10000}": "cannot be built with width 10000: its weights need [0-9,]+ GB and more",
    }.items():
        with pytest.raises(UserError, match=message):
            C2SRCNNTrainer(TrainOptions().parse([f"--arch={nets}:Fine", f"--arch-args={text}"]), None, None).build()


def test_a_number_that_is_no_size_may_be_large(nets: Path, here: Path) -> None:
    (here / "seeded.py").write_text(
        "from nets import Restorer\n\n\nclass Seeded(Restorer):\n    def __init__(self, seed, theta):\n"
        "        super().__init__()\n        self.seed, self.theta = seed, theta\n"
    )
    (here / "nets.py").write_text(nets.read_text())
    (here / "their_blocks.py").write_text((nets.parent / "their_blocks.py").read_text())
    own_network.allow(["seeded.py:Seeded"])
    network = ZOO("seeded.py:Seeded", settings={"seed": 123456, "theta": 5e5}, upscale_factor=1)
    assert vars(network)["checkpoint_arguments"]["settings"] == {"seed": 123456, "theta": 5e5}


def test_the_other_applications_take_them_too(nets: Path, here: Path) -> None:
    deblur = DeblurTrainer(DeblurOptions().parse(["--optform=Deblur", f"--arch={nets}:Restorer"]), None, None)
    deblur.build()
    assert len(list(deblur.model.parameters())) == 4
    classify = ClassifyTrainer(ClassifyOptions().parse(["--optform=Classify", f"--arch={nets}:Classifier"]), None, None)
    classify.build()
    assert classify.model.head.out_features == 10
    with pytest.raises(UserError, match="needs upscale_factor; give --arch-args"):
        DeblurTrainer(DeblurOptions().parse(["--optform=Deblur", f"--arch={nets}:Fine"]), None, None).build()
    with pytest.raises(UserError, match="1 x 3 x 32 x 32, and the task needs 1 x 10"):
        ClassifyTrainer(
            ClassifyOptions().parse(["--optform=Classify", "--channels=3", f"--arch={nets}:Restorer"]), None, None
        ).build()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("noise:5 + own.py:dark", ["noise:5", "own.py:dark"]),
        ("jpeg:40+../a+b/own.py:dark+blur:1", ["jpeg:40", "../a+b/own.py:dark", "blur:1"]),
        ("../a++b/own.py:f", ["../a++b/own.py:f"]),
        ("noise:5+C:\\a+b\\own.py:f", ["noise:5", "C:\\a+b\\own.py:f"]),
        ("package.mod:f+noise:2+", ["package.mod:f", "noise:2", ""]),
        ("a+noise:10++jpeg:3", ["a", "noise:10", "", "jpeg:3"]),
    ],
)
def test_a_plus_in_the_path_of_a_file_belongs_to_it(text: str, parts: list[str]) -> None:
    assert own_network.parts_of(text) == parts
    own_network.named.clear()
    own_network.allow([text])
    assert own_network.named == {each for each in parts if own_network.is_own(each)}


def test_what_may_be_meant_are_networks(here: Path) -> None:
    lines = ["from torch import nn", "class Cfg: ...", "def helper(): ...", "class _Own(nn.Module): ..."]
    (here / "helps.py").write_text("\n".join([*lines, "class Big(nn.Module): ...", "class Small(nn.Module): ..."]))
    (here / "makes.py").write_text("\n".join(lines))
    for arch, there in {"helps.py:Zzz": "Big, Small", "makes.py:Zzz": "helper"}.items():
        own_network.allow([arch])
        with pytest.raises(UserError, match=f"Zzz is not in it; there are: {there}; nothing"):
            ZOO(arch)
    with pytest.raises(UserError, match="Zzz is not in it; there are: helper; nothing"):
        own_function("--degradation=helps.py:Zzz", "helps.py:Zzz")


def test_an_option_of_test_py_names_only_ones_own() -> None:
    with pytest.raises(UserError, match="--arch names networks of your own"):
        TestOptions().parse(["--arch=edsr_baseline"])


def test_the_next_command_names_the_code_again() -> None:
    train = RestoreOptions().parse(["--arch=my nets/n.py:A", "--degradation=noise:5+d.py:dark"])
    assert own_network.to_type_again(train) == " '--arch=my nets/n.py:A' --degradation=noise:5+d.py:dark"
    assert own_network.to_type_again(RestoreOptions().parse(["--arch=espcn"])) == ""
    assert (
        own_network.to_type_again(RestoreOptions().parse(["--degradation=a+b/d.py:f"])) == " --degradation=a+b/d.py:f"
    )
    assert own_network.to_type_again(TestOptions().parse(["--arch", "n.py:A", "m.py:B"])) == " --arch n.py:A m.py:B"

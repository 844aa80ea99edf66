"""DeblurGAN under the shared loop: both optimizers, hooks once per generator update, resume, names, presets."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from apputils.checkpoints.file import load_checkpoint
from compress.errors import ScheduleError, UserError
from compress.policies.base import HOOKS
from engine.commands.smoke import smoke
from engine.saved.load_model import load_network
from models.Deblur.losses import VGG_FILE, l1_ssim
from models.Deblur.model import Discriminator
from options.Deblur_options.train_options import SMALLEST_JUDGED
from tests.fuzz.watch import limited
from tests.models.Deblur.conftest import SCHEDULE, DeblurrerOf

ROOT = Path(__file__).resolve().parents[3]
SPARSE = "--compress=schedule.yaml"


def last(run: str) -> dict[str, Any]:
    return load_checkpoint(Path("checkpoints") / run / "last.pt")


def test_hooks_fire_once_per_generator_update_in_order(deblurrer_of: DeblurrerOf) -> None:
    trainer = deblurrer_of("--gan=wgan-gp", "--nEpochs=1")
    trainer.build()
    critic, calls = trainer.companions["netD"], []
    for hook in HOOKS:
        real = getattr(trainer.compression_scheduler, hook)

        def called(*given: Any, hook: str = hook, real: Any = real, **named: Any) -> Any:
            calls.append(hook)
            return real(*given, **named)

        setattr(trainer.compression_scheduler, hook, called)
    steps: list[str] = []
    trainer.optimizer.register_step_post_hook(lambda *_: (calls.append("step"), steps.append("G")))
    critic.optimizer.register_step_post_hook(lambda *_: steps.append("D"))
    losses = trainer.train(0, trainer.compression_scheduler)
    update = ["on_minibatch_begin", "before_backward_pass", "before_parameter_optimization", "step", "on_minibatch_end"]
    assert calls == ["on_epoch_begin", *(3 * update)]
    assert "".join(steps) == 3 * "DDDDDG"
    assert losses["loss"] == pytest.approx(losses["content"] + 0.001 * losses["adversarial"], rel=1e-5)


@pytest.mark.parametrize("gan", ["lsgan", "wgan-gp", "vanilla"])
def test_the_critic_learns_and_the_generator_too(deblurrer_of: DeblurrerOf, gan: str) -> None:
    trainer = deblurrer_of(f"--gan={gan}", "--critic-steps=1", "--nEpochs=1")
    trainer.build()
    networks = {"netG": trainer.model, "netD": trainer.companions["netD"].network}
    before = copy.deepcopy({name: each.state_dict() for name, each in networks.items()})
    trainer.train(0, trainer.compression_scheduler)
    for name, network in networks.items():
        assert any(not torch.equal(value, before[name][key]) for key, value in network.state_dict().items())
        assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_resumed_run_is_the_same_run_of_both_networks(deblurrer_of: DeblurrerOf) -> None:
    given = (SPARSE, "--gan=wgan-gp", "--critic-steps=2", "--dropout=0.5")  # both draw random numbers in a step
    deblurrer_of(*given, "--nEpochs=4", "--run=whole").run()
    deblurrer_of(*given, "--nEpochs=2", "--run=cut").run()
    torch.rand(7)  # whatever happened in between
    Path("schedule.yaml").unlink()  # the resolved schedule is in the checkpoint
    deblurrer_of("--resume=cut", "--nEpochs=4").run()
    whole, cut = last("whole"), last("cut")
    assert all(torch.equal(value, cut["model"][name]) for name, value in whole["model"].items())
    critics = [each["companions"]["netD"] for each in (whole, cut)]
    assert all(torch.equal(value, critics[1]["model"][name]) for name, value in critics[0]["model"].items())
    assert str(critics[0]["optimizer"]) == str(critics[1]["optimizer"])
    assert str(whole["optimizer"]) == str(cut["optimizer"])
    assert [row["psnr"] for row in whole["history"]] == [row["psnr"] for row in cut["history"]]


def test_learning_rates_are_per_optimizer(deblurrer_of: DeblurrerOf) -> None:
    trainer = deblurrer_of(SPARSE, "--lr=0.01", "--nEpochs=2", "--run=a")
    trainer.run()
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.005)
    assert trainer.companions["netD"].optimizer.param_groups[0]["lr"] == pytest.approx(0.001)
    assert [row.learning_rates for row in trainer.compression_scheduler.preview(2).rows] == [(0.01,), (0.005,)]


def test_an_optimizer_that_is_not_there_is_told_with_the_nearest(deblurrer_of: DeblurrerOf) -> None:
    Path("schedule.yaml").write_text(SCHEDULE.replace("optimizer: netD", "optimizer: netDD"))
    with pytest.raises(ScheduleError, match=r"there is no optimizer 'netDD'; did you mean 'netD'"):
        deblurrer_of(SPARSE).build()


BOTH = """\
version: 1
pruners:
  g: {class: AutomatedGradualPruner, initial_sparsity: 0.1, final_sparsity: 0.5, weights: [netG.blocks.0.conv1.weight]}
  d: {class: AutomatedGradualPruner, initial_sparsity: 0.1, final_sparsity: 0.5, weights: ['netD.layers.2.weight']}
policies:
  - pruner: {instance_name: g}
    epochs: [0, 1]
  - pruner: {instance_name: d}
    epochs: [0, 1]
"""


def test_a_schedule_may_name_weights_of_both_networks(deblurrer_of: DeblurrerOf) -> None:
    Path("both.yaml").write_text(BOTH)
    trainer = deblurrer_of("--compress=both.yaml", "--gan=wgan-gp", "--run=a")
    trainer.run()
    assert trainer.compression_scheduler.scheduled_weights == ["netG.blocks.0.conv1.weight", "netD.layers.2.weight"]
    state = last("a")
    critic = state["companions"]["netD"]["model"]
    for weight in (state["model"]["netG.blocks.0.conv1.weight"], critic["layers.2.weight"]):
        assert int((weight == 0).sum()) == weight.numel() // 2
    image = torch.rand(1, 3, 32, 32)
    network = load_network("checkpoints/a/best.pt")
    assert torch.equal(network(image), network.netG(image))
    deblurrer_of("--resume=a", "--nEpochs=3").run()


def test_the_prefix_of_the_generator_alone_leaves_the_discriminator_out(deblurrer_of: DeblurrerOf) -> None:
    Path("both.yaml").write_text(SCHEDULE.replace("'blocks.*.weight'", "'netG.blocks.*.weight'"))
    trainer = deblurrer_of("--compress=both.yaml")
    trainer.build()
    assert all(name.startswith("netG.") for name, _ in trainer.model.named_parameters())
    assert len(trainer.compression_scheduler.scheduled_weights) == 2


@pytest.mark.parametrize(
    "text",
    [
        "pruners: &a [*a]\n",
        "a0: &a0 [netG.a, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)),
    ],
    ids=["an alias of itself", "aliases of aliases"],
)
def test_aliases_without_end_are_refused(deblurrer_of: DeblurrerOf, text: str) -> None:
    Path("endless.yaml").write_text(text)
    with limited(10), pytest.raises(ScheduleError, match="or an alias contains itself"):
        deblurrer_of("--compress=endless.yaml").build()


def test_the_smallest_crop_that_the_discriminator_takes() -> None:
    """A rule of the options refuses smaller ones."""
    critic = Discriminator(2)
    assert critic(torch.rand(2, 3, SMALLEST_JUDGED, SMALLEST_JUDGED)).shape == (2, 1, 1, 1)
    with pytest.raises((RuntimeError, ValueError), match="Kernel size|spatial element"):
        critic(torch.rand(2, 3, SMALLEST_JUDGED - 4, SMALLEST_JUDGED - 4))


def test_the_smoke_run_sees_the_rate_of_the_discriminator(deblurrer_of: DeblurrerOf, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    smoke(deblurrer_of(SPARSE))
    assert "passed" in caplog.text


def test_filters_of_the_mobile_generator_leave(deblurrer_of: DeblurrerOf) -> None:
    """The selectors that docs/deblur.md gives for it, in the schedule that is shipped for the other generator."""
    shipped = (ROOT / "schedules/Deblur/filter_prune.yaml").read_text()
    assert "blocks.?.conv1.weight:" in shipped
    Path("mobile.yaml").write_text(shipped.replace("blocks.?.conv1.weight:", "blocks.?.conv1.1.weight:"))
    trainer = deblurrer_of("--netG=mobile", "--compress=mobile.yaml", "--ngf=6")
    smoke(trainer)
    block = trainer.model.blocks[0]
    pointwise, depthwise = block.conv1[1], block.conv2[0]
    assert pointwise.out_channels == depthwise.groups < 12
    assert trainer.model.down[0][0].out_channels == pointwise.in_channels < 12


def test_the_papers_epochs_are_not_those_of_another_schedule(deblurrer_of: DeblurrerOf) -> None:
    """Its 300 epochs would train at the rate at which another schedule ends, which is zero."""
    Path("short.yaml").write_text(SCHEDULE)
    for schedule, epochs in (("short.yaml", 4), ("paper.yaml", 300), ("filter_prune.yaml", 14)):
        trainer = deblurrer_of("--preset=paper", f"--compress={schedule}", "--blocks=3", "--halvings=1")
        trainer.build()
        assert trainer.progress.epochs == epochs
    assert deblurrer_of("--preset=paper", "--compress=short.yaml", "--nEpochs=7").config.nEpochs == 7


def test_the_papers_preset(deblurrer_of: DeblurrerOf) -> None:
    trainer = deblurrer_of("--preset=paper")
    config = trainer.config
    assert (config.ngf, config.blocks, config.patch_size) == (2, 1, 32)  # given: they stay
    assert (config.gan, config.content, config.norm, config.lr, config.nEpochs) == (
        "wgan-gp", "perceptual", "instance", 1e-4, 300,
    )  # fmt: skip


def test_the_perceptual_loss_runs_and_without_weights_a_line_says_so(
    deblurrer_of: DeblurrerOf, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(Path.cwd()))
    torch.hub.set_dir(str(Path.cwd()))
    trainer = deblurrer_of("--content=perceptual", "--nEpochs=1")
    trainer.build()
    trainer.train(0, trainer.compression_scheduler)
    assert not isinstance(trainer.content, nn.Module)
    assert "the content loss is L1 + SSIM; --vgg-weights FILE names them" in caplog.text


def vgg_weights(path: Path) -> dict[str, torch.Tensor]:
    """Random weights of VGG19's first layers, in a file as torchvision's: names of the whole network."""
    widths = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)}
    state = {}
    for place, (before, after) in widths.items():
        state[f"features.{place}.weight"] = torch.randn(after, before, 3, 3) / (3 * before**0.5)
        state[f"features.{place}.bias"] = torch.zeros(after)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**state, "classifier.6.bias": torch.zeros(3)}, path)
    return state


def test_the_perceptual_loss_compares_features_of_the_file(deblurrer_of: DeblurrerOf) -> None:
    state = vgg_weights(Path("vgg.pth"))
    trainer = deblurrer_of("--content=perceptual", "--vgg-weights=vgg.pth")
    trainer.build()
    assert trainer.task_facts()["content"] == "perceptual"
    restored, sharp = torch.rand(2, 3, 16, 16, requires_grad=True), torch.rand(2, 3, 16, 16)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    features = []
    for images in (restored, sharp):
        x = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        for place in range(15):
            if f"features.{place}.weight" in state:
                x = functional.conv2d(x, state[f"features.{place}.weight"], state[f"features.{place}.bias"], padding=1)
            else:
                x = functional.max_pool2d(x, 2) if place in (4, 9) else x.clamp(min=0)
        features.append(x)
    loss = trainer.content(restored, sharp)
    assert float(loss) == pytest.approx(float(((features[0] - features[1]) ** 2).mean()), rel=1e-4)
    loss.backward()
    assert float(restored.grad.abs().sum()) > 0  # type: ignore[union-attr]
    assert all(each.grad is None for each in trainer.content.parameters())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02.", "may be damaged"),
        (b"PK\x03\x04", "may be damaged"),
        (None, "1 tensors of this network are not in it"),
    ],
)
def test_a_file_without_vggs_weights_is_told(deblurrer_of: DeblurrerOf, content: bytes | None, message: str) -> None:
    state = vgg_weights(Path("vgg.pth"))
    if content is None:
        torch.save({name: value for name, value in state.items() if name != "features.12.bias"}, "vgg.pth")
    else:
        Path("vgg.pth").write_bytes(content)
    with pytest.raises(UserError, match=f"vgg.pth .*{message}"):
        deblurrer_of("--content=perceptual", "--vgg-weights=vgg.pth").build()


def test_a_resumed_run_keeps_the_content_loss_that_it_was_trained_with(
    deblurrer_of: DeblurrerOf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "hub")
    deblurrer_of("--content=perceptual", "--nEpochs=1", "--run=without").run()
    vgg_weights(Path("hub/checkpoints") / VGG_FILE)
    deblurrer_of("--content=perceptual", "--nEpochs=1", "--run=with").run()
    assert [last(run)["task"]["content"] for run in ("without", "with")] == ["l1-ssim", "perceptual"]
    trainer = deblurrer_of("--resume=without", "--nEpochs=2")
    caplog.set_level(logging.INFO)
    trainer.run()
    assert trainer.content is l1_ssim
    assert "the content loss stays L1 + SSIM" in caplog.text
    (Path("hub/checkpoints") / VGG_FILE).unlink()
    with pytest.raises(UserError, match="VGG19's weights are not there any more"):
        deblurrer_of("--resume=with", "--nEpochs=2").run()

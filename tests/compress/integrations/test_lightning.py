"""Lightning's Trainer with the callback trains the weights that the plain loop trains."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from compress.config import dict_config
from compress.errors import UserError
from tests.compress.integrations.loop import BATCH, EPOCHS, Net, Pairs, assert_same, plain_loop, schedule, sgd

lightning = pytest.importorskip("lightning.pytorch", reason="the package lightning is not installed")
from compress.integrations.lightning import CompressionCallback  # noqa: E402 - only where the package is there

pytestmark = pytest.mark.filterwarnings("ignore")


class Module(lightning.LightningModule):
    """The network of the plain loop, as a user of Lightning writes it."""

    def __init__(self, automatic: bool = True) -> None:
        super().__init__()
        self.net = Net()
        self.automatic_optimization = automatic
        self.validated: list[float] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        return self.net(**batch)["loss"]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.log("val_loss", self.net(**batch)["loss"])
        self.validated.append(float((self.net.first.weight == 0).float().mean()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return sgd(self.net)


def build(data: dict[str, Any]) -> Any:
    return lambda module, optimizer: dict_config(module.net, optimizer, data)


def fit(
    folder: Path,
    callback: CompressionCallback,
    module: Module,
    checkpoint: str | None = None,
    more: Any = (),
    **given: Any,
) -> Any:
    settings = {"max_epochs": EPOCHS, "enable_checkpointing": False, **given}
    trainer = lightning.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback, *more], **settings,
    )  # fmt: skip
    loader = DataLoader(Pairs(), BATCH)
    trainer.fit(module, loader, loader, ckpt_path=checkpoint)
    return trainer


@pytest.mark.parametrize("args", [{}, {"use_double_copies": True}, {"mask_on_forward_only": True}], ids=str)
def test_same_weights_as_the_plain_loop(tmp_path: Path, args: dict[str, Any]) -> None:
    module = Module()
    fit(tmp_path, CompressionCallback(build(schedule(**args))), module)
    assert_same(module.net, plain_loop(schedule(**args))[0])
    assert module.validated[-1] == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_batches_are_one_minibatch(tmp_path: Path, accumulate: int) -> None:
    module = Module()
    fit(tmp_path, CompressionCallback(build(schedule())), module, accumulate_grad_batches=accumulate)
    assert_same(module.net, plain_loop(schedule(), accumulate)[0])


def test_terms_are_clipped_with_the_loss(tmp_path: Path) -> None:
    module = Module()
    fit(tmp_path, CompressionCallback(build(schedule())), module, gradient_clip_val=0.1)
    assert_same(module.net, plain_loop(schedule(), clip=0.1)[0])


def test_the_terms_are_logged_under_their_names(tmp_path: Path) -> None:
    trainer = fit(tmp_path, CompressionCallback(build(schedule())), Module())
    assert float(trainer.callback_metrics["l1_loss"]) > 0


def test_validation_within_an_epoch_sees_masked_weights_and_changes_nothing(tmp_path: Path) -> None:
    module = Module()
    data = schedule(mask_on_forward_only=True)
    fit(tmp_path, CompressionCallback(build(data)), module, val_check_interval=0.5, num_sanity_val_steps=1)
    assert min(module.validated[1:]) > 0.15
    assert_same(module.net, plain_loop(data)[0])


def test_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    data = schedule(use_double_copies=True)
    module = Module()
    trainer = fit(tmp_path, CompressionCallback(build(data)), module, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    resumed = Module()
    fit(tmp_path, CompressionCallback(build(data)), resumed, checkpoint=str(tmp_path / "one.ckpt"))
    assert_same(resumed.net, plain_loop(data)[0])


@pytest.mark.parametrize("step", [4, 8, 12])
def test_a_run_resumed_behind_the_last_step_of_an_epoch_is_the_same_run(tmp_path: Path, step: int) -> None:
    class Saving(lightning.Callback):
        """As `ModelCheckpoint(every_n_train_steps=...)` saves: the epoch has not ended."""

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == step and not (tmp_path / "a.ckpt").exists():
                trainer.save_checkpoint(tmp_path / "a.ckpt")

    data = schedule()
    expected, _ = plain_loop(data)
    callbacks = [CompressionCallback(build(data)) for _ in range(2)]
    fit(tmp_path, callbacks[0], Module(), more=[Saving()])
    resumed = Module()
    trainer = fit(tmp_path, callbacks[1], resumed, checkpoint=str(tmp_path / "a.ckpt"))
    assert_same(resumed.net, expected)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.1 * 0.5**EPOCHS
    assert callbacks[1].driver.state_dict()["under_way"] is False


def test_a_plateau_schedule_gets_the_validation_metric(tmp_path: Path) -> None:
    data = {**schedule(), "lr_schedulers": {"lr": {"class": "ReduceLROnPlateau", "patience": 0, "threshold": 9.0}}}
    trainer = fit(tmp_path, CompressionCallback(build(data)), Module())
    assert trainer.optimizers[0].param_groups[0]["lr"] < 0.1


def test_manual_optimization_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="automatic_optimization is off"):
        fit(tmp_path, CompressionCallback(build(schedule())), Module(automatic=False))


def test_an_epoch_of_unknown_length_is_refused(tmp_path: Path) -> None:
    class Endless(IterableDataset):
        def __iter__(self) -> Any:
            yield {"x": torch.ones(6), "labels": torch.ones(2)}

    trainer = lightning.Trainer(accelerator="cpu", logger=False, callbacks=[CompressionCallback(build(schedule()))],
                                enable_progress_bar=False, default_root_dir=tmp_path)  # fmt: skip
    with pytest.raises(UserError, match="the length of an epoch is unknown"):
        trainer.fit(Module(), DataLoader(Endless(), 1))


def test_the_scheduler_can_be_given_ready_made(tmp_path: Path) -> None:
    module = Module()
    optimizer = sgd(module.net)
    module.configure_optimizers = lambda: optimizer  # type: ignore[method-assign]
    callback = CompressionCallback(dict_config(module.net, optimizer, schedule()))
    fit(tmp_path, callback, module)
    assert_same(module.net, plain_loop(schedule())[0])
    assert isinstance(callback.scheduler.model, nn.Module)

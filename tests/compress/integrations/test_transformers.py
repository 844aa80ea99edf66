"""The Trainer of transformers with the callback trains the weights that the plain loop trains."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset

from compress.config import dict_config
from compress.errors import UserError
from tests.compress.integrations.loop import BATCH, EPOCHS, Net, Pairs, assert_same, plain_loop, schedule, sgd

transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")
pytest.importorskip("accelerate", reason="the package accelerate, which transformers trains with, is not installed")
from compress.integrations.transformers import CompressionCallback  # noqa: E402 - only where the package is there

pytestmark = pytest.mark.filterwarnings("ignore")


class InOrder(transformers.Trainer):
    """A Trainer that does not shuffle, as the plain loop does not."""

    def _get_train_sampler(self, *args: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def trainer_of(folder: Path, data: dict[str, Any], train: Any = None, **given: Any) -> tuple[InOrder, Net]:
    net = Net()
    optimizer = sgd(net)
    settings = {"save_strategy": "no", "max_grad_norm": 0.0, "num_train_epochs": EPOCHS, **given}
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=BATCH, use_cpu=True, report_to=[], disable_tqdm=True,
        logging_strategy="no", **settings,
    )  # fmt: skip
    callback = CompressionCallback(dict_config(net, optimizer, data))
    pairs = train or Pairs()
    trainer = InOrder(
        net, arguments, train_dataset=pairs, eval_dataset=Pairs(), optimizers=(optimizer, None), callbacks=[callback]
    )
    return trainer, net


@pytest.mark.parametrize("args", [{}, {"use_double_copies": True}, {"mask_on_forward_only": True}], ids=str)
def test_same_weights_as_the_plain_loop(tmp_path: Path, args: dict[str, Any]) -> None:
    trainer, net = trainer_of(tmp_path, schedule(**args))
    trainer.train()
    assert_same(net, plain_loop(schedule(**args))[0])


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_batches_are_one_minibatch(tmp_path: Path, accumulate: int) -> None:
    trainer, net = trainer_of(tmp_path, schedule(), gradient_accumulation_steps=accumulate)
    trainer.train()
    assert_same(net, plain_loop(schedule(), accumulate)[0])


def test_terms_are_clipped_with_the_loss(tmp_path: Path) -> None:
    trainer, net = trainer_of(tmp_path, schedule(), max_grad_norm=0.1)
    trainer.train()
    assert_same(net, plain_loop(schedule(), clip=0.1)[0])


@pytest.mark.parametrize("when", [{"eval_strategy": "epoch"}, {"eval_strategy": "steps", "eval_steps": 1}], ids=str)
def test_evaluation_changes_nothing_and_sees_masked_weights(tmp_path: Path, when: dict[str, Any]) -> None:
    data = schedule(mask_on_forward_only=True)
    trainer, net = trainer_of(tmp_path, data, **when)
    seen: list[float] = []
    net.register_forward_pre_hook(
        lambda module, given: None if module.training else seen.append(float((net.first.weight == 0).float().mean()))
    )
    trainer.train()
    assert min(seen) > 0.15
    assert_same(net, plain_loop(data)[0])


def test_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    data = schedule(use_double_copies=True)
    trainer, _ = trainer_of(tmp_path, data, save_strategy="steps", save_steps=6)
    trainer.train()
    folder = tmp_path / "checkpoint-6"
    again, net = trainer_of(tmp_path / "again", data)
    next(c for c in again.callback_handler.callbacks if isinstance(c, CompressionCallback)).load(folder)
    again.train(resume_from_checkpoint=str(folder))
    assert_same(net, plain_loop(data)[0])


@pytest.mark.parametrize("behind", [1, 2, EPOCHS])
def test_a_run_resumed_behind_the_last_step_of_an_epoch_ends_that_epoch(tmp_path: Path, behind: int) -> None:
    data = schedule(use_double_copies=True)
    whole, _ = trainer_of(tmp_path, data, save_strategy="steps", save_steps=1)
    whole.train()
    folder = tmp_path / f"checkpoint-{whole.state.global_step // EPOCHS * behind}"
    again, net = trainer_of(tmp_path / "again", data)
    next(c for c in again.callback_handler.callbacks if isinstance(c, CompressionCallback)).load(folder)
    again.train(resume_from_checkpoint=str(folder))
    assert_same(net, plain_loop(data)[0])
    assert again.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"]


def test_a_plateau_schedule_gets_the_evaluation_metric(tmp_path: Path) -> None:
    data = {**schedule(), "lr_schedulers": {"lr": {"class": "ReduceLROnPlateau", "patience": 0, "threshold": 9.0}}}
    trainer, _ = trainer_of(tmp_path, data, eval_strategy="epoch")
    trainer.train()
    assert trainer.optimizer.param_groups[0]["lr"] < 0.1


@pytest.mark.parametrize("interval", ["epoch", "minibatch"])
def test_a_rate_in_a_tensor_is_the_schedules_in_each_step(tmp_path: Path, interval: str) -> None:
    """The Trainer's own scheduler changes the tensor in place behind each step."""
    found: dict[bool, list[float]] = {False: [], True: []}
    for tensor, rates in found.items():
        data = {**schedule(), "lr_schedulers": {"lr": {"class": "ExponentialLR", "gamma": 0.5}}}
        (policy,) = (each["lr_scheduler"] for each in data["policies"] if "lr_scheduler" in each)
        policy["args"] = {"interval": interval}
        trainer, _ = trainer_of(tmp_path, data)
        (group,) = trainer.optimizer.param_groups
        group.update({"lr": torch.tensor(group["lr"]) if tensor else group["lr"], "foreach": False})
        trainer.optimizer.register_step_pre_hook(
            lambda optimizer, *_, to=rates: to.append(float(optimizer.param_groups[0]["lr"]))
        )
        trainer.train()
    assert len(set(found[False])) > 1
    assert found[True] == pytest.approx(found[False])


def test_a_checkpoint_without_the_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was not written with this callback"):
        CompressionCallback(lambda model, optimizer: None).load(tmp_path)  # type: ignore[arg-type, return-value]


def test_scaled_gradients_are_refused(tmp_path: Path) -> None:
    trainer, _ = trainer_of(tmp_path, schedule())
    trainer.args.fp16 = True
    with pytest.raises(UserError, match="fp16 scales the gradients"):
        trainer.train()


def test_an_epoch_of_unknown_length_is_refused(tmp_path: Path) -> None:
    class Endless(IterableDataset):
        def __iter__(self) -> Any:
            while True:
                yield Pairs()[0]

    trainer, _ = trainer_of(tmp_path, schedule(), train=Endless(), max_steps=2)
    trainer._get_train_sampler = lambda *given: None  # type: ignore[method-assign]
    with pytest.raises(UserError, match="the length of an epoch is unknown"):
        trainer.train()

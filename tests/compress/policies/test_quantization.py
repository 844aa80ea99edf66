"""When a network becomes quantized: late starts, freezing, resume, optimizer groups, pruning and thinning before it."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from compress.config import dict_config, file_config
from compress.errors import ScheduleError
from compress.policies.policy_probe import Watched
from compress.quantization.convert import apply, structure_of
from compress.quantization.modules.layers import QuantLayer
from compress.registry import QUANTIZERS
from models.C2SRCNN.model import Net
from tests.compress.harness import Run, batch, one_policy, tiny_net
from tests.compress.test_contract import sample_of

STEPS = 3
QAT = {"class": "QuantAwareTrainRangeLinearQuantizer", "bits_weights": 8, "bits_activations": 8}
IN_TRAINING = [name for name in QUANTIZERS if name != "PostTrainLinearQuantizer"]
CASES: list[dict[str, Any]] = [
    *({**next(iter(yaml.safe_load(sample_of(QUANTIZERS.get(name)))["quantizers"].values()))} for name in IN_TRAINING),
    {**QAT, "mode": "ASYMMETRIC_UNSIGNED", "fold_batchnorm": True, "freeze_bn_after": 1, "quantize_bias": True},
    {
        "class": "LSQQuantizer",
        "bits_weights": 3,
        "bits_activations": 4,
        "per_channel_wts": True,
        "fold_batchnorm": True,
    },
]


class QuantRun(Run):
    """A run whose network is restored after its scheduler, as a checkpoint is; with example inputs where needed."""

    def __init__(self, schedule: dict[str, Any], net: nn.Module | None = None, adam: bool = False) -> None:
        self.net = net or tiny_net()
        kind = torch.optim.Adam if adam else torch.optim.SGD
        self.optimizer = kind(self.net.parameters(), lr=0.02, **({} if adam else {"momentum": 0.9}))  # type: ignore[arg-type]
        traced = "fold_batchnorm" in str(schedule) or "FilterRemover" in str(schedule)  # tracing takes its time
        self.scheduler = dict_config(self.net, self.optimizer, schedule, batch(0, 0) if traced else None)
        self.steps, self.terms = STEPS, []

    def load(self, state: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state["scheduler"])
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])


def train(run: Run, first: int, last: int) -> None:
    """The minibatches `first` to `last` (exclusive) of the whole run, with the hooks of epochs around them."""
    for number in range(first, last):
        epoch, step = divmod(number, STEPS)
        if step == 0:
            run.net.train()
            run.scheduler.on_epoch_begin(epoch, run.optimizer)
        run.step(epoch, step)
        if step == STEPS - 1:
            run.scheduler.on_epoch_end(epoch, run.optimizer)


def reloaded(state: dict[str, Any]) -> dict[str, Any]:
    """Through a file, as plain data and tensors."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["class"])
def test_a_resumed_run_is_the_same_run(case: dict[str, Any]) -> None:
    """Killed while float, inside quantization, and after it is frozen."""
    adam = case["class"] in ("LSQQuantizer", "PACTQuantizer")  # those with parameters of their own
    schedule = one_policy("quantizers", case, [1, 2])
    whole = QuantRun(schedule, adam=adam)
    train(whole, 0, 4 * STEPS)
    for kill in (2, STEPS + 1, 2 * STEPS + 1, 3 * STEPS + 1):
        first, second = QuantRun(schedule, adam=adam), QuantRun(schedule, tiny_net(5), adam=adam)
        train(first, 0, kill)
        second.load(reloaded(first.save()))
        train(second, kill, 4 * STEPS)
        for key, value in whole.net.state_dict().items():
            assert torch.equal(value, second.net.state_dict()[key]), f"{key} differs when killed after {kill}"
        assert second.scheduler.structures == whole.scheduler.structures
        groups = [{k: v for k, v in group.items() if k != "params"} for group in second.optimizer.param_groups]
        assert groups == [{k: v for k, v in g.items() if k != "params"} for g in whole.optimizer.param_groups]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["class"])
def test_float_first_then_quantized_then_frozen(case: dict[str, Any]) -> None:
    run, plain = QuantRun(one_policy("quantizers", case, [1, 2])), QuantRun({"policies": []})
    policy = run.scheduler.policies[0]
    train(run, 0, STEPS)
    train(plain, 0, STEPS)
    for key, value in plain.net.state_dict().items():
        assert torch.equal(value, run.net.state_dict()[key]), f"{key}: the first epoch is not the float one"
    assert not run.scheduler.structures
    assert not policy.settled(0)
    assert policy.settled(1)
    train(run, STEPS, 3 * STEPS)
    assert structure_of(run.net) == run.scheduler.structures[0]
    pieces = {name: value.clone() for name, value in run.net.state_dict().items() if "_quantizer" in name}
    weights = run.net.conv2.weight.clone()
    train(run, 3 * STEPS, 4 * STEPS)
    for name, value in pieces.items():
        assert torch.equal(run.net.state_dict()[name], value), f"{name} moved after the policy's end"
    assert not torch.equal(run.net.conv2.weight, weights)
    assert isinstance(run.net.conv2, QuantLayer)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["class"])
def test_a_checkpoint_is_a_network_again(case: dict[str, Any]) -> None:
    run = QuantRun(one_policy("quantizers", case, [0, 1]))
    train(run, 0, 2 * STEPS)
    state = reloaded(run.save())
    again = tiny_net(3)
    for structure in state["scheduler"]["structures"]:
        apply(again, structure)
    again.load_state_dict(state["net"])
    x = batch(9, 9)
    assert torch.equal(again.eval()(x), run.net.eval()(x))


def test_group_is_there_from_the_beginning_and_inactive() -> None:
    schedule = one_policy("quantizers", {"class": "PACTQuantizer", "bits_activations": 4, "act_clip_lr": 0.5}, [2])
    schedule["lr_schedulers"] = {"lr": {"class": "ExponentialLR", "gamma": 0.5}}
    schedule["policies"].append({"lr_scheduler": {"instance_name": "lr"}, "epochs": [0, 1, 2]})
    run = QuantRun(schedule)
    group = run.optimizer.param_groups[1]
    assert len(group["params"]) == 2
    train(run, 0, 2 * STEPS)
    assert [p.item() for p in group["params"]] == [8.0, 8.0]
    assert not any(p in run.optimizer.state for p in group["params"])
    assert group["lr"] == pytest.approx(0.125)
    train(run, 2 * STEPS, 3 * STEPS)
    assert all(p in run.optimizer.state for p in group["params"])
    clips = (run.net.relu1.output_quantizer.clip, run.net.relu2.output_quantizer.clip)
    assert [id(p) for p in group["params"]] == [id(clip) for clip in clips]


def test_learned_steps_and_clips_are_trained() -> None:
    for case in (CASES[-1], {"class": "PACTQuantizer", "bits_activations": 4, "act_clip_init_val": 0.5}):
        run = QuantRun(one_policy("quantizers", case, [0]))
        train(run, 0, 1)
        before = [p.detach().clone() for p in run.optimizer.param_groups[1]["params"]]
        train(run, 1, STEPS)
        assert any(not torch.equal(p, q) for p, q in zip(run.optimizer.param_groups[1]["params"], before, strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["class"])
def test_prune_thin_quantize_in_one_schedule(case: dict[str, Any]) -> None:
    """Zeros stay zero under every grid; what is per channel has the thinned network's channels; resume fits."""
    case = {key: value for key, value in case.items() if key != "overrides"}
    schedule = {
        "pruners": {
            "f": {"class": "L1RankedStructureParameterPruner", "desired_sparsity": 0.5, "weights": ["conv1.weight"]},
            "e": {"class": "SparsityLevelParameterPruner", "levels": {"conv2.weight": 0.5}},
        },
        "extensions": {"t": {"class": "FilterRemover"}},
        "quantizers": {"q": case},
        "policies": [
            {"pruner": {"instance_name": "f"}, "epochs": [0]},
            {"extension": {"instance_name": "t"}, "epochs": [0]},
            {"pruner": {"instance_name": "e"}, "epochs": [1]},
            {"quantizer": {"instance_name": "q"}, "epochs": [1, 2]},
        ],
    }
    run = QuantRun(schedule)
    train(run, 0, 2 * STEPS + 1)
    conv = run.net.conv2
    assert run.net.conv1.weight.shape[0] == 4
    assert isinstance(conv, QuantLayer)
    mask = run.mask("conv2.weight")
    quantized = conv.quantized_weight()
    assert 0.4 < float((~mask).float().mean()) < 0.6
    assert torch.count_nonzero(quantized[~mask]) == 0
    grid = run.net.conv1.weight_quantizer.grid() if run.net.conv1.weight_quantizer else None
    assert grid is None or grid.scale.numel() in (1, 4)
    second = QuantRun(schedule)
    second.load(reloaded(run.save()))
    train(run, 2 * STEPS + 1, 3 * STEPS)
    train(second, 2 * STEPS + 1, 3 * STEPS)
    for key, value in run.net.state_dict().items():
        assert torch.equal(value, second.net.state_dict()[key]), key


def report(schedule: dict[str, Any]) -> str:
    """The faults of a schedule."""
    with pytest.raises(ScheduleError) as caught:
        QuantRun(schedule)
    return str(caught.value)


def test_one_quantizer_a_schedule() -> None:
    schedule = one_policy("quantizers", QAT, [0])
    schedule["quantizers"]["other"] = {"class": "DorefaQuantizer", "bits_weights": 4}
    schedule["policies"].append({"quantizer": {"instance_name": "other"}, "epochs": [1]})
    assert "'it' quantizes the network already" in report(schedule)


def test_thinning_comes_first() -> None:
    schedule = one_policy("quantizers", QAT, [1])
    schedule["extensions"] = {"t": {"class": "FilterRemover"}}
    schedule["policies"].append({"extension": {"instance_name": "t"}, "epochs": [1]})
    assert "'t' thins in epoch 1, when 'it' has quantized the network (from epoch 1 on)" in report(schedule)


def test_plan_shows_bits() -> None:
    plan = QuantRun(one_policy("quantizers", {**QAT, "overrides": {"fc": 4}}, [1, 2])).scheduler.preview(3)
    assert plan.rows[0].bits == {}
    assert plan.rows[1].bits == {"conv1": "W8 A8", "relu1": "A8", "conv2": "W8", "relu2": "A8", "fc": "W4"}
    text = str(plan)
    assert "W8 A8 (1), A8 (2), W8 (1), W4 (1)" in text
    assert "fc: W4" in text


def test_a_watched_run_sees_the_exchange() -> None:
    run = QuantRun(one_policy("quantizers", QAT, [0]))
    watched = Watched(run.scheduler.policies[0])
    run.scheduler.policies = [watched]
    train(run, 0, STEPS)
    assert {"conv1", "relu1", "conv2", "relu2", "fc"} <= watched.changes["layer"]


def test_batch_norms_are_held_late() -> None:
    case = {**QAT, "fold_batchnorm": True, "freeze_bn_after": 1}
    run = QuantRun(one_policy("quantizers", case, [1, 2, 3]))
    for epoch, held in ((1, False), (2, True)):
        train(run, 0 if epoch == 1 else epoch * STEPS, (epoch + 1) * STEPS)
        assert run.net.bn1.held is held
    mean = run.net.bn1.running_mean.clone()
    train(run, 3 * STEPS, 5 * STEPS)
    assert torch.equal(run.net.bn1.running_mean, mean)


def test_the_original_schedule_loads() -> None:
    path = Path(__file__).parents[2] / "original_schedules" / "quantization_DoReFa.yaml"
    model = Net(2)
    scheduler = file_config(
        model, torch.optim.Adam(model.parameters(), 1e-3), path, torch.zeros(1, 3, 8, 8), strict=True
    )
    assert scheduler.suggested_epochs == 2500
    bits = scheduler.preview(1).rows[0].bits
    assert bits["mid_part.1"] == "W8 B8"
    assert bits["mid_part.2"] == "A8"
    assert len(bits) == 15


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    for case in (QAT, CASES[-1], {"class": "PACTQuantizer", "bits_activations": 4, "act_clip_init_val": 0.5}):
        net = nn.parallel.DistributedDataParallel(tiny_net())
        optimizer = torch.optim.SGD(net.parameters(), 0.05)
        scheduler = dict_config(net, optimizer, one_policy("quantizers", case, [1]), batch(0, 0))
        for epoch in range(2):
            scheduler.on_epoch_begin(epoch, optimizer)
            for step in range(2):
                scheduler.on_minibatch_begin(epoch, step, 2, optimizer)
                loss: Tensor = net(batch(epoch, 10 * rank + step)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                scheduler.before_parameter_optimization(epoch, step, 2, optimizer)
                optimizer.step()
                scheduler.on_minibatch_end(epoch, step, 2, optimizer)
        torch.save(net.module.state_dict(), f"{folder}/{case['class']}{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_agree(tmp_path: Any) -> None:
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    for cls in (QAT["class"], "LSQQuantizer", "PACTQuantizer"):
        one, other = (torch.load(tmp_path / f"{cls}{rank}.pt", weights_only=True) for rank in (0, 1))
        assert any("_quantizer" in name for name in one)
        for name, value in one.items():
            if "running" not in name:  # BatchNorm's own statistics are each process's until DDP sends rank 0's
                torch.testing.assert_close(value, other[name], rtol=0, atol=0, msg=name)

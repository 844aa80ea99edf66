"""Reparameterize in a training run: what follows it, what comes before it, and a run that is killed around it."""

import io
import logging

import pytest
import torch
from torch import distributed, multiprocessing, nn

from compress.config import dict_config
from compress.errors import ScheduleError, UserError
from compress.export.onnx.export import export_onnx
from compress.fusing.blocks import exchange, fusions_of
from engine.ema import AveragedWeights
from engine.saved.rebuild import shape_as
from models.blocks import EdgeBlock
from models.SR.networks.edge import ECBSR, PlainSR
from tests.compress.fusing.nets import EdgeNet, InPlace, NormNet, Training, fusing, images

FILTERS = {
    "class": "L1RankedStructureParameterPruner",
    "reg_regims": {"mid.weight": [0.5, "3D"], "head.weight": [0.5, "3D"]},
}
THINNER = {"class": "FilterRemover"}
INT8 = {"class": "QuantAwareTrainRangeLinearQuantizer", "bits_activations": 8, "bits_weights": 8}
PIPELINE = (("pruners", FILTERS, [2]), ("extensions", THINNER, [2]), ("quantizers", INT8, [3, 4]))


def make(kind=EdgeNet, schedule=None, **settings) -> Training:
    torch.manual_seed(0)
    return Training(kind(), schedule or fusing(), **settings)


def reloaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_fuses_in_its_epoch_and_says_what_it_did(caplog):
    run = make()
    run.to(2)
    assert isinstance(run.net.mid, EdgeBlock)
    with caplog.at_level(logging.INFO, logger="compress"):
        run.to(3)
    assert {type(each) for each in (run.net.head, run.net.mid)} == {nn.Conv2d}
    (line,) = [record.getMessage() for record in caplog.records if "fused in epoch" in record.getMessage()]
    assert "2 x EdgeBlock -> Conv2d" in line
    assert "proved on the first training batch" in line
    assert "state carried over for 4 of 4" in line
    assert list(run.scheduler.masks) == [name for name, _ in run.net.named_parameters()]
    assert [id(p) for p in run.optimizer.param_groups[0]["params"]] == [id(p) for p in run.net.parameters()]
    run.to(6)


def test_frozen_branches_that_join_trained_ones_are_trained_and_named(caplog):
    net = EdgeNet()
    next(net.head.parameters()).requires_grad_(False)
    net.mid.requires_grad_(False)
    Training(net, fusing(0)).to(2)
    assert all(p.requires_grad for p in net.head.parameters())
    assert not any(p.requires_grad for p in net.mid.parameters())
    name = next(iter(dict(EdgeNet().head.named_parameters())))
    words = f"fuser: head.{name} is frozen, and it is joined with what is trained in head: all of the fused parameters"
    assert [each.levelname for each in caplog.records if words in each.getMessage()] == ["WARNING"]
    assert "joined with what is trained in mid" not in caplog.text


def test_batch_norms_inside_are_folded_by_their_running_statistics(caplog):
    run = make(NormNet)
    run.to(2)
    expected = run.net.eval()(images())
    run.net.train()
    with caplog.at_level(logging.INFO, logger="compress"):
        run.scheduler.on_epoch_begin(1, run.optimizer)
    assert "of 3 blocks BatchNorm's running statistics are folded" in caplog.text
    assert torch.allclose(run.net.eval()(images()), expected, rtol=1e-4, atol=1e-5)


def test_without_momentum_a_step_after_fusing_is_that_of_the_plain_network():
    run = make(lr=0.1)
    run.to(2)
    run.scheduler.on_epoch_begin(1, run.optimizer)
    run.optimizer.zero_grad()
    plain = EdgeNet()
    plain.head, plain.mid = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    plain.load_state_dict(run.net.state_dict())
    assert list(run.net.state_dict()) == list(plain.state_dict())
    for net in (run.net, plain):
        net(images(9)).square().mean().backward()
    for own, expected in zip(run.net.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(own.grad, expected.grad, atol=1e-7)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize(
    "kill", [1, 3, pytest.param(5, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.slow)]
)
def test_resumed_run_is_the_same_run(kill, optimizer):
    settings = {"lr": 0.01} if optimizer is torch.optim.Adam else {"lr": 0.05, "momentum": 0.9}
    schedule = fusing(1, *PIPELINE)
    whole = make(NormNet if optimizer is torch.optim.Adam else EdgeNet, schedule, optimizer=optimizer, **settings).to(8)
    first = make(type(whole.net), schedule, optimizer=optimizer, **settings).to(kill)
    second = make(type(whole.net), schedule, optimizer=optimizer, **settings).load(reloaded(first.save())).to(8)
    state = second.net.state_dict()
    assert list(state) == list(whole.net.state_dict())
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, state[name]), f"{name} differs when killed after {kill}"


def test_fuse_then_prune_then_thin_then_int8_in_one_schedule():
    run = make(EdgeNet, fusing(1, *PIPELINE)).to(8)
    assert run.net.head.out_channels == 4
    assert run.net.mid.out_channels == 4
    assert run.scheduler.structures
    assert [bool(each["fused"]) for each in run.scheduler.recipes] == [True, False]
    assert all(run.net(images()).isfinite().flatten())


def test_masks_of_all_branches_are_in_the_fused_layer_and_thinning_takes_them():
    rows = torch.ones(8, dtype=torch.bool)
    rows[[1, 5]] = False
    run = make(EdgeNet, fusing(1, ("extensions", THINNER, [1])))
    for name in run.scheduler.masks:
        masker = run.scheduler.masks[name]
        if name.startswith("head.") and ".expand." not in name:
            masker.set_mask(rows.view(-1, *[1] * (masker.parameter.dim() - 1)).expand(masker.parameter.shape))
            masker.apply()
    run.to(2)
    run.scheduler.on_epoch_begin(1, run.optimizer)
    assert torch.equal(run.scheduler.masks["head.bias"].mask, rows)
    assert not run.net.head.weight[~rows].any()
    assert "mid.weight" not in run.scheduler.state_dict()["masks"]
    run.scheduler.on_minibatch_begin(1, 0, 2, run.optimizer)
    assert run.net.head.out_channels == 6


def test_the_average_follows():
    run = make()
    average = AveragedWeights(run.net, 0.9)
    run.to(2)
    average.update(run.net, run.scheduler)
    expected = average.masked(run.net, run.scheduler.masks).eval()(images())
    run.scheduler.on_epoch_begin(1, run.optimizer)
    average.follow(run.scheduler)
    fused = average.masked(run.net, run.scheduler.masks)
    assert list(fused.state_dict()) == list(run.net.state_dict())
    assert torch.allclose(fused(images()), expected, atol=1e-5)


def test_a_new_network_is_shaped_like_the_fused_one():
    run = make(EdgeNet, fusing(1, *PIPELINE)).to(8)
    other = EdgeNet()
    shape_as(other, reloaded(run.scheduler.state_dict()))
    other.load_state_dict(run.net.state_dict())
    assert torch.equal(other.eval()(images()), run.net.eval()(images()))


def test_compiled_calls_see_the_fused_network():
    run = make()
    compiled = torch.compile(run.net, backend="eager")
    run.to(3, compiled)
    assert torch.allclose(compiled(images()), run.net(images()), atol=1e-6)
    before = run.net.head.weight.clone()
    run.to(4, compiled)
    assert not torch.equal(before, run.net.head.weight)


def test_weights_are_those_of_the_network_at_the_time():
    late = {
        "class": "AutomatedGradualPruner",
        "weights": ["mid.*weight"],
        "initial_sparsity": 0.1,
        "final_sparsity": 0.5,
    }
    run = make(EdgeNet, fusing(1, ("pruners", late, [1, 2])))
    assert run.scheduler.policies[1].weights == ["mid.weight"]
    assert run.scheduler.preview().rows[1].reach == {"fuser": 0, "it0": 1}
    schedule = fusing(1, ("pruners", late, [0, 1, 2]))
    with pytest.raises(
        ScheduleError, match=r"'it0' acts before and after 'fuser' fuses blocks in epoch 1.*two instances"
    ):
        make(EdgeNet, schedule)
    early = fusing(1, ("pruners", {**late, "weights": ["mid.conv.weight"]}, [0]))
    assert make(EdgeNet, early).to(6).scheduler.policies[1].weights == ["mid.conv.weight"]
    same = fusing(1, ("pruners", {**late, "weights": ["tail.weight"]}, [0, 1, 2]))
    assert make(EdgeNet, same).to(6).scheduler.masks["tail.weight"].sparsity() == pytest.approx(0.5, abs=0.01)


def test_a_pruner_of_the_epoch_stands_after_it():
    schedule = fusing(1, ("pruners", FILTERS, [1]))
    schedule["policies"].reverse()
    with pytest.raises(ScheduleError, match=r"stands after 'fuser'|matches no weight"):
        make(EdgeNet, schedule)


def test_only_the_named_blocks():
    run = make(EdgeNet, fusing(1, blocks=["h*d"])).to(3)
    assert isinstance(run.net.head, nn.Conv2d)
    assert isinstance(run.net.mid, EdgeBlock)


def test_faults_of_the_schedule():
    with pytest.raises(ScheduleError, match=r"Sequential has no block that fuses: no module with a method fuse"):
        Training(nn.Sequential(nn.Conv2d(3, 3, 1)), fusing())
    schedule = fusing()
    schedule["policies"][0]["epochs"] = [1, 2]
    with pytest.raises(ScheduleError, match=r"fused once.*write `epochs: \[1\]`"):
        Training(EdgeNet(), schedule)
    with pytest.raises(ScheduleError, match=r"'tail' is no block that fuses"):
        Training(EdgeNet(), fusing(blocks=["tail"]))
    with pytest.raises(ScheduleError, match=r"'fuser' fuses blocks in epoch 3, when 'it0' has quantized the network"):
        Training(EdgeNet(), fusing(3, ("quantizers", INT8, [1, 2])))


def test_without_inputs_nothing_is_proved():
    net = EdgeNet()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scheduler = dict_config(net, optimizer, fusing(0))
    with pytest.raises(UserError, match=r"no inputs to prove the fusing on in epoch 0: give example_inputs"):
        scheduler.on_epoch_begin(0, optimizer)


def test_a_shared_parameter_is_refused():
    net = EdgeNet()
    net.tied = nn.Conv2d(8, 8, 3, padding=1)
    net.tied.weight = net.mid.conv.weight
    run = Training(net, fusing(0))
    with pytest.raises(UserError, match=r"mid shares 'tied.weight' with another part"):
        run.scheduler.on_epoch_begin(0, run.optimizer)


@pytest.mark.slow
def test_the_exported_graph_is_the_plain_networks(tmp_path):
    onnx = pytest.importorskip("onnx")
    torch.manual_seed(0)
    fused, plain = ECBSR(2, width=4, depth=1), PlainSR(2, width=4, depth=1)
    exchange(fused, fusions_of(fused).values())
    graphs = []
    for name, net in (("fused", fused), ("plain", plain)):
        path = tmp_path / f"{name}.onnx"
        export_onnx(net, path, torch.rand(1, 3, 8, 8))
        graph = onnx.load(path).graph
        graphs.append([(node.op_type, len(node.input)) for node in graph.node])
    assert graphs[0] == graphs[1]
    assert [kind for kind, _ in graphs[0]].count("Conv") == 3


def _rank(rank: int, folder: str) -> None:
    """Trains across a fusing under DistributedDataParallel, on data of its own, and writes its weights."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    run = make(NormNet)
    wrapped = torch.nn.parallel.DistributedDataParallel(run.net)
    run.net.register_forward_pre_hook(lambda module, given: (given[0] * (1 + rank),))
    run.to(6, wrapped)
    torch.save(dict(run.net.state_dict()), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_every_process_fuses_to_the_same_weights(tmp_path):
    multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert "mid.weight" in first
    for name, value in first.items():
        if "running" not in name and "tracked" not in name:
            assert torch.equal(value, second[name]), name


def test_the_first_batch_serves_where_no_inputs_are_given():
    run = make()
    run.scheduler = dict_config(run.net, run.optimizer, fusing(1))
    assert isinstance(run.to(3).net.mid, nn.Conv2d)


def test_two_fusings_each_of_its_blocks():
    schedule = fusing(1, blocks=["head"])
    schedule["extensions"]["rest"] = {"class": "Reparameterize"}
    schedule["policies"].append({"extension": {"instance_name": "rest"}, "epochs": [2]})
    schedule["pruners"] = {"p": {"class": "SparsityLevelParameterPruner", "levels": {"*.weight": 0.5}}}
    schedule["policies"].append({"pruner": {"instance_name": "p"}, "epochs": [2]})
    whole = make(EdgeNet, schedule).to(6)
    assert [each["fused"] for each in whole.scheduler.recipes] == [["head"], ["mid"]]
    assert whole.scheduler.policies[2].weights == ["head.weight", "mid.weight", "tail.weight"]
    again = make(EdgeNet, schedule).load(reloaded(make(EdgeNet, schedule).to(3).save())).to(6)
    assert all(torch.equal(value, again.net.state_dict()[name]) for name, value in whole.net.state_dict().items())


class _Sharing(nn.Module):
    """A convolution of a block stands elsewhere too: in front, behind, or in another block."""

    def __init__(self, where: str) -> None:
        super().__init__()
        block = InPlace()
        if where == "front":
            self.front = block.first
        self.block = block
        if where == "behind":
            self.behind = block.first
        if where == "block":
            self.other = InPlace()
            self.other.first = block.first

    def forward(self, x):
        for child in self.children():
            x = child(x)
        return x


@pytest.mark.parametrize("where", ["front", "behind", "block"])
def test_a_layer_of_a_block_that_stands_elsewhere_too_is_refused(where):
    torch.manual_seed(0)
    run = Training(_Sharing(where), fusing(0))
    parameters = [id(p) for p in run.net.parameters()]
    with pytest.raises(UserError, match=r"shares '.*weight' with another part of the network; nothing was"):
        run.to(1)
    assert [id(p) for p in run.net.parameters()] == parameters


class _Affine(nn.Module):
    """Scale and shift, as sums of two each; fused to one each, in another order than they are declared."""

    def __init__(self, fused: bool = False) -> None:
        super().__init__()
        self.is_fused = fused
        if fused:
            self.gamma, self.beta = nn.Parameter(torch.ones(3, 1, 1)), nn.Parameter(torch.zeros(3, 1, 1))
            return
        self.beta, self.b2 = nn.Parameter(torch.zeros(3, 1, 1)), nn.Parameter(torch.zeros(3, 1, 1))
        self.gamma, self.g2 = nn.Parameter(torch.ones(3, 1, 1)), nn.Parameter(torch.full((3, 1, 1), 0.1))

    def forward(self, x):
        return x * self.gamma + self.beta if self.is_fused else x * (self.gamma + self.g2) + self.beta + self.b2

    def fuse(self):
        if self.is_fused:
            return self
        new = _Affine(fused=True)
        new.gamma.data, new.beta.data = self.gamma + self.g2, self.beta + self.b2
        return new


def test_which_parameters_stay_does_not_follow_from_their_values():
    """A new network's zeros changed the order in which a resumed run's optimizer has them."""
    runs = [
        make(lambda: nn.Sequential(_Affine(), nn.Conv2d(3, 2, 1)), optimizer=torch.optim.Adam, lr=0.01) for _ in "ab"
    ]
    whole, first = runs[0].to(8), runs[1].to(5)
    again = make(lambda: nn.Sequential(_Affine(), nn.Conv2d(3, 2, 1)), optimizer=torch.optim.Adam, lr=0.01)
    state = again.load(reloaded(first.save())).to(8).net.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.net.state_dict().items())

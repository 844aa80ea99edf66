"""Groups pruned by the second-order criterion in a schedule, what is left repaired."""

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import nn

from compress.config import dict_config
from compress.errors import UserError
from compress.graph.macs.count import count_macs
from compress.pruning.one_shot.prune import prune_one_shot
from compress.pruning.one_shot.selection import find_readers
from compress.thinning.trials.trial import prunable_graph
from tests.compress.graph.nets import resnet_cifar

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
WEIGHTS = ["*conv?.weight", "0.weight"]


class Loop:
    """Trains a network by a schedule with the pruner in epoch 0."""

    def __init__(self, model: nn.Module, lr: float = 0.0, thin: bool = True, images=IMAGES, **arguments) -> None:
        self.model = self.forward = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        instance = {"class": "SecondOrderGroupPruner", **arguments}
        if instance["class"] == "SecondOrderGroupPruner":
            instance["batches"] = 4
        schedule = {
            "pruners": {"it": instance},
            "extensions": {"thinner": {"class": "FilterRemover"}},
            "policies": [{"pruner": {"instance_name": "it"}, "epochs": [0]}]
            + [{"extension": {"instance_name": "thinner"}, "epochs": [0]}] * thin,
        }
        self.scheduler = dict_config(model, self.optimizer, schedule, example_inputs=images[:1])

    def train(self, steps: range, total: int = 6, epoch: int = 0) -> "Loop":
        for step in steps:
            if step == 0:
                self.scheduler.on_epoch_begin(epoch, self.optimizer)
            self.scheduler.on_minibatch_begin(epoch, step, total, self.optimizer)
            loss = self.forward(data(step)).square().mean()
            loss = self.scheduler.before_backward_pass(epoch, step, total, loss, self.optimizer)
            loss = getattr(loss, "overall_loss", loss)
            self.optimizer.zero_grad()
            loss.backward()
            self.scheduler.before_parameter_optimization(epoch, step, total, self.optimizer)
            self.optimizer.step()
            self.scheduler.on_minibatch_end(epoch, step, total, self.optimizer)
            if step == total - 1:
                self.scheduler.on_epoch_end(epoch, self.optimizer)
        return self


def data(step: int) -> torch.Tensor:
    return torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(step))


def network() -> nn.Module:
    torch.manual_seed(0)
    return resnet_cifar(blocks=1, widths=(16, 24, 32)).eval()


def macs(model: nn.Module) -> float:
    return count_macs(model, torch.zeros(1, 3, 16, 16)).total


def error(one: nn.Module, other: nn.Module) -> float:
    with torch.no_grad():
        wanted = other.eval()(data(99))
        return float((one.eval()(data(99)) - wanted).square().mean() / wanted.var())


def test_the_thinned_network_meets_its_budget_and_is_the_one_that_one_shot_pruning_makes() -> None:
    dense = network()
    loop = Loop(copy.deepcopy(dense), weights=WEIGHTS, to=0.6).train(range(6))
    assert 0.5 < macs(loop.model) / macs(dense) <= 0.6
    found = prune_one_shot(dense, [data(step) for step in range(4)], to=0.6)
    torch.testing.assert_close(loop.model.eval()(IMAGES), found.network(IMAGES), rtol=1e-3, atol=1e-4)


def test_it_loses_far_less_than_the_norms_of_filters_and_repair_is_a_part_of_that() -> None:
    dense = network()

    shares = {"sparsities": dict.fromkeys(WEIGHTS, 0.25)}

    def lost(cls: str, **arguments) -> float:
        model = copy.deepcopy(dense)
        Loop(model, **{"class": cls, **arguments}).train(range(6))
        assert macs(model) < 0.7 * macs(dense)
        return error(model, dense)

    norms = lost("L1RankedStructureParameterPruner", desired_sparsity=0.25, group_type="Filters", weights=WEIGHTS)
    chosen, repaired = lost("SecondOrderGroupPruner", **shares, repair=False), lost("SecondOrderGroupPruner", **shares)
    assert repaired < 0.7 * chosen < 0.7 * norms


@pytest.mark.parametrize(
    ("share", "round_to", "left"), [(0.5, 1, 12), (0.1, 1, 22), (0.99, 1, 1), (0.0, 1, 24), (0.6, 8, 16), (0.4, 5, 15)]
)
def test_sparsities_are_fractions_of_filters_to_the_nearest_number(share, round_to, left) -> None:
    model = network()
    Loop(model, sparsities={"4.conv1.weight": share}, round_to=round_to).train(range(6))
    assert dict(model.named_parameters())["4.conv1.weight"].shape[0] == left


def test_weights_of_one_group_with_two_fractions_are_refused() -> None:
    with pytest.raises(UserError, match="coupled, their channels go together"):
        Loop(network(), sparsities={"0.weight": 0.5, "3.conv2.weight": 0.25}).train(range(6))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"to": 0.5},
        {"weights": WEIGHTS},
        {"weights": WEIGHTS, "to": 0.5, "sparsities": {"0.weight": 0.5}},
        {"to": 0.5, "sparsities": {"0.weight": 0.5}},
    ],
)
def test_either_a_budget_or_fractions(arguments) -> None:
    with pytest.raises(UserError, match="give `weights` and `to`, a budget, or else `sparsities`"):
        Loop(network(), **arguments)


def test_frozen_parameters_keep_their_values() -> None:
    model = network()
    parameters = dict(model.named_parameters())
    frozen = [name for name in parameters if "conv2" in name]
    for name in frozen:
        parameters[name].requires_grad_(False)
    before = {name: parameters[name].clone() for name in frozen}
    Loop(model, weights=["*conv1.weight"], to=0.7, thin=False).train(range(6))
    for name in frozen:
        kept = parameters[name].flatten(2).abs().sum(2) > 0 if parameters[name].dim() > 2 else parameters[name] != 0
        torch.testing.assert_close(parameters[name][kept], before[name][kept], rtol=0, atol=0)


def test_a_run_that_stops_while_it_gathers_goes_on_to_the_bit() -> None:
    whole = Loop(network(), lr=0.01, weights=WEIGHTS, to=0.6, thin=False).train(range(6))
    first = Loop(network(), lr=0.01, weights=WEIGHTS, to=0.6, thin=False).train(range(2))
    file = io.BytesIO()
    parts = (first.model, first.optimizer, first.scheduler)
    torch.save([each.state_dict() for each in parts], file)
    file.seek(0)
    second = Loop(network(), lr=0.01, weights=WEIGHTS, to=0.6, thin=False)
    for part, state in zip((second.model, second.optimizer, second.scheduler), torch.load(file), strict=True):
        part.load_state_dict(state)
    second.train(range(2, 6))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


class Scaled(nn.Module):
    """Reads images only as far as it is told."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3)

    def forward(self, images: torch.Tensor, scale: float = 0.0) -> torch.Tensor:
        return self.second(torch.relu(self.first(images * scale + 0.3)))


def test_named_arguments_count() -> None:
    def kept(call: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> list[bool]:
        model = Scaled()
        loop = Loop(model, sparsities={"first.weight": 0.5}, thin=False)
        loop.forward = lambda images: call(model, images)
        loop.train(range(6))
        return [bool(row.any()) for row in model.first.weight]

    wanted = kept(lambda model, images: model(images, 1.0))
    assert kept(lambda model, images: model(images, scale=1.0)) == wanted
    assert kept(lambda model, images: model(scale=1.0, images=images)) == wanted
    assert kept(lambda model, images: model(images)) != wanted


class Upscaler(nn.Module):
    """The filters of `wide` are read by a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.up = nn.ConvTranspose2d(12, 3, 2, stride=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.up(torch.relu(self.wide(torch.relu(self.first(images)))))


def test_what_a_layer_reads_that_is_not_measured_goes_by_its_norms_or_stays(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    model = Upscaler()
    Loop(model, sparsities={"first.weight": 0.5, "wide.weight": 0.25}).train(range(6))
    assert (len(model.first.weight), len(model.wide.weight)) == (4, 9)
    said = "wide.weight[0]: its units go by their L1 norms: 'up.weight' reads it, a layer whose inputs are not measured"
    assert said in caplog.text
    model = Upscaler()
    Loop(model, weights=["*.weight"], to=0.5).train(range(6))
    assert (len(model.first.weight), len(model.wide.weight)) == (3, 12)
    assert "wide.weight[0]: all 12 units stay: 'up.weight' reads it" in caplog.text


class Mixed(nn.Module):
    """The first half of the features are read by an LSTM, the second half hardly matter to a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features, self.lstm, self.head = nn.Linear(6, 16), nn.LSTM(16, 4, batch_first=True), nn.Linear(16, 4)
        with torch.no_grad():
            self.head.weight[:, :8].zero_()
            self.head.weight[:, 8:] *= 0.01

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = torch.tanh(self.features(x))
        return self.lstm(found)[0] + self.head(found)


def test_a_group_that_an_lstm_reads_too_is_not_measured() -> None:
    model, inputs = Mixed(), [torch.randn(4, 5, 6) for _ in range(2)]
    readers = find_readers(model.eval(), prunable_graph(model, inputs[0]), inputs)
    assert not any(group.name == "features.weight[0]" for group in readers.groups)
    assert any("features.weight[0]" in note and "lstm" in note for note in readers.notes)


def test_values_that_are_not_finite_are_refused() -> None:
    model = network()
    with torch.no_grad():
        model[3].conv1.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match="holds NaN or infinite values; nothing was pruned"):
        Loop(model, weights=WEIGHTS, to=0.6).train(range(6))


@pytest.mark.parametrize("given", [{"max_sparsity": 0.5}, {"sparsities": {"0.weight": 1.0}}])
def test_what_would_be_ignored_is_refused(given) -> None:
    with pytest.raises(UserError, match="max_sparsity is of a budget|sparsities.*< 1"):
        Loop(network(), **{"sparsities": {"0.weight": 0.5}, **given})


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = network()
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.body(images)


def test_buffers_that_are_no_statistics_stay_the_loops() -> None:
    loop = Loop(Counting(), weights=["body.*conv1.weight"], to=0.7, thin=False)
    before = int(loop.model.calls)
    loop.train(range(6))
    assert int(loop.model.calls) - before == 6


def test_distillation_beside_it() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    schedule = {
        "pruners": {"it": {"class": "SecondOrderGroupPruner", "batches": 2, "weights": WEIGHTS, "to": 0.6}},
        "distillers": {"dense": {"class": "KnowledgeDistillation", "teacher": "self"}},
        "policies": [
            {"pruner": {"instance_name": "it"}, "epochs": [0]},
            {"distiller": {"instance_name": "dense"}, "epochs": [0]},
        ],
    }
    scheduler = dict_config(model.train(), optimizer, schedule, example_inputs=IMAGES[:1])
    scheduler.on_epoch_begin(0, optimizer)
    for step in range(3):
        scheduler.on_minibatch_begin(0, step, 3, optimizer)
        loss = scheduler.before_backward_pass(0, step, 3, model(data(step)).square().mean(), optimizer)
        getattr(loss, "overall_loss", loss).backward()
        scheduler.before_parameter_optimization(0, step, 3, optimizer)
        optimizer.step()
        scheduler.on_minibatch_end(0, step, 3, optimizer)
    assert any(
        bool((parameter == 0).flatten(1).all(1).any()) for parameter in model.parameters() if parameter.dim() > 1
    )


def test_double_copies_of_another_policy_do_not_undo_the_repair() -> None:
    def trained(doubles: bool) -> dict[str, torch.Tensor]:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        schedule = {
            "pruners": {
                "it": {"class": "SecondOrderGroupPruner", "batches": 2, "weights": ["*conv1.weight"], "to": 0.7},
                "fine": {"class": "MagnitudeParameterPruner", "thresholds": {"5.conv2.weight": 0.0}},
            },
            "policies": [
                {"pruner": {"instance_name": "it"}, "epochs": [0]},
                {"pruner": {"instance_name": "fine", "args": {"use_double_copies": doubles}}, "epochs": [0]},
            ],
        }
        loop = Loop(model, weights=WEIGHTS, to=0.6)
        loop.optimizer, loop.scheduler = optimizer, dict_config(model, optimizer, schedule, example_inputs=IMAGES[:1])
        loop.train(range(4), total=4)
        return model.state_dict()

    plain, doubled = trained(False), trained(True)
    assert torch.equal(plain["5.conv2.weight"], doubled["5.conv2.weight"])

"""Replay: the same numbers as the whole network, on networks of every shape, and less work."""

import logging
import random
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from compress.analysis.sensitivity.changes import find_subjects
from compress.analysis.sensitivity.evaluation import Evaluation
from compress.analysis.sensitivity.meter import PlainMeter, in_place
from compress.analysis.sensitivity.program import Program
from compress.analysis.sensitivity.replay import ReplayMeter, choose_meter
from compress.errors import UserError
from models.C2SRCNN.model import Net
from tests.compress.graph.nets import resnet_cifar
from tests.compress.thinning.blocks import C2f, Cat, Gate, Sum, UNet, conv


class Reused(nn.Module):
    """One convolution, three times; an in-place ReLU on a value that a shortcut reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for _ in range(3):
            x = self.again(functional.relu_(x)) + x
        return self.last(x.flatten(2).mean(2))


class Tied(nn.Module):
    """Two layers with one weight; two inputs, several outputs, one of them untouched by any weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
        self.two.weight = self.one.weight

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": self.two(self.one(x).relu() + y), "input": x * 2}


class Encoder(nn.Module):
    """A transformer's layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x.flatten(1, 2)).mean(1))


def views() -> nn.Module:
    """Depthwise and grouped convolutions, flattening by view, BatchNorm in one dimension."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(inplace=True),
        nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8, affine=False), nn.SiLU(inplace=True),
        nn.Flatten(), nn.Linear(8 * 12 * 12, 6),
        nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 4),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: resnet_cifar(1, (4, 8, 8)),
    "c2srcnn": lambda: Net(2, 8, 8),
    "concat": lambda: nn.Sequential(Cat(conv(3, 4), conv(3, 6), nn.Identity()), conv(13, 5)),
    "branches": lambda: nn.Sequential(conv(3, 4), Sum(conv(4, 4), conv(4, 4), nn.Identity()), conv(4, 4)),
    "gate": lambda: nn.Sequential(conv(3, 8), Gate(8), conv(8, 4)),
    "unet": UNet,
    "chunks": C2f,
    "reused": Reused,
    "transformer": Encoder,
    "views": views,
}

QUICK = ("resnet", "concat", "reused", "views")  # residuals, branches, one layer several times, flattening


def shaken(model: nn.Module) -> nn.Module:
    """With BatchNorm statistics as after training."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.uniform_(-0.3, 0.3)
    return model.eval()


def as_is(outputs):
    """A fingerprint of all outputs, which tells any change."""
    numbers = [float(each.double().square().mean()) for each in outputs]
    return {f"batch{i}": value for i, value in enumerate(numbers)}


def check(model: nn.Module, evaluation: Evaluation, cache_bytes: int = 2**28) -> None:
    """Every weight, in the fastest order and in another, against the whole network."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    subjects = find_subjects(model, "element")
    fast = choose_meter(model, evaluation, subjects, cache_bytes)
    assert isinstance(fast, ReplayMeter)
    plain, dense = PlainMeter(model, evaluation), evaluation(model)
    assert fast.dense() == pytest.approx(dense)
    ordered = fast.order(subjects)
    assert {each.name for each in ordered} == {each.name for each in subjects}
    for subject in [*ordered, ordered[0], ordered[-1]]:
        for level in (0.5, 0.9):
            value = subject.change(subject.parameter.detach(), level)
            expected = plain.changed(subject, value)
            assert fast.changed(subject, value) == pytest.approx(expected, rel=2e-5, abs=1e-9), subject.name
            assert expected != dense
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_the_same_numbers_as_the_whole_network(name: str) -> None:
    torch.manual_seed(0)
    model = shaken(NETWORKS[name]())
    check(model, Evaluation([torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)], as_is))


class Written(nn.Module):
    """A value is written on after another name for it was taken."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.conv(x)
        rows = made.flatten(1)
        made.relu_()
        return rows + 1


class Widened(nn.Module):
    """`+=` keeps the type, which `+` would not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.conv(x)
        made += torch.full((1,), 0.1, dtype=torch.float64).expand(made.shape)
        return made


@pytest.mark.parametrize(
    ("make", "again"),
    [
        (NETWORKS["resnet"], False),
        (NETWORKS["views"], False),
        (Reused, False),  # the trace has later uses read what was written
        (Written, True),
        (Widened, True),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True)), True),
    ],
)
def test_only_a_graph_that_writes_is_taken_apart(
    make: Callable[[], nn.Module], again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[object] = []
    plain = ExportedProgram.run_decompositions

    def counted(self: ExportedProgram, table: dict) -> ExportedProgram:
        taken.append(table)
        return plain(self, table)

    monkeypatch.setattr(ExportedProgram, "run_decompositions", counted)
    torch.manual_seed(0)
    model, x = shaken(make()), torch.rand(2, 3, 16, 16)
    program = Program(model, x)
    assert bool(taken) is again
    with torch.inference_mode():
        values = {**program.state, **program.piece(program.fixed, set())(dict(program.state)), **program.flat_inputs(x)}
        found, expected = program.output(program.whole(values)), model(x)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected)


def test_shared_weights_several_inputs_and_outputs() -> None:
    torch.manual_seed(0)
    inputs = [(torch.rand(2, 6), torch.rand(2, 6)) for _ in range(2)]
    check(Tied(), Evaluation(inputs, lambda outputs: as_is(each["sum"] for each in outputs)))


class Rejoined(nn.Module):
    """What two weights lead to is read again behind a third one: it is kept for that one, and changes with both."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.b, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.d, self.last, self.calls = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1), calls

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = self.b(x)
        n = self.c(x)
        y = torch.relu(u + n)
        for _ in range(self.calls):
            y = self.d(y) + n * u.sigmoid()
        return self.last(y) + n.mean((1, 2, 3), keepdim=True)


@pytest.mark.parametrize("calls", [1, 2])
def test_a_value_kept_for_a_later_weight_is_computed_anew_where_it_changes(calls: int) -> None:
    torch.manual_seed(0)
    check(Rejoined(calls), Evaluation([torch.rand(2, 3, 6, 6)], as_is))


class Drawn(nn.Module):
    """Layers whose sums are drawn: each reads two earlier values."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))
        self.of = [draw.randrange(5) for _ in range(9)]  # some layers are called several times, some never
        self.pairs = [(draw.randrange(i + 1), draw.randrange(i + 1)) for i in range(9)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = [x]
        for layer, (one, other) in zip(self.of, self.pairs, strict=True):
            values.append(torch.tanh(self.layers[layer](values[one])) + values[other])
        return torch.stack(values).sum(0)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_sums_in_any_order_are_replayed(seed: int) -> None:
    torch.manual_seed(0)
    model, evaluation = Drawn(seed), Evaluation([torch.rand(3, 4)], as_is)
    used = [f"layers.{layer}.weight" for layer in sorted(set(model.of))]
    subjects = [each for each in find_subjects(model, "element") if each.name in used]
    fast, plain = choose_meter(model, evaluation, subjects, 2**28), PlainMeter(model, evaluation)
    for subject in fast.order(subjects):
        value = subject.change(subject.parameter.detach(), 0.5)
        assert fast.changed(subject, value) == pytest.approx(plain.changed(subject, value), rel=2e-5), subject.name


@pytest.mark.parametrize("cache_bytes", [pytest.param(0, marks=pytest.mark.slow), 8_000])
def test_without_memory_for_what_is_kept(cache_bytes: int) -> None:
    torch.manual_seed(0)
    model = shaken(NETWORKS["concat"]())
    check(model, Evaluation(list(torch.rand(3, 2, 3, 8, 8)), as_is), cache_bytes)


def test_kept_values_stay_within_the_memory_allowed() -> None:
    model = shaken(resnet_cifar(1, (4, 8, 8)))
    evaluation, allowed = Evaluation(list(torch.rand(4, 2, 3, 16, 16)), as_is), 40_000
    subjects = find_subjects(model, "element")
    meter = ReplayMeter(model, evaluation, subjects, allowed)
    kept = set()
    for subject in meter.order(subjects):
        meter.changed(subject, subject.parameter.detach() * 0)
        held = [sum(v.numel() * v.element_size() for v in batch.kept.values()) for batch in meter.batches]
        assert sum(held) <= allowed
        kept.add(sum(size > 0 for size in held))
    assert len(kept) > 1  # sometimes all batches fitted, sometimes not


def test_batches_of_different_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    sizes = [(8, 8), (8, 9), (8, 8)]
    evaluation = Evaluation([torch.rand(1, 3, *size) for size in sizes], as_is)
    check(Net(2, 8, 8).eval(), evaluation)
    monkeypatch.setattr("compress.analysis.sensitivity.replay.MOST_PROGRAMS", 1)  # the others run the network itself
    check(Net(2, 8, 8).eval(), evaluation)


def test_modes_are_put_back_and_batch_norm_is_not_trained() -> None:
    model = shaken(NETWORKS["concat"]()).train()
    model[1][1].eval()
    flags = [module.training for module in model.modules()]
    check(model, Evaluation([torch.rand(2, 3, 16, 16)], as_is))
    assert [module.training for module in model.modules()] == flags


class Branching(nn.Module):
    """Goes another way for other values."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(x) if x.sum() > 0 else self.two(x)


class Noisy(nn.Module):
    """Random, so that no graph computes the same twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(x) + torch.rand(4)


class Counted(nn.Module):
    """Changes a buffer in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.one(x)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Branching, "cannot be traced"),
        (Noisy, "its graph computes something else"),
        (Counted, "changes its own buffers"),
    ],
)
def test_what_cannot_be_replayed_is_run_whole_and_says_so(
    network: Callable[[], nn.Module], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, evaluation = network(), Evaluation([torch.rand(2, 4)], as_is)
    meter = choose_meter(model, evaluation, find_subjects(model, "element"), 2**20)
    assert isinstance(meter, PlainMeter)
    assert "runs the whole network each time" in caplog.text
    assert reason in caplog.text


class Showing(nn.Module):
    """Returns values of the middle, by two names, its input, a weight, a buffer and the result."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), nn.Linear(4, 2)
        self.register_buffer("scale", torch.full((2,), 0.5))

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        one = self.first(x).relu()
        two = self.second(one)
        result = self.last(two.mean((2, 3))) * self.scale
        return {"parts": (one, one[:, 1:5], two), "all": [x, self.last.weight, self.scale, result]}


def written_in(outputs):
    """A measure that works in place on everything, in a chain, so that shared memory counts too."""
    found = {}
    for place, output in enumerate(list(outputs)):
        for number, each in enumerate([*output["parts"], *output["all"]]):
            found[f"{place}.{number}"] = float(each.mul_(0.5).add_(0.1).double().square().sum())
    return found


@pytest.mark.parametrize("programs", [16, 1])
def test_a_measure_may_work_in_place(monkeypatch: pytest.MonkeyPatch, programs: int) -> None:
    monkeypatch.setattr("compress.analysis.sensitivity.replay.MOST_PROGRAMS", programs)
    torch.manual_seed(0)
    model, inputs = Showing().eval(), [torch.rand(2, 3, 8, 8), torch.rand(1, 3, 7, 7)]
    kept, before = [each.clone() for each in inputs], {k: v.clone() for k, v in model.state_dict().items()}
    evaluation, subjects = Evaluation(inputs, written_in), find_subjects(model, "element")
    fast = choose_meter(model, evaluation, subjects, 2**28)
    assert isinstance(fast, ReplayMeter)
    for subject in fast.order(subjects) * 2:
        for level in (0.5, 0.8):
            value = subject.change(subject.parameter.detach(), level)
            with in_place(subject.parameters, {subject.name: value}):
                each_alone = [Evaluation([one], written_in) for one in inputs]
                expected = [PlainMeter(model, alone).dense() for alone in each_alone]
            found = list(fast.changed(subject, value).values())
            assert found == pytest.approx([number for one in expected for number in one.values()], rel=2e-5)
            assert all(map(torch.equal, inputs, kept))
            assert all(torch.equal(now, before[name]) for name, now in model.state_dict().items())


def test_any_error_on_the_fast_way_leads_to_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*arguments: object) -> None:
        raise RuntimeError("no such operation\nat a line of torch's own")

    monkeypatch.setattr(ReplayMeter, "_verified", failing)
    model, evaluation = nn.Linear(4, 2), Evaluation([torch.rand(2, 4)], as_is)
    assert isinstance(choose_meter(model, evaluation, find_subjects(model, "element"), 2**20), PlainMeter)
    assert caplog.messages == [
        "the sensitivity analysis runs the whole network each time: RuntimeError: no such operation"
    ]


def test_an_evaluation_without_inputs_is_refused() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(UserError, match="has no inputs"):
        ReplayMeter(model, Evaluation([], as_is), find_subjects(model, "element"), 0)


class Convolutions(TorchFunctionMode):
    """Counts calls of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += "conv2d" in str(function)
        return function(*args, **(kwargs or {}))


def test_what_precedes_the_weight_is_computed_once() -> None:
    model = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(5)))
    evaluation = Evaluation([torch.rand(1, 3, 4, 4)], as_is)
    subjects = find_subjects(model, "element")
    meter, counts = ReplayMeter(model, evaluation, subjects, 2**20), []
    for subject in meter.order(subjects):
        for level in (0.3, 0.6):
            value = subject.change(subject.parameter.detach(), level)
            with Convolutions() as counter:
                meter.changed(subject, value)
            counts.append(counter.count)
    # from the changed layer to the end; with a weight's first level, one more moves what is kept
    assert counts == [5, 5, 1 + 4, 4, 1 + 3, 3, 1 + 2, 2, 1 + 1, 1]


@pytest.fixture(autouse=True)
def _logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


class OfOneSignal(nn.Module):
    """A convolution of (channels, length), whose BatchNorm takes the channels for a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv1d(5, 5, 3, padding=1), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.conv(x)).relu())


def test_a_norm_of_another_dimension_is_not_folded() -> None:
    torch.manual_seed(0)
    check(shaken(OfOneSignal()), Evaluation([torch.rand(5, 5)], as_is))

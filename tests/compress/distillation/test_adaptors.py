"""A student that is pruned and thinned while it learns: the teacher stays dense, features stay comparable."""

from typing import Any

import pytest
import torch
from torch import nn

from compress.distillation.adaptors import Adaptors
from compress.distillation.capture import Call
from compress.distillation.channel_owners import carriers
from compress.errors import UserError
from compress.thinning.recipe import Recipe
from tests.compress.distillation.nets import first_batch, taught, wide_net
from tests.compress.harness import Run, tiny_net

FILTERS = {"class": "L1RankedStructureParameterPruner", "reg_regims": {"conv1.weight": [0.5, "3D"]}}


def thinning(distiller: dict[str, Any], first: bool = True, epochs: tuple[int, ...] = (1,)) -> dict[str, Any]:
    """Learns from epoch 0 on; prunes and thins in the epochs given."""
    learning = {"distiller": {"instance_name": "kd"}, "starting_epoch": 0, "ending_epoch": 4}
    shrinking = [
        {"pruner": {"instance_name": "filters"}, "epochs": list(epochs)},
        {"extension": {"instance_name": "thinner"}, "epochs": list(epochs)},
    ]
    return {
        "pruners": {"filters": FILTERS},
        "extensions": {"thinner": {"class": "FilterRemover"}},
        "distillers": {"kd": distiller},
        "policies": [learning, *shrinking] if first else [*shrinking, learning],
    }


def hints(**arguments: Any) -> dict[str, Any]:
    return {"class": "FeatureDistillation", "teacher": "self", **arguments}


@pytest.mark.parametrize(
    "distiller",
    [
        {"class": "KnowledgeDistillation", "teacher": "self"},
        hints(layers=["relu1", "conv1", "relu2"]),
        hints(layers=["relu1"], adaptors="always"),
        hints(layers=["relu1"], loss="attention"),
        {"class": "SimilarityDistillation", "teacher": "self", "layers": ["relu1"]},
        {"class": "StagedDistillation", "teacher": "self", "stages": {"relu1": "relu1", "relu2": "relu2"}},
    ],
    ids=lambda each: each["class"] + str(each.get("adaptors", each.get("loss", ""))),
)
def test_the_student_gets_thinner_and_the_teacher_stays_dense(distiller: dict[str, Any]) -> None:
    first = distiller.get("adaptors") is None  # listed before the thinner, or behind it
    run = taught(thinning(distiller, first), example_inputs=first_batch())
    for epoch in range(4):
        run.epoch(epoch)
    assert run.net.conv1.out_channels == 4
    teacher = run.scheduler.teachers.find("self", run.net)
    assert teacher.get_parameter("conv1.weight").shape[0] == 8
    dense = tiny_net()
    assert torch.equal(teacher.get_parameter("conv1.weight"), dense.conv1.weight)
    assert all(torch.isfinite(parameter).all() for parameter in run.net.parameters())


def test_the_channels_that_are_left_meet_their_own_in_the_teacher() -> None:
    run = taught(thinning(hints(layers=["relu1"], student_wt=0.0)), example_inputs=first_batch())
    run.epoch(0)
    run.scheduler.on_epoch_begin(1, run.optimizer)
    mask = run.mask("conv1.weight")
    kept = mask.flatten(1).any(1).nonzero().flatten()
    run.scheduler.on_minibatch_begin(1, 0, 4, run.optimizer)
    run.net(first_batch())
    loss = run.scheduler.before_backward_pass(1, 0, 4, torch.zeros(()), run.optimizer)
    assert isinstance(loss, torch.Tensor)
    student = run.net[:3](first_batch())
    teacher = run.scheduler.teachers.find("self", run.net)
    wanted = teacher.relu1(teacher.bn1(teacher.conv1(first_batch())))  # type: ignore[operator]
    torch.testing.assert_close(loss, (student - wanted[:, kept]).square().mean())


def test_an_adaptor_loses_the_same_channels_and_its_momentum_too() -> None:
    run = taught(thinning(hints(layers=["relu1"], adaptors="always")), example_inputs=first_batch())
    (matrix,) = run.optimizer.param_groups[1]["params"]
    run.epoch(0)
    before, momentum = matrix.detach().clone(), run.optimizer.state[matrix]["momentum_buffer"].clone()
    run.scheduler.on_epoch_begin(1, run.optimizer)
    kept = run.mask("conv1.weight").flatten(1).any(1).nonzero().flatten()
    run.scheduler.on_minibatch_begin(1, 0, 4, run.optimizer)
    run.scheduler.before_backward_pass(1, 0, 4, run.net(first_batch()).sum(), run.optimizer)
    assert tuple(matrix.shape) == (8, 4)
    assert torch.equal(matrix, before[:, kept])
    assert torch.equal(run.optimizer.state[matrix]["momentum_buffer"], momentum[:, kept])
    assert run.optimizer.param_groups[1]["params"][0] is matrix


@pytest.mark.parametrize("kind", ["Adafactor", "Adagrad"])
def test_an_adaptor_in_an_optimizer_with_state_of_another_shape_goes_on(kind: str) -> None:
    net = tiny_net()
    optimizer = getattr(torch.optim, kind)(net.parameters(), lr=1e-3)
    run = taught(
        thinning(hints(layers=["relu1"], adaptors="always")), net=net, optimizer=optimizer, example_inputs=first_batch()
    )
    for epoch in range(3):
        run.epoch(epoch)
    (matrix,) = optimizer.param_groups[1]["params"]
    state = optimizer.state[matrix]
    assert tuple(matrix.shape) == (8, 4)
    assert int(state["step"]) == 3 * run.steps
    if kind == "Adafactor":
        assert (tuple(state["row_var"].shape), tuple(state["col_var"].shape)) == ((8, 1), (1, 4))


def test_a_student_thinned_twice_and_a_teacher_copied_in_between() -> None:
    schedule = thinning(hints(layers=["relu1"], adaptors="always"), epochs=(1, 3))
    schedule["policies"][0] = {"distiller": {"instance_name": "kd"}, "starting_epoch": 2, "ending_epoch": 5}
    run = taught(schedule, example_inputs=first_batch())
    for epoch in range(5):
        run.epoch(epoch)
    (matrix,) = run.optimizer.param_groups[1]["params"]
    assert run.net.conv1.out_channels == 2
    assert run.scheduler.teachers.start("self", run.net, 9).recipes == 1
    assert tuple(matrix.shape) == (4, 2)


@pytest.mark.parametrize(("adaptors", "kill"), [("auto", 5), ("auto", 8), ("always", 4)])
def test_killed_anywhere_and_resumed_it_is_the_same_run(adaptors: str, kill: int, tmp_path: Any) -> None:
    def make() -> Run:
        return taught(thinning(hints(layers=["relu1", "conv2"], adaptors=adaptors)), example_inputs=first_batch())

    def train(run: Run, first: int, last: int) -> None:
        for number in range(first, last):
            epoch, step = divmod(number, 3)
            run.steps = 3
            if step == 0:
                run.scheduler.on_epoch_begin(epoch, run.optimizer)
            run.step(epoch, step)
            if step == 2:
                run.scheduler.on_epoch_end(epoch, run.optimizer)

    whole, first, second = make(), make(), make()
    train(whole, 0, 12)
    train(first, 0, kill)
    torch.save(first.save(), tmp_path / "s.pt")
    state = torch.load(tmp_path / "s.pt", weights_only=True)
    second.scheduler.load_state_dict(state["scheduler"])  # first: it thins the network
    second.net.load_state_dict(state["net"])
    second.optimizer.load_state_dict(state["optimizer"])
    train(second, kill, 12)
    for key, value in whole.net.state_dict().items():
        assert torch.equal(value, second.net.state_dict()[key]), key
    for ours, theirs in zip(whole.optimizer.param_groups[-1]["params"], second.optimizer.param_groups[-1]["params"],
                            strict=True):  # fmt: skip
        assert torch.equal(ours, theirs)


def test_a_state_without_the_teachers_weights_is_refused_until_they_are_put_in() -> None:
    schedule = thinning({"class": "KnowledgeDistillation", "teacher": "self"})
    run = taught(schedule)
    for epoch in range(3):
        run.epoch(epoch)
    state, apart = run.scheduler.state_dict(teachers=False), run.scheduler.teachers.state_dict()
    other = taught(schedule)
    with pytest.raises(UserError, match="weights of the teacher 'self' are not in this state"):
        other.scheduler.load_state_dict(state)
    other.scheduler.load_state_dict({**state, "teachers": apart})
    own, theirs = (each.scheduler.teachers.find("self", each.net).state_dict() for each in (run, other))
    assert all(torch.equal(value, theirs[name]) for name, value in own.items())


def test_a_teacher_that_was_given_is_restored_with_its_weights() -> None:
    instance = {"class": "KnowledgeDistillation", "teacher": "big"}
    run = taught(thinning(instance), {"big": wide_net(1)})
    other = taught(thinning(instance), {"big": lambda: wide_net(2)})
    run.epoch(0)
    other.scheduler.load_state_dict(run.scheduler.state_dict())
    own, theirs = (each.scheduler.teachers.find("big", each.net).state_dict() for each in (run, other))
    assert all(torch.equal(value, theirs[name]) for name, value in own.items())


class Joined(nn.Module):
    """Two branches side by side, a residual sum, an identity."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.norm, self.join, self.same = nn.BatchNorm2d(4), nn.ReLU(), nn.Identity()
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = self.join(self.norm(self.a(x)) + self.b(x))
        both = self.same(torch.cat([left, self.b(x)], 1))
        result: torch.Tensor = self.out(nn.functional.relu(both))
        return result


def test_the_carrier_of_channels() -> None:
    call = Call((torch.zeros(1, 3, 4, 4),))
    assert carriers(Joined(), ["a", "join", "norm"], call)["join"] in [("a.weight", 0), ("b.weight", 0)]
    found = carriers(tiny_net(), ["relu1", "conv1", "bn2", ""], Call((first_batch(),)))
    assert found == {"relu1": ("conv1.weight", 0), "conv1": ("conv1.weight", 0), "bn2": ("conv2.weight", 0),
                     "": ("fc.weight", 0)}  # fmt: skip


def test_channels_without_one_carrier_are_refused() -> None:
    class Concatenated(Joined):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.out(self.join(torch.cat([self.a(x), self.b(x)], 1)))
            return result

    call = Call((torch.zeros(1, 3, 4, 4),))
    with pytest.raises(UserError, match="the channels of 'join' are those of several layers together"):
        carriers(Concatenated(), ["join"], call)
    with pytest.raises(UserError, match="'same' computes nothing by itself"):
        carriers(Joined(), ["same"], call)


def test_adaptors_of_another_distiller_are_refused() -> None:
    state = Adaptors({"a": (2, 3)}).state_dict()
    with pytest.raises(UserError, match=r"are of \['a'\], here are \['b'\]"):
        Adaptors({"b": (2, 3)}).load_state_dict(state)


def test_a_copy_cannot_be_made_of_a_network_that_is_thinner_than_it_was() -> None:
    run = taught(thinning({"class": "KnowledgeDistillation", "teacher": "self"}))
    for epoch in range(2):
        run.epoch(epoch)
    other = taught({"policies": []}, net=tiny_net())
    Recipe.from_dict(run.scheduler.recipes[0]).apply(other.net)
    with pytest.raises(UserError, match="this network is thinner already than it was then"):
        other.scheduler.teachers.load_state_dict(
            run.scheduler.teachers.state_dict(), other.net, run.scheduler.recipes, applied=1
        )


@pytest.mark.parametrize("teacher", ["self", "wide"])
@pytest.mark.parametrize("adaptors", ["auto", "always"])
def test_a_loop_may_hold_its_last_losses_while_the_student_is_thinned(teacher: str, adaptors: str) -> None:
    """Autograd remembers the shape of a gradient as long as a loss is alive that it belongs to."""
    layers = {"relu1": "relu1"} if teacher == "self" else {"relu1": "act1"}
    schedule = thinning(hints(layers=layers, adaptors=adaptors, teacher=teacher))
    held, run = [], taught(schedule, {"wide": wide_net()}, example_inputs=first_batch())
    backward_pass = run.scheduler.before_backward_pass

    def holding(*args: Any, **settings: Any) -> Any:
        answer = backward_pass(*args, **settings)
        held.append(answer)
        return answer

    run.scheduler.before_backward_pass = holding  # type: ignore[method-assign]
    for epoch in range(3):
        run.epoch(epoch)
    assert len(held) == 3 * run.steps
    assert run.net.conv1.out_channels == 4
    (matrix,) = run.optimizer.param_groups[1]["params"] if adaptors == "always" or teacher == "wide" else [None]
    assert matrix is None or matrix.shape[1] == 4


@pytest.mark.parametrize("named", [False, True])
def test_adaptors_join_an_optimizer_that_keeps_names(named: bool) -> None:
    net = tiny_net()
    optimizer = torch.optim.AdamW(net.named_parameters() if named else net.parameters(), lr=0.01)
    schedule = thinning(hints(layers=["relu1"], adaptors="always"))
    run = taught(schedule, net=net, optimizer=optimizer, example_inputs=first_batch())
    for epoch in range(3):
        run.epoch(epoch)
    group = optimizer.param_groups[1]
    assert group.get("param_names") == (["kd.0"] if named else None)
    assert tuple(group["params"][0].shape) == (8, 4)


def test_an_optimizer_that_trains_one_group_only_is_refused() -> None:
    net = tiny_net()
    with pytest.raises(UserError, match="LBFGS has one group of parameters only, so 'kd.0' would not be trained"):
        taught(
            thinning(hints(layers=["relu1"], adaptors="always")),
            net=net, optimizer=torch.optim.LBFGS(net.parameters()), example_inputs=first_batch(),
        )  # fmt: skip


def test_a_matched_feature_is_in_float32_inside_autocast() -> None:
    adaptors = Adaptors({"relu1": (8, 16)})
    student, teacher = torch.randn(2, 8, 4, 4), torch.randn(2, 16, 4, 4)
    outside = adaptors.match("relu1", student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        inside = adaptors.match("relu1", student, teacher)
    assert all(torch.equal(given, wanted) for given, wanted in zip(inside, outside, strict=True))

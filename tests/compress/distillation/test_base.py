"""Distillers in the training loop: hooks on the student, one run of the teacher, gradients to the student alone."""

import copy
import gc
import weakref
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.distillation.capture import Capture
from compress.errors import ScheduleError, UserError
from tests.compress.distillation.nets import Counted, first_batch, taught, wide_net
from tests.compress.harness import Run, batch, one_policy, tiny_net

LOGITS = {"class": "KnowledgeDistillation", "teacher": "big", "temperature": 2.0}


def loss_of(run: Run, step: int = 0, own: float = 1.0) -> tuple[float, dict[str, float]]:
    """Loss and terms of one minibatch, without an update; the loop's own loss is `own`."""
    run.scheduler.on_epoch_begin(0, run.optimizer)
    run.scheduler.on_minibatch_begin(0, step, 4, run.optimizer)
    run.net.train()
    run.net(batch(0, step))
    answer = run.scheduler.before_backward_pass(
        0, step, 4, torch.tensor(own), run.optimizer, return_loss_components=True
    )
    run.scheduler.on_minibatch_end(0, step, 4, run.optimizer)
    assert not isinstance(answer, torch.Tensor)
    return float(answer.overall_loss.detach()), {name: float(value.detach()) for name, value in answer.loss_components}


def test_the_loss_is_the_weighted_sum_and_the_term_is_named() -> None:
    teacher, student = wide_net(), tiny_net()
    run = taught(one_policy("distillers", LOGITS, [0]), {"big": teacher}, student)
    loss, terms = loss_of(run, own=3.0)
    own, wanted = (functional.softmax(net(first_batch()) / 2, 1).detach() for net in (student, teacher))
    divergence = 4 * float((wanted * (wanted / own).log()).sum()) / 4  # T^2 = 4, four samples
    assert list(terms) == ["it_loss"]
    assert terms["it_loss"] == pytest.approx(0.5 * divergence, rel=1e-4)
    assert loss == pytest.approx(0.5 * 3.0 + 0.5 * divergence, rel=1e-4)


def test_the_loop_s_loss_of_a_weightless_student_leaves_no_gradient_and_no_nan() -> None:
    run = taught(one_policy("distillers", {**LOGITS, "student_wt": 0.0}, [0]), {"big": wide_net()})
    loss, terms = loss_of(run, own=float("nan"))
    assert loss == terms["it_loss"]


def test_output_distillation_of_images() -> None:
    teacher, student = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
    instance = {"class": "OutputDistillation", "teacher": "big", "distillation_wt": 2.0}
    run = taught(one_policy("distillers", instance, [0]), {"big": teacher}, nn.Sequential(student))
    loss, terms = loss_of(run)
    expected = 2 * float((student(first_batch()) - teacher(first_batch())).abs().mean().detach())
    assert terms["it_loss"] == pytest.approx(expected, rel=1e-5)
    assert loss == pytest.approx(1 + expected, rel=1e-5)


def test_a_teacher_of_other_images_is_named_with_what_it_was_given() -> None:
    run = taught(one_policy("distillers", LOGITS, [0]), {"big": nn.Sequential(nn.Conv2d(1, 4, 3))})
    with pytest.raises(UserError, match=r"the teacher 'big' cannot take what the student is given \(\(4, 3, 6, 6\)\)"):
        loss_of(run)


def test_a_deep_wide_teacher_and_a_shallow_thin_student() -> None:
    teacher, student = wide_net(), tiny_net()
    pairs = {"conv1": "body", "conv2": "neck"}
    instance = {"class": "FeatureDistillation", "teacher": "big", "layers": pairs}
    run = taught(one_policy("distillers", instance, [0]), {"big": teacher}, student)
    (adaptors,) = run.optimizer.param_groups[1:]
    shapes = [tuple(matrix.shape) for matrix in adaptors["params"]]
    assert shapes == [(16, 8), (6, 4)]
    _, terms = loss_of(run)
    x = first_batch()
    hidden = student.conv1(x)
    wanted = teacher[:3](x)
    adapted = functional.conv2d(hidden, adaptors["params"][0][:, :, None, None])
    assert terms["it_loss/conv1"] == pytest.approx(float((adapted - wanted).detach().square().mean()), rel=1e-4)
    before = [matrix.detach().clone() for matrix in adaptors["params"]]
    run.epoch(0)
    assert all(not torch.equal(a, b) for a, b in zip(before, adaptors["params"], strict=True))


@pytest.mark.parametrize("name", ["attention", "similarity"])
def test_widths_may_differ_without_adaptor(name: str) -> None:
    instance: dict[str, Any] = {"class": "SimilarityDistillation", "teacher": "big", "layers": {"relu1": "act2"}}
    if name == "attention":
        instance = {**instance, "class": "FeatureDistillation", "loss": "attention"}
    run = taught(one_policy("distillers", instance, [0]), {"big": wide_net()})
    assert len(run.optimizer.param_groups) == 1
    assert loss_of(run)[1]["it_loss"] > 0


def test_the_teacher_runs_once_for_each_batch_without_gradient_and_stays_as_it_is() -> None:
    teacher = Counted(tiny_net(7))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    schedule = {
        "distillers": {
            "logits": LOGITS,
            "hints": {
                "class": "FeatureDistillation",
                "teacher": "big",
                "layers": {"relu1": "network.relu1"},
                "loss": "attention",
            },
            "alike": {"class": "SimilarityDistillation", "teacher": "big", "layers": {"relu2": "network.relu2"}},
        },
        "policies": [{"distiller": {"instance_name": name}, "epochs": [0]} for name in ("logits", "hints", "alike")],
    }
    run = taught(schedule, {"big": teacher})
    run.epoch(0)
    assert teacher.calls == run.steps
    assert run.terms == ["logits_loss", "hints_loss", "alike_loss"]
    assert [torch.equal(given, batch(0, step)) for step, given in enumerate(teacher.inputs)] == [True] * run.steps
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    run.epoch(1)
    assert teacher.calls == run.steps, "it runs outside of its window"


def test_gradients_are_those_of_the_same_loss_written_by_hand() -> None:
    teacher = wide_net()
    instance = {"class": "FeatureDistillation", "teacher": "big", "layers": {"relu1": "act2"}, "loss": "attention"}
    run = taught(one_policy("distillers", {**instance, "student_wt": 0.0}, [0]), {"big": teacher})
    run.scheduler.on_epoch_begin(0, run.optimizer)
    run.scheduler.on_minibatch_begin(0, 0, 1, run.optimizer)
    run.net(first_batch())
    loss = run.scheduler.before_backward_pass(0, 0, 1, torch.zeros(()), run.optimizer)
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    net = tiny_net()
    maps = []
    for feature in (net[:3](first_batch()), teacher[:4](first_batch()).detach()):
        energy = (feature**2).sum(1).reshape(4, -1)
        maps.append(energy / energy.norm(dim=1, keepdim=True))
    ((maps[0] - maps[1]) ** 2).sum(1).mean().backward()
    torch.testing.assert_close(run.net.conv1.weight.grad, net.conv1.weight.grad)
    assert run.net.conv2.weight.grad is None


def test_a_layer_s_output_is_taken_before_an_in_place_activation_changes_it() -> None:
    net = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), act=nn.ReLU(inplace=True)))
    capture = Capture()
    capture.watch(net, ["conv"])
    net(first_batch())
    assert capture.call is not None
    assert torch.equal(capture.call.layers["conv"], net.conv(first_batch()))
    assert (capture.call.layers["conv"] < 0).any()


def test_forwards_in_eval_mode_are_ignored() -> None:
    run = taught(one_policy("distillers", LOGITS, [0]), {"big": wide_net()})
    run.scheduler.on_epoch_begin(0, run.optimizer)
    run.scheduler.on_minibatch_begin(0, 0, 4, run.optimizer)
    run.net.train()
    run.net(first_batch())
    run.net.eval()
    with torch.no_grad():
        run.net(torch.zeros(1, 3, 6, 6))
    call = run.scheduler.teachers.call()
    assert torch.equal(call.args[0], first_batch())
    run.scheduler.on_minibatch_end(0, 0, 4, run.optimizer)
    run.scheduler.on_minibatch_begin(0, 1, 4, run.optimizer)
    run.net(first_batch())
    with pytest.raises(UserError, match=r"was not called in training mode"):
        run.scheduler.before_backward_pass(0, 1, 4, torch.zeros(()), run.optimizer)


def test_no_hook_and_no_tensor_is_left_after_a_step() -> None:
    instance = {"class": "FeatureDistillation", "teacher": "big", "layers": {"relu1": "act2"}}
    run = taught(one_policy("distillers", instance, [0]), {"big": wide_net()}, example_inputs=first_batch())
    run.scheduler.on_epoch_begin(0, run.optimizer)
    run.step(0, 0)
    modules = [*run.net.modules(), *run.scheduler.teachers.find("big", run.net).modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    inputs = torch.randn(4, 3, 6, 6)
    alive = weakref.ref(inputs)
    run.scheduler.on_minibatch_begin(0, 1, 4, run.optimizer)
    loss = run.scheduler.before_backward_pass(0, 1, 4, run.net(inputs).sum(), run.optimizer)
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    run.scheduler.on_minibatch_end(0, 1, 4, run.optimizer)
    del inputs, loss
    gc.collect()
    assert alive() is None


def test_self_is_the_network_as_it_was_when_the_distiller_began() -> None:
    run = taught(one_policy("distillers", {**LOGITS, "teacher": "self"}, [1, 2]))
    run.epoch(0)
    assert run.scheduler.teachers.names == []
    then = {name: value.clone() for name, value in run.net.state_dict().items()}
    run.epoch(1)
    run.epoch(2)
    state = run.scheduler.teachers.find("self", run.net).state_dict()
    assert all(torch.equal(value, then[name]) for name, value in state.items())
    assert not torch.equal(run.net.conv1.weight, then["conv1.weight"])


def test_wrapped_students_are_known_by_their_plain_names() -> None:
    inner = tiny_net()
    net = nn.DataParallel(inner)  # without devices it calls the module itself
    instance = {"class": "FeatureDistillation", "teacher": "self", "layers": ["module.relu1"]}
    run = taught(one_policy("distillers", instance, [0]), net=net)
    run.epoch(0)
    assert run.terms == ["it_loss"]
    assert "conv1.weight" in run.scheduler.teachers.state_dict()["self"]["weights"]


@pytest.mark.parametrize(
    ("output", "kind"),
    [(lambda y: {"logits": y}, "mapping"), (lambda y: (y, y), "tuple"), (lambda y: [y], "list")],
    ids=["mapping", "tuple", "list"],
)
def test_outputs_in_containers(output: Any, kind: str) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = tiny_net()

        def forward(self, images: torch.Tensor) -> Any:
            return output(self.net(images))

    run = taught(one_policy("distillers", LOGITS, [0]), {"big": wide_net()}, Wrapped())
    plain = taught(one_policy("distillers", LOGITS, [0]), {"big": wide_net()})
    assert loss_of(run) == loss_of(plain), kind


def test_mixed_precision_is_the_teacher_s_too() -> None:
    teacher = Counted(wide_net())
    teacher.network.register_forward_hook(lambda module, args, output: kinds.append(output.dtype))
    kinds: list[torch.dtype] = []
    run = taught(one_policy("distillers", LOGITS, [0]), {"big": teacher})
    run.scheduler.on_epoch_begin(0, run.optimizer)
    run.scheduler.on_minibatch_begin(0, 0, 4, run.optimizer)
    with torch.autocast("cpu", torch.bfloat16):
        run.net(first_batch())
    run.scheduler.before_backward_pass(0, 0, 4, torch.zeros(()), run.optimizer)
    assert kinds == [torch.bfloat16]


ALIKE, STAGED = (
    {"class": "SimilarityDistillation", "teacher": "big"},
    {"class": "StagedDistillation", "teacher": "self"},
)
BAD = [
    ({**LOGITS, "teacher": "bigg"}, "no teacher 'bigg'; did you mean 'big'"),
    ({**LOGITS, "temperature": 0.0}, "given 0.0"),
    ({**ALIKE, "layers": {"relu1": "act9"}}, "the teacher 'big' has no layer"),
    ({**ALIKE, "layers": {"relu9": "act2"}}, "'relu9' matches no module"),
    ({"class": "FeatureDistillation", "teacher": "big", "layers": {"relu1": "act2"}}, "is not known before training"),
    ({**STAGED, "stages": {"relu1": "relu1", "relu2": "relu2"}}, "need 2 firing"),
    (
        {"class": "StagedDistillation", "teacher": "self", "stages": {"relu1": "relu1"}, "epochs_of_stages": [1, 1]},
        "1 stages, but epochs_of_stages has 2 numbers",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("instance", "message"), BAD)
def test_what_cannot_work_is_a_fault_of_the_schedule(instance: dict[str, Any], message: str) -> None:
    net = tiny_net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with pytest.raises(ScheduleError, match=message):
        taught(one_policy("distillers", instance, [0]), {"big": wide_net()}, net, optimizer=optimizer)
    assert len(optimizer.param_groups) == 1


def test_a_loop_that_knows_no_teachers_says_so() -> None:
    with pytest.raises(ScheduleError, match="no teacher 'big' is known"):
        taught(one_policy("distillers", LOGITS, [0]))


def test_the_student_is_not_taken_for_its_teacher() -> None:
    net = tiny_net()
    with pytest.raises(ScheduleError, match="is the student itself, which would be frozen; write teacher: self"):
        taught(one_policy("distillers", LOGITS, [0]), {"big": net}, net)
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_outputs_of_different_sizes_are_refused() -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(108, 1))
    run = taught(one_policy("distillers", LOGITS, [0]), {"big": teacher})
    with pytest.raises(UserError, match=r"the student's output is \(4, 5\), the teacher's \(4, 1\)"):
        run.epoch(0)


def test_a_layer_that_is_not_called_is_named() -> None:
    net = tiny_net()
    net.relu1.spare = nn.ReLU()
    instance = {"class": "SimilarityDistillation", "teacher": "big", "layers": {"relu1.spare": "act2"}}
    run = taught(one_policy("distillers", instance, [0]), {"big": wide_net()}, net)
    with pytest.raises(UserError, match=r"the student has a layer 'relu1.spare', but its forward pass did not call it"):
        run.epoch(0)


def test_doubtful_orders_are_warned_of() -> None:
    schedule = {
        "pruners": {"p": {"class": "SparsityLevelParameterPruner", "levels": {"conv1.weight": 0.5}}},
        "regularizers": {"l1": {"class": "L1Regularizer", "reg_regims": {"fc.weight": 0.1}}},
        "distillers": {"kd": {**LOGITS, "teacher": "self"}},
        "policies": [
            {"pruner": {"instance_name": "p"}, "epochs": [0]},
            {"regularizer": {"instance_name": "l1"}, "epochs": [1]},
            {"distiller": {"instance_name": "kd"}, "epochs": [1]},
        ],
    }
    with pytest.raises(ScheduleError) as caught:
        taught(schedule, strict=True)
    assert "student_wt 0.5 of 'kd' also multiplies the terms of 'l1'" in str(caught.value)
    assert "the teacher is the pruned network, not the dense one" in str(caught.value)


def test_a_teacher_that_would_be_a_quantized_copy_is_a_fault() -> None:
    def schedule(begin: int, first: bool) -> dict[str, Any]:
        learning = {"distiller": {"instance_name": "kd"}, "starting_epoch": begin, "ending_epoch": 4}
        quantizing = {"quantizer": {"instance_name": "q"}, "starting_epoch": 1, "ending_epoch": 4}
        return {
            "quantizers": {"q": {"class": "DorefaQuantizer", "bits_weights": 4, "bits_activations": 4}},
            "distillers": {"kd": {"class": "KnowledgeDistillation", "teacher": "self"}},
            "policies": [learning, quantizing] if first else [quantizing, learning],
        }

    for begin, first in ((2, True), (1, False)):
        with pytest.raises(ScheduleError, match="when 'q' has quantized the network; begin it before that"):
            taught(schedule(begin, first))
    run = taught(schedule(1, True))
    for epoch in range(3):
        run.epoch(epoch)
    teacher, student = run.scheduler.teachers.find("self", run.net), run.net
    assert type(teacher.get_submodule("conv1")) is nn.Conv2d
    assert type(student.conv1) is not nn.Conv2d
    state = run.scheduler.state_dict()
    again = taught(schedule(1, True))
    again.scheduler.load_state_dict(state)
    restored = again.scheduler.teachers.find("self", again.net)
    assert all(torch.equal(value, restored.state_dict()[name]) for name, value in teacher.state_dict().items())


class Noisy(nn.Module):
    """A teacher that answers differently in training mode, in all the ways that torch has."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(3, momentum=None), nn.Dropout(0.5)
        self.net = wide_net()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.drop(self.net(self.norm(images)))
        return result


@pytest.mark.parametrize("when", ["before", "after", "in part"])
def test_a_teacher_that_its_owner_trains_is_asked_in_eval_mode_and_keeps_its_mode(when: str) -> None:
    teacher = Noisy().train()
    schedule = one_policy("distillers", {"class": "KnowledgeDistillation", "teacher": "big"}, [0, 1])
    run = taught(schedule, {"big": teacher})
    state = copy.deepcopy(teacher.state_dict())
    if when == "after":
        teacher.train()
    elif when == "in part":
        teacher.norm.train()
    modes = [module.training for module in teacher.modules()]
    run.scheduler.on_epoch_begin(0, run.optimizer)
    run.scheduler.on_minibatch_begin(0, 0, 4, run.optimizer)
    logits = run.net(first_batch())
    found = run.scheduler.before_backward_pass(0, 0, 4, torch.zeros(()), run.optimizer)
    assert [module.training for module in teacher.modules()] == modes
    torch.testing.assert_close(teacher.state_dict(), state, rtol=0, atol=0)
    wanted = copy.deepcopy(teacher).eval()(first_batch())
    expected = torch.nn.functional.kl_div(logits.log_softmax(1), wanted.softmax(1), reduction="batchmean")
    torch.testing.assert_close(found, 0.5 * expected)


@pytest.mark.parametrize("share", [lambda net: nn.Sequential(net), lambda net: nn.Sequential(net.conv1, nn.ReLU())])
def test_a_teacher_made_of_the_student_s_parts_is_refused(share: Any) -> None:
    net = tiny_net()
    schedule = one_policy("distillers", {"class": "KnowledgeDistillation", "teacher": "big"}, [0])
    with pytest.raises(ScheduleError, match="the teacher 'big' shares '0.*weight' and .* with the student"):
        taught(schedule, {"big": share(net)}, net=net)
    assert all(parameter.requires_grad for parameter in net.parameters())

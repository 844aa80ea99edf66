"""Where classes and channels are, in two to five dimensions, behind every kind of layer."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from compress.distillation.feature_dims import channel_dim, known_channel_dim
from compress.distillation.losses import attention_distance, same_positions
from compress.errors import UserError
from tests.compress.distillation.nets import taught
from tests.compress.harness import one_policy


class Head(nn.Module):
    """A layer, and what is done to its output; the answer in a dictionary, as a tuple, or plain."""

    def __init__(self, layer: nn.Module, after: Any = None, kind: str = "plain") -> None:
        super().__init__()
        self.layer, self.after, self.kind = layer, after, kind

    def forward(self, x: Tensor) -> Any:
        y: Tensor = self.layer(x)
        y = y if self.after is None else self.after(y)
        return {"plain": y, "dict": {"logits": y}, "exits": (y, y.flatten(1))}[self.kind]


CASES: dict[str, tuple[Any, Any, tuple[int, ...], int]] = {  # layer, what follows, input, dimension of 5 classes
    "linear": (lambda: nn.Linear(4, 5), None, (3, 4), 1),
    "tokens": (lambda: nn.Linear(4, 5), None, (3, 7, 4), 2),
    "tokens, 5 of them": (lambda: nn.Linear(4, 5), None, (3, 5, 4), 2),
    "tokens, transposed": (lambda: nn.Linear(4, 5), lambda y: y.transpose(1, 2), (3, 7, 4), 1),
    "signal": (lambda: nn.Conv1d(4, 5, 1), None, (3, 4, 7), 1),
    "signal of 5": (lambda: nn.Conv1d(4, 5, 1), torch.relu, (3, 4, 5), 1),
    "signal, normed": (lambda: nn.Sequential(nn.Conv1d(4, 5, 1), nn.BatchNorm1d(5), nn.GELU()), None, (3, 4, 7), 1),
    "signal, permuted": (lambda: nn.Conv1d(4, 5, 1), lambda y: y.permute(0, 2, 1), (3, 4, 7), 2),
    "signal, upwards": (lambda: nn.ConvTranspose1d(4, 5, 2, 2), None, (3, 4, 7), 1),
    "image, flattened": (lambda: nn.Conv2d(4, 5, 1), lambda y: y.flatten(2), (3, 4, 7, 6), 1),
    "image, as tokens": (lambda: nn.Conv2d(4, 5, 1), lambda y: y.flatten(2).mT, (3, 4, 7, 6), 2),
    "image, reshaped": (
        lambda: nn.Conv2d(4, 5, 1), lambda y: y.permute(0, 2, 3, 1).reshape(3, 42, 5), (3, 4, 7, 6), 2,
    ),
    "image, averaged": (lambda: nn.Conv2d(4, 5, 1), lambda y: y.mean(2), (3, 4, 7, 6), 1),
    "image, a row": (lambda: nn.Conv2d(4, 5, 1), lambda y: y[:, :, 0], (3, 4, 7, 6), 1),
    "image, a frame": (lambda: nn.Conv3d(4, 5, 1), lambda y: y.amax(2).flatten(2), (3, 4, 2, 7, 6), 1),
    "heads, stacked": (lambda: nn.Linear(4, 5), lambda y: torch.stack([y, 2 * y, -y], -1), (3, 4), 1),
    "heads in front": (lambda: nn.Linear(4, 5), lambda y: torch.stack([y, 2 * y, -y], 1), (3, 4), 2),
    "repeated": (lambda: nn.Linear(4, 5), lambda y: y.unsqueeze(-1).expand(3, 5, 7), (3, 4), 1),
    "recurrent": (lambda: nn.LSTM(4, 5, batch_first=True), lambda y: y[0] * 2, (3, 7, 4), 2),
    "layer norm": (lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5)), None, (3, 7, 4), 2),
    "segmentation": (lambda: nn.Conv2d(4, 5, 1), None, (3, 4, 7, 6), 1),
    "volume": (lambda: nn.Conv3d(4, 5, 1), None, (3, 4, 2, 7, 6), 1),
}  # fmt: skip
LOGITS = {"class": "KnowledgeDistillation", "teacher": "big", "temperature": 2.0, "student_wt": 0.0}


def head(name: str, seed: int, kind: str = "plain") -> Head:
    torch.manual_seed(seed)
    return Head(CASES[name][0](), CASES[name][1], kind)


def term(run: Any, x: Tensor) -> Tensor:
    run.scheduler.on_epoch_begin(0)
    run.scheduler.on_minibatch_begin(0, 0, 1)
    run.net.train()
    run.net(x)
    found: Tensor = run.scheduler.before_backward_pass(0, 0, 1, torch.zeros(()))
    return found


def by_hand(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    own, wanted = ((each.double() / 2).softmax(dim) for each in (student, teacher))
    return 0.5 * 4 * (wanted * (wanted / own).log()).sum(dim).mean()


@pytest.mark.parametrize("kind", ["plain", "dict", "exits"])
@pytest.mark.parametrize("name", CASES)
def test_the_softmax_of_logits_runs_over_classes(name: str, kind: str) -> None:
    student, teacher, x = head(name, 0, kind), head(name, 1).eval(), torch.randn(*CASES[name][2])
    run = taught(one_policy("distillers", LOGITS, [0]), {"big": teacher}, net=student)
    found = term(run, x)
    logits = student(x)
    logits = logits["logits"] if kind == "dict" else logits[0] if kind == "exits" else logits
    assert channel_dim(logits) == CASES[name][3]
    torch.testing.assert_close(found.double(), by_hand(logits, teacher(x), CASES[name][3]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dim", [1, 2, -1])
def test_whoever_knows_says_where_the_classes_are(dim: int) -> None:
    student, teacher, x = head("tokens", 0), head("tokens", 1), torch.randn(3, 7, 4)
    run = taught(one_policy("distillers", {**LOGITS, "class_dim": dim}, [0]), {"big": teacher}, net=student)
    torch.testing.assert_close(term(run, x).double(), by_hand(student(x), teacher(x), dim), rtol=1e-4, atol=1e-6)
    run = taught(one_policy("distillers", {**LOGITS, "class_dim": 3}, [0]), {"big": teacher}, net=student)
    with pytest.raises(UserError, match=r"class_dim 3: the logits are of shape \(3, 7, 5\)"):
        term(run, x)


@pytest.mark.parametrize(
    ("make", "dim"),
    [
        (lambda w, x: w @ x, 1),  # rows of the parameter
        (lambda w, x: x.mT @ w.T, 2),
        (lambda w, x: nn.functional.linear(w.expand(3, 5, 4), torch.ones(6, 4, requires_grad=True)), 2),  # queries
    ],
)
def test_the_parameter_of_a_product_tells_its_channels(make: Any, dim: int) -> None:
    made = make(torch.ones(5, 4, requires_grad=True), torch.ones(3, 4, 7))
    assert known_channel_dim(made) == dim


def test_logits_whose_maker_is_not_known_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    student, x = Head(nn.Linear(4, 35), lambda y: y.view(3, 5, 7)), torch.randn(3, 4)
    teacher = Head(nn.Linear(4, 35), lambda y: y.view(3, 5, 7))
    run = taught(one_policy("distillers", LOGITS, [0]), {"big": teacher}, net=student)
    torch.testing.assert_close(term(run, x).double(), by_hand(student(x), teacher(x), 2), rtol=1e-4, atol=1e-6)
    term(run, x)
    assert caplog.text.count("(3, 5, 7) is not known") == 1
    assert "class_dim: 1" in caplog.text


@pytest.mark.parametrize("examples", [True, False])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_features_of_convolutions_of_different_widths_get_an_adaptor(rank: int, examples: bool) -> None:
    conv: Any = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[rank]
    student, teacher = nn.Sequential(conv(2, 3, 1), nn.ReLU()), nn.Sequential(conv(2, 6, 1), nn.ReLU())
    x = torch.randn(4, 2, *[5] * rank)
    hints = {"class": "FeatureDistillation", "teacher": "big", "layers": ["0"], "student_wt": 0.0}
    run = taught(
        one_policy("distillers", hints, [0]), {"big": teacher}, net=student, example_inputs=x if examples else None
    )
    (matrix,) = run.optimizer.param_groups[1]["params"]
    assert matrix.shape == (6, 3)
    expected = (torch.einsum("wc,nc...->nw...", matrix, student[0](x)) - teacher[0](x)).square().mean()
    torch.testing.assert_close(term(run, x), expected)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


class ChannelsLast(nn.Module):
    """(N, 3, 8, 8) -> (N, 8, 8, width), as Swin's stages give; `norm` instead of a Linear at the end."""

    def __init__(self, width: int, norm: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.stage = nn.LayerNorm(width) if norm else nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.stage(self.stem(x).permute(0, 2, 3, 1))


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("back", [True, False])
def test_four_dimensions_with_the_channels_last(norm: bool, back: bool) -> None:
    feature = ChannelsLast(8, norm)(torch.randn(2, 3, 8, 8))  # all sizes alike but the batch
    feature = feature.permute(0, 3, 1, 2) if back else feature
    assert channel_dim(feature) == (1 if back else 3)
    assert channel_dim(feature.relu() * 2) == (1 if back else 3)
    assert channel_dim(nn.Conv2d(8, 8, 1)(feature)) == 1
    assert channel_dim(feature.detach()) == 1


@pytest.mark.parametrize("kind", ["FeatureDistillation", "StagedDistillation", "attention"])
@pytest.mark.parametrize("width", [8, 5])
def test_student_and_teacher_may_have_their_channels_at_different_places(kind: str, width: int) -> None:
    """Width 8 is height and width too, so that no size gives the place away; with 5 there is an adaptor."""
    student, teacher = ChannelsLast(width, True), nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())
    settings: dict[str, Any] = {"class": kind, "teacher": "big", "layers": {"stage": "0"}, "student_wt": 0.0}
    if kind == "StagedDistillation":
        settings = {"class": kind, "teacher": "big", "stages": {"stage": "0"}}
    elif kind == "attention":
        settings |= {"class": "FeatureDistillation", "loss": "attention"}
    x = torch.randn(4, 3, 8, 8)
    run = taught(one_policy("distillers", settings, [0]), {"big": teacher}, net=student, example_inputs=x)
    own, its = student(x), teacher[0](x).permute(0, 2, 3, 1)
    if kind == "attention":
        expected = attention_distance(own, its, 3)
    else:
        matrix = run.optimizer.param_groups[1]["params"][0] if width == 5 else torch.eye(8)
        expected = (own @ matrix.T - its).square().mean()
    torch.testing.assert_close(term(run, x), expected)


def test_stages_too_are_told_where_the_channels_are() -> None:
    student, teacher = ChannelsLast(8, True), ChannelsLast(8, True)
    settings = {"class": "StagedDistillation", "teacher": "big", "stages": {"stage": "stage"}, "channel_dim": 1}
    settings |= {"adaptors": "always"}
    x = torch.randn(4, 3, 8, 8)
    run = taught(one_policy("distillers", settings, [0]), {"big": teacher}, net=student, example_inputs=x)
    (matrix,) = run.optimizer.param_groups[1]["params"]
    expected = (torch.einsum("wc,nchx->nwhx", matrix, student(x)) - teacher(x)).square().mean()
    torch.testing.assert_close(term(run, x), expected)


def test_positions_and_attention_of_channels_last_are_those_of_channels_first() -> None:
    student, teacher = ChannelsLast(4, True)(torch.randn(2, 3, 8, 8)), torch.randn(2, 4, 4, 6)
    own, its = same_positions(student, teacher, "stage")
    first = nn.functional.adaptive_avg_pool2d(student.permute(0, 3, 1, 2), (4, 4))
    torch.testing.assert_close(own.permute(0, 3, 1, 2), first)
    assert its.shape == (2, 4, 4, 6)
    energy = first.square().sum(1).flatten(1)
    other = nn.functional.adaptive_avg_pool2d(teacher.permute(0, 3, 1, 2), (4, 4)).square().sum(1).flatten(1)
    maps = [nn.functional.normalize(each, dim=1) for each in (energy, other)]
    torch.testing.assert_close(attention_distance(own, its), (maps[0] - maps[1]).square().sum(1).mean())


class Hidden(nn.Module):
    """Channels-last features of a part that autograd does not look into."""

    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.inside, self.how = ChannelsLast(width, True), how
        self.stage = nn.Identity()
        self.stage.num_features = width  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "checkpoint" and self.training:
            return self.stage(checkpoint(self.inside, x.requires_grad_(), use_reentrant=True))
        return self.stage(self.inside(x))


HINTS = {"class": "FeatureDistillation", "teacher": "big", "layers": ["stage"], "student_wt": 0.0}


@pytest.mark.parametrize("loss", ["l2", "attention"])
def test_features_whose_maker_is_hidden_are_asked_for(loss: str) -> None:
    x = torch.randn(2, 3, 8, 6)
    given = {**HINTS, "loss": loss}
    found = []
    for more, examples in (({}, x.clone()), ({"channel_dim": -1}, None), ({"channel_dim": 3}, x.clone())):
        student, teacher = Hidden(4, "checkpoint"), Hidden(4 if examples is None else 5, "")
        torch.nn.init.ones_(teacher.inside.stage.weight)
        schedule = one_policy("distillers", {**given, **more}, [0])
        run = taught(schedule, {"big": teacher.eval()}, net=student, example_inputs=examples)
        found.append(term(run, x.clone()))
        expected = ChannelsLast.forward(student.inside, x), teacher(x)
        if loss == "attention":
            maps = [nn.functional.normalize(each.square().sum(3).flatten(1), dim=1) for each in expected]
            torch.testing.assert_close(found[-1], (maps[0] - maps[1]).square().sum(1).mean())
        elif examples is not None:
            (matrix,) = run.optimizer.param_groups[1]["params"]
            torch.testing.assert_close(found[-1], (expected[0] @ matrix.T - expected[1]).square().mean())
    torch.testing.assert_close(found[0], found[2])


def test_features_whose_maker_is_hidden_are_never_read_as_images() -> None:
    x, schedule = torch.randn(2, 3, 8, 6), one_policy("distillers", {**HINTS, "loss": "attention"}, [0])
    run = taught(schedule, {"big": Hidden(4, "").eval()}, net=Hidden(4, "checkpoint"))
    with pytest.raises(UserError, match=r"of 'stage', \(2, 8, 6, 4\), holds the channels .* channel_dim: 3"):
        term(run, x)
    run = taught(one_policy("distillers", HINTS, [0]), {"big": Hidden(4, "").eval()}, net=Hidden(4, "checkpoint"))
    assert term(run, x.clone()) == 0  # alike, element by element: it does not matter
    run = taught(
        one_policy("distillers", {**HINTS, "channel_dim": 4}, [0]), {"big": Hidden(4, "").eval()}, net=Hidden(4, "")
    )
    with pytest.raises(UserError, match=r"channel_dim 4: 'stage' gives \(2, 8, 6, 4\)"):
        term(run, x.clone())

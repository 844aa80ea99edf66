"""The distances that distillers add to the loss: pure functions of tensors.

The formulas. All compute in float32 and take the mean over the batch, so that a value does not depend on the batch's
size.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from compress.distillation.feature_dims import channel_dim
from compress.errors import UserError

Distance = Literal["l1", "l2"]
SHORTEST = {"attention": 0.01, "similarity": 0.1}  # of the batch's mean length: features of a tenth of the usual size


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float, class_dim: int | None = None) -> Tensor:
    """T^2 * KL(teacher / T || student / T) of logits, the mean over the batch (and over positions, if there are any).

    Args:
        student: logits, (N, C), (N, C, ...) or (N, tokens, C).
        teacher: the same shape.
        temperature: T, > 0. The factor T^2 keeps the gradient's size, which falls with 1 / T^2.
        class_dim: the dimension of the classes; None finds it, see feature_dims.py.
    """
    dim = channel_dim(student) if class_dim is None else class_dim
    own = functional.log_softmax(student.float().movedim(dim, -1).flatten(0, -2) / temperature, dim=-1)
    wanted = functional.log_softmax(teacher.float().movedim(dim, -1).flatten(0, -2) / temperature, dim=-1)
    return temperature**2 * functional.kl_div(own, wanted, reduction="batchmean", log_target=True)


def distance(student: Tensor, teacher: Tensor, kind: Distance) -> Tensor:
    """Mean over all elements of |student - teacher| (`l1`) or of its square (`l2`)."""
    pixelwise = functional.l1_loss if kind == "l1" else functional.mse_loss
    return pixelwise(student.float(), teacher.float())


def attention_map(feature: Tensor, dim: int | None = None) -> Tensor:
    """Where a layer looks: squares summed over its channels, a vector of length 1 for each sample, (N, positions).

    The vector of a sample that the layer hardly answers stays shorter (`unit_rows`).
    """
    energy = feature.float().square().sum(channel_dim(feature) if dim is None else dim).flatten(1)
    return unit_rows(energy, SHORTEST["attention"])


def unit_rows(vectors: Tensor, shortest: float) -> Tensor:
    """Each row divided by its length, or by a part of the batch's mean length where that is more.

    The gradient of a row of length 1 grows without bound as the row falls to zero. A layer that answers one sample
    with nothing, as ReLU layers do, would throw the whole network away by it; such a row stays short instead.

    Args:
        vectors: (N, D).
        shortest: that part, in [0, 1).
    """
    lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    least = shortest * lengths.detach().mean()
    return vectors / torch.where(lengths > least, lengths, least).clamp_min(1e-12)


def attention_distance(student: Tensor, teacher: Tensor, dim: int | None = None) -> Tensor:
    """Squared distance of the attention maps, summed over positions, the mean over the batch, in [0, 2]."""
    dim = channel_dim(student) if dim is None else dim
    return (attention_map(student, dim) - attention_map(teacher, dim)).square().sum(1).mean()


def similarity(feature: Tensor) -> Tensor:
    """How alike the samples of a batch look to a layer: Gram matrix of the samples, each row of length 1, (N, N).

    The row of a sample that the layer hardly answers stays shorter (`unit_rows`).
    """
    flat = feature.float().flatten(1)
    with torch.autocast(flat.device.type, enabled=False):  # around a whole training step it would multiply in half
        return unit_rows(flat @ flat.T, SHORTEST["similarity"])


def similarity_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared Frobenius distance of the two similarity matrices, divided by N^2."""
    return (similarity(student) - similarity(teacher)).square().mean()


def same_positions(student: Tensor, teacher: Tensor, layer: str, dim: int | None = None) -> tuple[Tensor, Tensor]:
    """Both features at the smaller of their heights and widths (adaptive average pooling); others must be of one size.

    Args:
        student: (N, C, ...), or (N, H, W, C).
        teacher: (N, D, ...), its channels where the student's are.
        layer: of the student, for the message.
        dim: the dimension of the channels; None finds it, see feature_dims.py.

    Raises:
        UserError: the features cannot be laid over each other.
    """
    dim = channel_dim(student) if dim is None else dim
    if student.dim() == teacher.dim() == 4:
        own, its = student.movedim(dim, 1), teacher.movedim(dim, 1)
        if own.shape[2:] != its.shape[2:]:
            common = (min(own.shape[2], its.shape[2]), min(own.shape[3], its.shape[3]))
            own, its = (functional.adaptive_avg_pool2d(each, common) for each in (own, its))
        return own.movedim(1, dim), its.movedim(1, dim)
    left, right = (torch.Size(size for i, size in enumerate(each.shape) if i != dim) for each in (student, teacher))
    if left != right:
        raise UserError(
            f"the student's {layer or 'output'!r} gives {tuple(student.shape)} and the teacher's layer for it "
            f"{tuple(teacher.shape)}: only height and width of (N, C, H, W) may differ"
        )
    return student, teacher

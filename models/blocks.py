"""Blocks that train wide and deploy narrow: several branches, all linear, that one convolution can replace.

`RepVGGBlock` and `EdgeBlock`. Each has `fuse()`, by which the extension `Reparameterize` of a schedule replaces it.
Activations stand outside: what a block fuses to is one `nn.Conv2d`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

SOBEL = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))
LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


class RepVGGBlock(nn.Module):
    """A 3x3 and a 1x1 convolution and the identity, each with a BatchNorm, added: (N, in, h, w) -> (N, out, h', w').

    Paper: Ding et al. 2021, RepVGG, arXiv 2101.03697, section 3.3. The identity is there where input and output have
    one shape. In training mode each branch is normalised by the minibatch; `fuse` folds the running statistics, so it
    computes what the block does in eval mode.

    Args:
        inputs: channels.
        outputs: channels.
        stride: of the convolutions, >= 1.
        groups: of the convolutions; divides both numbers of channels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.wide = nn.Conv2d(inputs, outputs, 3, stride, padding=1, groups=groups, bias=False)
        self.wide_norm = nn.BatchNorm2d(outputs)
        self.point = nn.Conv2d(inputs, outputs, 1, stride, groups=groups, bias=False)
        self.point_norm = nn.BatchNorm2d(outputs)
        self.norm = nn.BatchNorm2d(outputs) if inputs == outputs and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.wide_norm(self.wide(x)) + self.point_norm(self.point(x))
        return total if self.norm is None else total + self.norm(x)

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """One 3x3 convolution with bias that computes the same in eval mode."""
        identity = _identity(self.wide)
        branches = [
            _folded(self.wide.weight, self.wide_norm),
            _folded(functional.pad(self.point.weight, (1, 1, 1, 1)), self.point_norm),
            *([] if self.norm is None else [_folded(identity, self.norm)]),
        ]
        weights, biases = zip(*branches, strict=True)
        return _convolution(sum(weights), sum(biases), self.wide)


class EdgeBlock(nn.Module):
    """A 3x3 convolution beside branches that look for edges (ECB): (N, in, h, w) -> (N, out, h, w).

    Paper: Zhang et al. 2021, Edge-oriented Convolution Block for Real-time Super Resolution on Mobile Devices, ACM
    Multimedia, section 3.2: the sum of a 3x3 convolution, a 1x1 convolution to more channels with a 3x3 one behind it,
    and three 1x1 convolutions with a scaled Sobel-x, Sobel-y and Laplacian filter behind them; optionally the
    identity.

    All branches are linear and nothing is normalised, so their sum is one convolution at every moment. The forward
    pass computes its kernel from the branches and runs that one: same outputs and gradients, for a fraction of the
    operations. The paper's edge branches have a bias behind the 1x1 convolution too. It has no effect (the taps of an
    edge filter add up to zero), so it is left out.

    Args:
        inputs: channels.
        outputs: channels.
        expansion: channels of the 1x1 convolution in front of the second 3x3 one, as a multiple of `outputs`, > 0.
        identity: also add the input; `inputs` is `outputs` then.

    Raises:
        ValueError: the identity is wanted and the channels differ.
    """

    def __init__(self, inputs: int, outputs: int, expansion: float = 2.0, identity: bool = False) -> None:
        super().__init__()
        if identity and inputs != outputs:
            raise ValueError(f"the identity needs as many outputs as inputs; given {inputs} and {outputs}")
        hidden = max(1, round(expansion * outputs))
        self.identity = identity
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.expand = nn.Conv2d(inputs, hidden, 1)
        self.squeeze = nn.Conv2d(hidden, outputs, 3)
        sobel = torch.tensor(SOBEL)
        self.edges = nn.ModuleList(
            EdgeBranch(inputs, outputs, taps) for taps in (sobel, sobel.T.contiguous(), torch.tensor(LAPLACIAN))
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, *self.kernel(), padding=1)

    def kernel(self) -> tuple[Tensor, Tensor]:
        """Weight (out, in, 3, 3) and bias (out,) of the one convolution, as functions of the branches."""
        expand, expand_bias = self.expand.weight, self.expand.get_parameter("bias")
        weight = self.conv.weight + torch.einsum("ohyx,hi->oiyx", self.squeeze.weight, expand[:, :, 0, 0])
        bias = self.conv.get_parameter("bias") + self.squeeze.get_parameter("bias")
        bias = bias + torch.einsum("ohyx,h->o", self.squeeze.weight, expand_bias)
        for branch in self.edges:
            assert isinstance(branch, EdgeBranch)
            weight, bias = weight + branch.kernel(), bias + branch.bias
        return (weight + _identity(self.conv) if self.identity else weight), bias

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """One 3x3 convolution with bias that computes the same."""
        return _convolution(*self.kernel(), self.conv)


class EdgeBranch(nn.Module):
    """A 1x1 convolution, then one fixed 3x3 filter on each channel, with a learned scale and bias.

    Args:
        inputs: channels.
        outputs: channels.
        taps: (3, 3), which add up to zero.
    """

    taps: Tensor

    def __init__(self, inputs: int, outputs: int, taps: Tensor) -> None:
        super().__init__()
        self.mix = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.scale = nn.Parameter(torch.randn(outputs) * 1e-3)
        self.bias = nn.Parameter(torch.randn(outputs) * 1e-3)
        self.register_buffer("taps", taps, persistent=False)

    def kernel(self) -> Tensor:
        """The branch as one weight (out, in, 3, 3)."""
        return torch.einsum("oi,o,yx->oiyx", self.mix.weight[:, :, 0, 0], self.scale, self.taps)


def _identity(like: nn.Conv2d) -> Tensor:
    """The weight of a convolution that passes its input through, in groups like another one's."""
    weight = torch.zeros_like(like.weight)
    channel = torch.arange(weight.shape[0])
    weight[channel, channel % weight.shape[1], 1, 1] = 1.0
    return weight


def _folded(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution without bias and the BatchNorm behind it, by running statistics."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return fuse_conv_bn_weights(weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)


def _convolution(weight: Tensor, bias: Tensor, like: nn.Conv2d) -> nn.Conv2d:
    """A convolution with these values, and the geometry of another one."""
    new = nn.utils.skip_init(
        nn.Conv2d, like.in_channels, like.out_channels, 3, like.stride, 1, groups=like.groups, dtype=weight.dtype,
        device=weight.device,
    )  # fmt: skip
    new.weight.copy_(weight)
    new.get_parameter("bias").copy_(bias)
    return new

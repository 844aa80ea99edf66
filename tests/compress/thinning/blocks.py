"""Networks of a few layers, each with one structure that thinning must get right."""

import torch
from torch import nn
from torch.nn import functional

from models.Deblur.model import Discriminator, Generator
from tests.compress.graph.nets import resnet_cifar


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def conv(inputs, outputs, **settings):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, **settings), nn.BatchNorm2d(outputs), nn.ReLU())


class Sum(nn.Module):
    """Branches of one input, added."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return sum(branch(x) for branch in self.branches)


class Cat(Sum):
    """Branches of one input, side by side."""

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


class Gate(nn.Module):
    """Squeeze-and-excite."""

    def __init__(self, width):
        super().__init__()
        self.down, self.up = nn.Conv2d(width, width // 2, 1), nn.Conv2d(width // 2, width, 1)

    def forward(self, x):
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.middle = conv(3, 8), conv(8, 12)
        self.up, self.last = nn.ConvTranspose2d(12, 8, 2, stride=2), nn.Conv2d(16, 3, 1)

    def forward(self, x):
        skip = self.down(x)
        y = self.up(self.middle(functional.max_pool2d(skip, 2)))
        return self.last(torch.cat([skip, y], 1))


class C2f(nn.Module):
    """Chunk, a chain of bottlenecks, concatenation of all."""

    def __init__(self):
        super().__init__()
        self.first, self.last = conv(3, 16), conv(32, 6)
        self.chain = nn.ModuleList([conv(8, 8), conv(8, 8)])

    def forward(self, x):
        parts = list(self.first(x).chunk(2, 1))
        for block in self.chain:
            parts.append(parts[-1] + block(parts[-1]))
        return self.last(torch.cat(parts, 1))


class DenseBlock(nn.Module):
    """Every layer reads all before it (RRDB, without a norm)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(6 + 4 * k, 4, 3, padding=1) for k in range(3)])
        self.last = nn.Conv2d(18, 6, 3, padding=1)

    def forward(self, x):
        parts = [x]
        for layer in self.layers:
            parts.append(functional.leaky_relu(layer(torch.cat(parts, 1)), 0.2))
        return x + 0.2 * self.last(torch.cat(parts, 1))


class Shuffle(nn.Module):
    """Channel shuffle written as a view, between two grouped convolutions."""

    def __init__(self, groups=2):
        super().__init__()
        self.groups = groups
        self.first, self.last = nn.Conv2d(4, 12, 1, groups=groups), nn.Conv2d(12, 8, 1, groups=groups)

    def forward(self, x):
        x = self.first(x)
        n, c, h, w = x.shape
        x = x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, -1, h, w)
        return self.last(x)


class Reused(nn.Module):
    """One convolution used twice, and one weight in two modules."""

    def __init__(self):
        super().__init__()
        self.stem, self.twice, self.one, self.two = (
            nn.Conv2d(*sizes, 3, padding=1) for sizes in [(3, 8)] + [(8, 8)] * 3
        )
        self.two.weight = self.one.weight
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        x = self.twice(self.twice(self.stem(x)).relu()).relu()
        return self.last(self.one(x) + self.two(x))


class ConstantMap(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("map", torch.rand(1, 8, 1, 1))
        self.first, self.last = conv(3, 8), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        return self.last(self.first(x) + self.map)


class LanguageModel(nn.Module):
    """LSTM with the embedding tied to the output layer."""

    def __init__(self, kind=nn.LSTM, **settings):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.recurrent = kind(6, 8, num_layers=2, batch_first=True, **settings)
        self.project = nn.Linear(8 * (2 if settings.get("bidirectional") else 1), 6)
        self.output = nn.Linear(6, 11)
        self.output.weight = self.embedding.weight

    def forward(self, tokens):
        return self.output(self.project(self.recurrent(self.embedding(tokens))[0]))


class AuxiliaryHead(nn.Module):
    """A second output in training mode only."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.aux = conv(3, 8), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.body(x)
        return (self.head(x), self.aux(x)) if self.training else self.head(x)


class PreNorm(nn.Module):
    """A transformer block: attention and MLP with residuals."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(12), nn.LayerNorm(12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Dropout(0.5), nn.Linear(24, 12))

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class LiteralView(nn.Module):
    """A flatten whose size is a number in the code."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = conv(3, 8), conv(8, 5), nn.Linear(5 * 64, 4)

    def forward(self, x):
        return self.last(self.second(self.first(x)).view(-1, 320))


class Edsr(nn.Module):
    """Residual blocks without norms, each scaled; a long skip; pixel shuffle; a convolution behind it."""

    def __init__(self):
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)) for _ in range(2)
        )
        self.up = nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x):
        first = y = self.head(x)
        for block in self.blocks:
            y = y + 0.1 * block(y)
        return self.tail(self.up(first + y))


class Several(nn.Module):
    """Two inputs; a dictionary of outputs, one of them a list with a tuple in it."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(1, 8, 3, padding=1)
        self.out, self.more = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, image, depth):
        both = (self.left(image) + self.right(depth)).relu()
        return {"out": self.out(both), "more": [self.more(both), (both.mean((2, 3)).sum(1),)]}


class Nested(nn.Module):
    """A dictionary with a list in it comes in."""

    def __init__(self):
        super().__init__()
        self.image, self.numbers, self.out = nn.Conv2d(3, 8, 3), nn.Linear(5, 8), nn.Conv2d(8, 4, 1)

    def forward(self, given):
        return self.out(self.image(given["image"]) * self.numbers(given["numbers"][0])[:, :, None, None])


IMAGE = (2, 3, 8, 8)
BLOCKS = {
    "residual": (lambda: resnet_cifar(1, (8, 12, 16)), IMAGE),
    "flatten": (lambda: nn.Sequential(conv(3, 6), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)), IMAGE),
    "pixel shuffle at the end": (lambda: nn.Sequential(conv(3, 8), nn.Conv2d(8, 12, 3), nn.PixelShuffle(2)), IMAGE),
    "pixel shuffle in the middle": (
        lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.PixelShuffle(2), nn.PReLU(4), nn.Conv2d(4, 3, 3)),
        IMAGE,
    ),
    "pixel unshuffle": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.PixelUnshuffle(2), nn.Conv2d(24, 3, 3)),
        IMAGE,
    ),
    "transposed": (
        lambda: nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.InstanceNorm2d(6), nn.Conv2d(6, 3, 1)),
        IMAGE,
    ),
    "transposed with groups": (
        lambda: nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 12, 2, 2, groups=4), nn.Conv2d(12, 3, 1)),
        IMAGE,
    ),
    "transposed with few groups": (
        lambda: nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 12, 2, 2, groups=2), nn.Conv2d(12, 3, 1)),
        IMAGE,
    ),
    "sum of branches": (lambda: nn.Sequential(Sum(conv(3, 8), nn.Conv2d(3, 8, 1)), conv(8, 4)), IMAGE),
    "concatenation": (lambda: nn.Sequential(Cat(conv(3, 4), conv(3, 6)), nn.GroupNorm(5, 10), conv(10, 4)), IMAGE),
    "u-net": (UNet, IMAGE),
    "C2f": (C2f, IMAGE),
    "dense": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), DenseBlock(), nn.Conv2d(6, 3, 1)), IMAGE),
    "shuffle": (lambda: nn.Sequential(conv(3, 4), Shuffle(), nn.Conv2d(8, 3, 1)), IMAGE),
    "shuffle module": (lambda: nn.Sequential(conv(3, 12), nn.ChannelShuffle(3), conv(12, 6)), IMAGE),
    "squeeze-excite": (lambda: nn.Sequential(conv(3, 8), Gate(8), nn.Conv2d(8, 3, 3, padding=1)), IMAGE),
    "inverted residual": (
        lambda: nn.Sequential(
            conv(3, 6),
            Sum(nn.Sequential(conv(6, 12), conv(12, 12, groups=12), Gate(12), nn.Conv2d(12, 6, 1)), nn.Identity()),
            nn.Hardswish(),
            nn.Conv2d(6, 3, 1),
        ),
        IMAGE,
    ),
    "depth multiplier": (lambda: nn.Sequential(conv(3, 6), conv(6, 12, groups=6), nn.Conv2d(12, 3, 1)), IMAGE),
    "many groups": (lambda: nn.Sequential(conv(3, 16), conv(16, 24, groups=8), nn.Conv2d(24, 3, 1)), IMAGE),
    "few groups": (lambda: nn.Sequential(conv(3, 16), conv(16, 24, groups=2), nn.Conv2d(24, 3, 1)), IMAGE),
    "reused": (Reused, IMAGE),
    "constant map": (ConstantMap, IMAGE),
    "sigmoid with padding": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 3, 3, padding=1)),
        IMAGE,
    ),
    "1-d": (lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ELU(), nn.Conv1d(8, 2, 3)), (2, 3, 9)),
    "3-d": (
        lambda: nn.Sequential(nn.Conv3d(2, 8, 3, padding=1), nn.BatchNorm3d(8), nn.MaxPool3d(2), nn.Conv3d(8, 2, 1)),
        (2, 2, 4, 4, 4),
    ),
    "auxiliary head": (AuxiliaryHead, IMAGE),
    "up-sampling": (
        lambda: nn.Sequential(
            conv(3, 8), nn.Upsample(scale_factor=2, mode="bilinear"), nn.ReflectionPad2d(1), conv(8, 3)
        ),
        IMAGE,
    ),
    "zero channels of a shortcut": (
        lambda: nn.Sequential(
            conv(3, 6),
            Sum(conv(6, 10), Lambda(lambda x: functional.pad(x, (0, 0, 0, 0, 2, 2)))),
            conv(10, 3),
        ),
        IMAGE,
    ),
    "transformer": (lambda: nn.Sequential(nn.Linear(5, 12), PreNorm(), nn.Linear(12, 3)), (2, 7, 5)),
    "mixer": (
        lambda: nn.Sequential(
            nn.Linear(5, 8), Lambda(lambda x: x.transpose(1, 2)), nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 7)
        ),
        (2, 7, 5),
    ),
    "language model": (LanguageModel, "tokens"),
    "language model, both directions": (lambda: LanguageModel(bidirectional=True), "tokens"),
    "GRU": (lambda: LanguageModel(nn.GRU), "tokens"),
    "literal view": (LiteralView, IMAGE),
    "EDSR": (Edsr, IMAGE),
    "DeblurGAN": (lambda: Generator(4, 1, halvings=2, norm="instance"), (2, 3, 16, 16)),
    "DeblurGAN without norm": (lambda: Generator(4, 1), IMAGE),
    "PatchGAN": (lambda: Discriminator(4, 2), (2, 3, 32, 32)),
    "two inputs, nested outputs": (Several, lambda: (numbers(*IMAGE), numbers(2, 1, 8, 8))),
    "nested inputs": (Nested, lambda: ({"image": numbers(*IMAGE), "numbers": [numbers(2, 5)]},)),
}


def numbers(*shape):
    """Normal ones, in float64."""
    return torch.randn(shape, dtype=torch.float64)


def build(name):
    """A block with seeded weights in float64, and inputs for it: a tensor, or the tuple of arguments."""
    torch.manual_seed(0)
    make, shape = BLOCKS[name]
    model = make().double()
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("running_mean"):
            buffer.uniform_(-1, 1)
    if shape == "tokens":
        return model, torch.randint(0, 11, (3, 5))
    return model, shape() if callable(shape) else numbers(*shape)

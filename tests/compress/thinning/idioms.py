"""Structures that people write by hand, rewritten small: recurrent convolutions, norms over channels, shared keys."""

import torch
from torch import nn
from torch.nn import functional


class ConvLstmCell(nn.Module):
    """Four gates from one convolution of the input and the state; the state's size is kept as a number."""

    def __init__(self, inputs, hidden):
        super().__init__()
        self.hidden_dim = hidden
        self.conv = nn.Conv2d(inputs + hidden, 4 * hidden, 3, padding=1)

    def forward(self, x, state):
        h, c = state
        gates = self.conv(torch.cat([x, h], 1))
        i, f, o, g = torch.split(gates, self.hidden_dim, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def start(self, batch, height, width):
        zeros = torch.zeros(batch, self.hidden_dim, height, width, dtype=self.conv.weight.dtype)
        return zeros, zeros.clone()


class ConvLstm(nn.Module):
    """Two cells, unrolled over the frames; what the last one keeps is read by a convolution."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.cells = nn.ModuleList([ConvLstmCell(6, 8), ConvLstmCell(8, 4)])
        self.last = nn.Conv2d(4, 3, 1)

    def forward(self, frames):
        batch, count, _, height, width = frames.shape
        states = [cell.start(batch, height, width) for cell in self.cells]
        for number in range(count):
            x = self.first(frames[:, number])
            for place, cell in enumerate(self.cells):
                states[place] = cell(x, states[place])
                x = states[place][0]
        return self.last(x)


class ConvGruCell(nn.Module):
    """Gates in one convolution, chunked; the candidate in another."""

    def __init__(self, inputs, hidden):
        super().__init__()
        self.hidden = hidden
        self.gates = nn.Conv2d(inputs + hidden, 2 * hidden, 3, padding=1)
        self.candidate = nn.Conv2d(inputs + hidden, hidden, 3, padding=1)

    def forward(self, x, h=None):
        if h is None:
            h = x.new_zeros((x.size(0), self.hidden, *x.shape[2:]))
        r, z = self.gates(torch.cat([x, h], 1)).sigmoid().chunk(2, 1)
        return (1 - z) * h + z * self.candidate(torch.cat([x, r * h], 1)).tanh()


class ConvGru(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.cell, self.last = nn.Conv2d(3, 6, 1), ConvGruCell(6, 8), nn.Conv2d(8, 3, 1)

    def forward(self, frames):
        h = None
        for frame in frames.unbind(1):
            h = self.cell(self.first(frame), h)
        return self.last(h)


class BlurPool(nn.Module):
    """A fixed filter on each channel; `form` is where its copies come from."""

    def __init__(self, channels, form):
        super().__init__()
        self.channels, self.form = channels, form
        row = torch.tensor([1.0, 2.0, 1.0])
        kernel = (row[:, None] * row / 16)[None, None]
        self.register_buffer("kernel", kernel.repeat(channels, 1, 1, 1) if form == "buffer" else kernel)

    def forward(self, x):
        kernel = self.kernel
        if self.form == "expand":
            kernel = kernel.expand(self.channels, -1, -1, -1)
        elif self.form == "repeat":
            kernel = kernel.repeat(x.size(1), 1, 1, 1)
        groups = self.channels if self.form == "expand" else x.shape[1]
        return functional.conv2d(functional.pad(x, (1, 1, 1, 1), "reflect"), kernel, stride=2, groups=groups)


class GroupedQueries(nn.Module):
    """Attention with fewer heads of keys and values than of queries; `form` is how they are shared."""

    def __init__(self, form, width=12, heads=4, shared=2, size=3):
        super().__init__()
        self.form, self.n_heads, self.n_kv, self.size = form, heads, shared, size
        self.n_rep = heads // shared
        self.wq, self.wo = nn.Linear(width, heads * size), nn.Linear(heads * size, width)
        self.wk, self.wv = nn.Linear(width, shared * size), nn.Linear(width, shared * size)

    def forward(self, x):
        b, t, _ = x.shape
        q = self.wq(x).view(b, t, self.n_heads, self.size).transpose(1, 2)
        k = self.wk(x).view(b, t, self.n_kv, self.size).transpose(1, 2)
        v = self.wv(x).view(b, t, self.n_kv, self.size).transpose(1, 2)
        if self.form == "enable_gqa":
            out = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True, scale=0.5)
        else:
            k, v = self.shared(k), self.shared(v)
            out = functional.scaled_dot_product_attention(q, k, v, scale=0.5)
        return self.wo(out.transpose(1, 2).reshape(b, t, -1))

    def shared(self, x):
        if self.form == "interleave":
            return x.repeat_interleave(self.n_rep, dim=1)
        b, kv, t, d = x.shape
        return x[:, :, None].expand(b, kv, self.n_rep, t, d).reshape(b, kv * self.n_rep, t, d)


class Attending(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.before, self.attention, self.after = nn.Linear(5, 12), GroupedQueries(form), nn.Linear(12, 4)

    def forward(self, x):
        return self.after(self.attention(self.before(x)))


class NormFunction(torch.autograd.Function):
    """NAFNet's: forward and backward by hand."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        mean = x.mean(1, keepdim=True)
        var = (x - mean).pow(2).mean(1, keepdim=True)
        y = (x - mean) / (var + eps).sqrt()
        ctx.save_for_backward(y, var, weight)
        ctx.eps = eps
        return weight.view(1, -1, 1, 1) * y + bias.view(1, -1, 1, 1)

    @staticmethod
    def backward(ctx, grad):
        y, var, weight = ctx.saved_tensors
        g = grad * weight.view(1, -1, 1, 1)
        dx = (g - y * (g * y).mean(1, keepdim=True) - g.mean(1, keepdim=True)) / torch.sqrt(var + ctx.eps)
        return dx, (grad * y).sum((0, 2, 3)), grad.sum((0, 2, 3)), None


class ChannelNorm(nn.Module):
    """A norm over the channels of an image, in the ways that people write it."""

    def __init__(self, channels, form):
        super().__init__()
        self.form, self.normalized_shape = form, (channels,)
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        if self.form == "function":
            return NormFunction.apply(x, self.weight, self.bias, 1e-6)
        if self.form == "layer_norm":
            y = functional.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, 1e-6)
            return y.permute(0, 3, 1, 2)
        if self.form == "var_mean":
            var, mean = torch.var_mean(x, 1, keepdim=True, unbiased=False)
        elif self.form == "sum":
            mean = x.sum(1, keepdim=True) / x.size(1)
            var = (x - mean).square().sum(1, keepdim=True) / x.size(1)
        elif self.form == "var":
            mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
        else:
            mean = x.mean(1, keepdim=True)
            var = (x - mean).pow(2).mean(1, keepdim=True)
        y = (x - mean) / torch.sqrt(var + 1e-6)
        return self.weight[:, None, None] * y + self.bias[:, None, None]

"""What it costs one layer to lose inputs when its other weights make good what they can.

`Surgeon`. Papers: Hassibi & Stork 1993, Optimal Brain Surgeon (the update, for one weight); Kurtic et al. 2022, The
Optimal BERT Surgeon, arXiv 2203.07259, section 3.1 (for a block of weights); OSSCAR, Meng et al. 2024, arXiv 2403.12983
(whole structures of a layer, with all other weights updated). For a layer with weights W (outputs x inputs) that reads
x with A = mean of x x', losing the columns P costs at the least

    sum over outputs o of  g_o W_oP [(A^-1)_PP]^-1 W_oP'        W <- W - W_P [(A^-1)_PP]^-1 (A^-1)_P:

    A = [[1, .9], [.9, 1]], W = [1, 1], g = 1, P = {1}: the cost is 1 - .9^2 = 0.19, not 1, since the first input knows
    most of the second; the first weight becomes 1.9.

What one input knows of another, A's covariances, is believed as far as the number of samples allows (shrinkage.py):
with fewer samples than inputs each input is a combination of the others by chance alone, and would cost nothing.
"""

import torch
from torch import Tensor

from compress.calibration.shrinkage import shrunk

DAMPING = 0.01  # of A's mean diagonal, added to its diagonal


class Surgeon:
    """A layer's weights while inputs are taken from it.

    Args:
        weight: (outputs, inputs).
        moments: A, (inputs, inputs).
        outputs: g, what an error of each output costs, (outputs,), >= 0.
        mean: of x, (inputs,); None: zero.
        noise: share of the covariances that is not believed, [0, 1].

    Attributes:
        weight: as it is by now, double precision.
        scale: what costs are multiplied by, so that those of different layers can be compared.
    """

    def __init__(
        self, weight: Tensor, moments: Tensor, outputs: Tensor, mean: Tensor | None = None, noise: float = 0.0
    ) -> None:
        self.weight, self.outputs, self.scale = weight.detach().double().clone(), outputs.double().clone(), 1.0
        self._moments = moments
        believed = shrunk(moments, torch.zeros(len(moments)).to(moments) if mean is None else mean, noise)
        damped = believed + torch.eye(len(moments), dtype=moments.dtype) * (DAMPING * moments.diagonal().mean() + 1e-12)
        self._inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))

    def costs(self, columns: Tensor) -> Tensor:
        """Of losing each of several sets of inputs alone.

        Args:
            columns: inputs of each set, (sets, inputs of a set).

        Returns:
            (sets,).
        """
        inverse = self._inverse[columns[:, :, None], columns[:, None, :]]
        chosen = self.weight[:, columns]  # (outputs, sets, inputs of a set)
        power = torch.einsum("osp,o,osq->spq", chosen, self.outputs, chosen)
        return self.scale * (torch.linalg.inv(inverse) * power).sum((1, 2)).clamp_min(0)

    def remove(self, columns: Tensor) -> None:
        """Takes inputs, (n,), from the layer; the other weights make good what they can."""
        rows = self._inverse[columns]
        shares = torch.linalg.solve(rows[:, columns], rows)  # (n, inputs)
        self.weight -= self.weight[:, columns] @ shares
        self._inverse -= rows.T @ shares
        self.weight[:, columns] = 0
        self._inverse[columns] = 0
        self._inverse[:, columns] = 0
        self._inverse[columns, columns] = 1

    def lose_outputs(self, rows: Tensor) -> None:
        """Outputs that nobody reads any more cost nothing."""
        self.outputs[rows] = 0

    def predicted(self, before: Tensor) -> float:
        """The cost of its weights against earlier ones, not multiplied by `scale`."""
        change = self.weight - before
        return float((((change @ self._moments) * change).sum(1) * self.outputs).sum())

    def copy(self) -> "Surgeon":
        """Another one in the same state."""
        made = object.__new__(Surgeon)
        made.weight, made.outputs, made.scale = self.weight.clone(), self.outputs.clone(), self.scale
        made._moments, made._inverse = self._moments, self._inverse.clone()
        return made

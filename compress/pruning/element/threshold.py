"""Pruners by a threshold on magnitude: `MagnitudeParameterPruner`, `SensitivityPruner`.

One threshold for each weight; how much goes follows from the data.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from compress.context import StepContext
from compress.epoch_window import EpochWindow
from compress.pruning.base import Pruner
from compress.registry import PRUNERS
from compress.selectors import WeightSelector

Threshold = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Sensitivity = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


@PRUNERS.register
class MagnitudeParameterPruner(Pruner):
    """Prunes |w| <= t with a fixed threshold for each weight.

    Paper: Han et al. 2015, Learning both Weights and Connections for Efficient Neural Networks, arXiv 1506.02626. As
    in Distiller, `*` stands for every parameter, biases and BatchNorm included; other than there it may be left out.

    When to use: when the scale of the weights is known; otherwise state a fraction (`SparsityLevelParameterPruner`).

    Sample:
        pruners:
          magnitude:
            class: MagnitudeParameterPruner
            thresholds: {'*.weight': 0.01}

    Args:
        thresholds: weight selector -> largest absolute value that is pruned, >= 0.
    """

    def __init__(self, thresholds: dict[WeightSelector, Threshold]) -> None:
        self.thresholds = dict(thresholds)
        self.weights = list(thresholds)

    def masks(self, weights: Mapping[str, Tensor], ctx: StepContext, window: EpochWindow) -> dict[str, Tensor]:
        """Keeps |w| > t."""
        return {name: weights[name].abs() > threshold for name, threshold in self.thresholds.items()}


@PRUNERS.register
class SensitivityPruner(Pruner):
    """Prunes |w| <= s * std(w), the standard deviation being that of the weights when it first acts.

    Paper: Han et al. 2015, arXiv 1506.02626, section 4.1: a quality parameter times the layer's standard deviation. As
    in Distiller the deviation is taken once, so that later epochs prune more as weights shrink; it is saved, so that a
    resumed run has the same threshold. Of normal weights, s = 1 prunes about 68 %.

    When to use: with one number for each layer from a sensitivity analysis.

    Sample:
        pruners:
          sensitivity:
            class: SensitivityPruner
            sensitivities: {'conv*.weight': 0.4, 'fc.weight': 0.6}

    Args:
        sensitivities: weight selector -> threshold in standard deviations, >= 0.
    """

    def __init__(self, sensitivities: dict[WeightSelector, Sensitivity]) -> None:
        self.sensitivities = dict(sensitivities)
        self.weights = list(sensitivities)
        self.deviations: dict[str, float] = {}

    def masks(self, weights: Mapping[str, Tensor], ctx: StepContext, window: EpochWindow) -> dict[str, Tensor]:
        """Keeps |w| > s * std."""
        for name in self.weights:
            self.deviations.setdefault(name, float(weights[name].std()))
        return {name: weights[name].abs() > s * self.deviations[name] for name, s in self.sensitivities.items()}

    def state_dict(self) -> dict[str, Any]:
        """The deviations found at first."""
        return {"deviations": dict(self.deviations)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the deviations."""
        self.deviations = dict(state["deviations"])

"""Sparsity of single elements: `L1Regularizer`, and `BatchNormScaleRegularizer` for BatchNorm scales.

The sum of absolute values.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compress.context import StepContext
from compress.criteria import ThresholdCriteria
from compress.registry import REGULARIZERS
from compress.regularization.base import Regularizer, Strength
from compress.regularization.terms import sum_of_magnitudes
from compress.selectors import WeightSelector, WeightSelectors, norm_scales


@REGULARIZERS.register
class L1Regularizer(Regularizer):
    """Adds strength * sum |w| of each weight, which drives single elements towards zero.

    Paper: Tibshirani 1996, Regression Shrinkage and Selection via the Lasso, JRSS B 58(1). As in Distiller, a
    `threshold_criteria` (for single elements both mean the same) also zeroes |w| <= strength after each step of the
    optimizer: plain gradient steps come near zero but seldom meet it.

    When to use: to prepare element-wise pruning, so that less is lost when weights go.

    Sample:
        regularizers:
          l1:
            class: L1Regularizer
            reg_regims: {'*.weight': 0.0001}

    Args:
        reg_regims: weight selector -> strength, >= 0.
        threshold_criteria: `Max` or `Mean_Abs` to zero what is at or below the strength; None zeroes nothing.
    """

    def __init__(
        self, reg_regims: dict[WeightSelector, Strength], threshold_criteria: ThresholdCriteria | None = None
    ) -> None:
        self.strengths = dict(reg_regims)
        self.weights = list(reg_regims)
        self.threshold_criteria = threshold_criteria

    def loss(self, weights: Mapping[str, Tensor], ctx: StepContext) -> Tensor | None:
        """The sum over the weights of strength * sum |w|."""
        return sum_of_magnitudes([weights[name] for name in self.strengths], list(self.strengths.values()))

    def threshold_masks(self, weights: Mapping[str, Tensor], ctx: StepContext) -> dict[str, Tensor]:
        """Keeps |w| > strength."""
        if self.threshold_criteria is None:
            return {}
        return {name: weights[name].abs() > strength for name, strength in self.strengths.items()}


@REGULARIZERS.register
class BatchNormScaleRegularizer(Regularizer):
    """Adds strength * sum |gamma| of normalisation layers, so that whole channels switch themselves off.

    Paper: Liu et al. 2017, Learning Efficient Convolutional Networks through Network Slimming, arXiv 1708.06519,
    eq. 1. Other than `L1Regularizer` it finds the scales by itself and refuses weights that are none.

    When to use: before `BatchNormScalePruner`, for some tens of epochs.

    Sample:
        regularizers:
          slimming:
            class: BatchNormScaleRegularizer
            strength: 0.0001

    Args:
        strength: of the term, >= 0.
        weights: selectors of scales; None takes the scale of every BatchNorm of the model.

    Raises:
        ValueError: the model has no BatchNorm with a scale, or a weight is not a normalisation layer's scale.
    """

    def __init__(self, model: nn.Module, strength: Strength, weights: WeightSelectors | None = None) -> None:
        self.strength = strength
        self.weights = norm_scales(model, weights)

    def loss(self, weights: Mapping[str, Tensor], ctx: StepContext) -> Tensor | None:
        """strength * sum |gamma|."""
        return self.strength * torch.stack([weights[name].abs().sum() for name in self.weights]).sum()

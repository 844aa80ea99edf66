"""The optimizer of `--optimizer`, with weight decay where it belongs.

`make_optimizer`. Norms' scales and all biases (parameters of one dimension) do not decay unless asked: decay
would fight the norm's scale for nothing (He et al. 2018, Bag of Tricks, arXiv 1812.01187, section 3.1).
"""

from typing import Any

import torch
from torch import nn

from options.Classify_options.train_options import ClassifyTrainConfig


def make_optimizer(model: nn.Module, config: ClassifyTrainConfig) -> torch.optim.Optimizer:
    """An optimizer over two groups: what decays, and what does not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decaying = [each for each in parameters if config.decay_all or each.dim() > 1]
    others = [each for each in parameters if not (config.decay_all or each.dim() > 1)]
    groups: list[dict[str, Any]] = [{"params": decaying, "weight_decay": config.weight_decay}]
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    match config.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, lr=config.lr)
        case "momentum":
            return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=config.lr, momentum=config.momentum)
        case "adamw":
            return torch.optim.AdamW(groups, lr=config.lr)
        case _:
            return torch.optim.Adam(groups, lr=config.lr)

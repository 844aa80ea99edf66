"""Helpers as libraries have them: beside a network's classes, two functions deep, or an object that is called."""

import torch
from torch import is_grad_enabled as wanted
from torch import is_inference_mode_enabled


def trains(module):
    return module.training


def scaled(y):
    return y * y.shape[1] ** -0.5 if torch.is_grad_enabled() else y


def scaled_by_name(y):
    return y * y.shape[1] ** -0.5 if wanted() else y


def inferred(y):
    return y * y.shape[1] ** -0.5 if is_inference_mode_enabled() else y


def regularized(module, y):
    return y / y.shape[1] if trains(module) else y


def looked_up(module, y):
    return y / y.shape[1] if vars(module)["training"] else y


def doubled(module, y):
    return 2 * y if trains(module) else y


class Regularizer:
    def __call__(self, module, y):
        return regularized(module, y)


def compiled(y):
    return y / y.shape[1] if torch.compiler.is_compiling() else y / 8


def compiled_deep(y):
    return compiled(y)

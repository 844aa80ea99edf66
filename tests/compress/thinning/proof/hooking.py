"""Helpers that hook gradients: beside a network's classes, as they are in files of their own."""

import contextlib

import torch
from torch.autograd.graph import register_multi_grad_hook, saved_tensors_hooks


def balanced(y):
    if y.requires_grad:
        y.register_hook(lambda gradient: gradient / gradient.shape[1])
    return y


def tried(y):
    with contextlib.suppress(RuntimeError):
        y.register_hook(lambda gradient: gradient / gradient.shape[1])
    return y


def doubled(y):
    if y.requires_grad:
        y.register_hook(lambda gradient: 2 * gradient)
    return y


def on_node(y):
    if y.grad_fn is not None:
        y.grad_fn.register_hook(lambda given, _: tuple(g if g is None else g / y.shape[1] for g in given))
    return y


def before_node(y):
    if y.grad_fn is not None:
        y.grad_fn.register_prehook(lambda given: tuple(g / g.shape[1] for g in given))
    return y


def on_saved(y):
    def pack(tensor):
        return tensor / tensor.shape[1] if tensor.dim() == 4 else tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        return y * torch.sigmoid(y)


def on_several(y):
    if not y.is_leaf:
        register_multi_grad_hook([y], lambda given: given[0].div_(given[0].shape[1]))
    return y


def in_training(module, y):
    if module.training:
        y.register_hook(lambda gradient: gradient / gradient.shape[1])
    return y


class Balance:
    """A callable object."""

    def __call__(self, y):
        return balanced(y)

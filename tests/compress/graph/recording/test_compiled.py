"""Code that asks whether it is compiled or exported is found, and told so."""

import pytest
import torch
from torch import nn

from compress.graph.recording.compiled import COMPILED, EXPORTED, asked_whether, told
from tests.compress.thinning.proof import helpers
from tests.compress.thinning.proof.nets import Two, thinned_and_trained


class Compiled(Two):
    def between(self, y):
        return y / y.shape[1] if torch.compiler.is_compiling() else y / 8


class Exported(Two):
    def between(self, y):
        return y / y.shape[1] if torch.compiler.is_exporting() else y / 8


class ToOnnx(Two):
    def between(self, y):
        return y / y.shape[1] if torch.onnx.is_in_onnx_export() else y / 8


class Deep(Two):
    def between(self, y):
        return helpers.compiled_deep(y)


class Harmless(Two):
    def between(self, y):
        return y / 2 if torch.compiler.is_compiling() else y / 8


@pytest.mark.parametrize("kind", [Compiled, Exported, ToOnnx, Deep, Harmless])
def test_code_that_runs_only_compiled_or_exported_is_compared(kind):
    removed, why = thinned_and_trained(kind())
    assert bool(removed) == (kind is Harmless)
    assert removed or "follows the width" in why or "a number in" in why


def test_who_asks():
    assert asked_whether(nn.Sequential(nn.Linear(2, 2), nn.MultiheadAttention(4, 2), nn.LSTM(2, 2))) == ()
    assert asked_whether(Two()) == ()
    assert asked_whether(Compiled()) == asked_whether(Deep()) == (COMPILED,)
    assert asked_whether(Exported()) == asked_whether(ToOnnx()) == (EXPORTED,)
    hooked = Two()
    hooked.first.register_forward_hook(lambda module, given, y: helpers.compiled_deep(y))
    assert asked_whether(hooked) == (COMPILED,)


def answers():
    return torch.compiler.is_compiling(), torch.compiler.is_exporting(), torch.onnx.is_in_onnx_export()


def failing():
    assert answers() == (True, True, True)
    raise ZeroDivisionError


def test_the_answers_are_put_back():
    with told("eval"):
        assert answers() == (False, False, False)
    with told(COMPILED):
        assert answers() == (True, False, False)
    with pytest.raises(ZeroDivisionError), told(EXPORTED):
        failing()
    assert answers() == (False, False, False)

"""What cannot be traced, in words: where the model's own code failed, and what to do about it.

`refuse_unusable`, `refuse_lost`, `place_of` and `advice_on` for trace.py; `tried` and `replaced_weights`, a real pass.
"""

import re
import traceback
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import UnsupportedOperatorException
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence

from compress.errors import UserError, some
from compress.graph.calls import Call, calling, copies

OURS = Path(__file__).parents[1]


def refuse_unusable(model: nn.Module) -> None:
    """Raises UserError where a part is compiled by torch.jit or exported, or has no sizes yet."""
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise UserError(
                f"{type(model).__name__}: the parameter {name!r} has no sizes yet, as it is of a lazy module; run the "
                "model once on real inputs first"
            )
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise UserError(
                f"{type(model).__name__}: {f'its module {name!r}' if name else 'it'} is compiled by torch.jit (script "
                "or trace), and its layers can be neither followed nor made smaller. Build the network with the Python "
                "class that was compiled, thin that, and compile the result"
            )
        if isinstance(module, torch.fx.GraphModule) and "train" in vars(module):  # its `train` and `eval` only raise
            raise UserError(
                f"{type(model).__name__}: {f'its module {name!r}' if name else 'it'} comes from torch.export, is fixed "
                "in one mode and one set of sizes, and cannot be made smaller. Build the network with the Python class "
                "that was exported, thin that, and export the result"
            )


DERIVATIVES = (
    "Derivatives inside forward (torch.func.grad, vjp, jacrev) cannot be followed: write them as operations, or take "
    "them out of forward; torch.vmap can be followed"
)


def refuse_lost(model: nn.Module, constants: Iterable[Tensor]) -> None:
    """Raises UserError where the tracer took a tensor for a constant that the code derives by: what it came from."""
    if any(torch._C._functorch.is_functorch_wrapped_tensor(each) for each in constants):
        raise UserError(f"{type(model).__name__} cannot be traced from the example inputs. {DERIVATIVES}")


def place_of(error: BaseException) -> str:
    """The line of the model's own code that failed: the innermost one outside torch; '' if there is none."""
    torch_folder = str(Path(torch.__file__).parent)
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(torch_folder)
    ]
    own = [frame for frame in frames if OURS not in Path(frame.filename).parents]
    return f" (at {own[-1].filename}:{own[-1].lineno})" if own else ""


def replaced_weights(model: nn.Module, call: Call) -> list[str]:
    """Names of the weights to which a pass gives other memory (`conv.weight.data = fused`); none if it does not run."""
    return tried(model, call)[0]


@torch.no_grad()
def tried(model: nn.Module, call: Call) -> tuple[list[str], str]:
    """The weights that a pass on real numbers replaces, and what it fails with: '' if it runs."""
    before = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    arguments, keywords = copies((call.arguments, call.keywords))
    try:
        with calling(model, call):
            model(*arguments, **keywords)
    except Exception as error:  # any code runs here
        return [], next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return [name for name, parameter in model.named_parameters() if parameter.data_ptr() != before.get(name)], ""


LOOKS_AT_VALUES = re.compile(
    r"data-dependent|DataDependent|DynamicOutputShape|_local_scalar|numpy|\.item\(|fake tensor|meta"
)
UNKNOWN_TO_SHAPES = (NotImplementedError, UnsupportedOperatorException)


def advice_on(error: BaseException, replaced: list[str], fails: str) -> str:
    """What to do, one sentence: about the inputs, about code that looks at values, or about an operation.

    Args:
        error: of the tracer.
        replaced: see `tried`.
        fails: what the model itself fails with on the same inputs; '' if it runs, or was not tried.
    """
    if fails:
        other = "" if fails.rstrip(".") in str(error) else f" ({fails})"
        return f"The model itself does not run on these inputs{other}: give ones that it takes, or mend that line"
    if replaced:
        return (
            f"Its forward replaces {some(replaced, 3)} through `.data`, which no trace can follow: compute such a "
            "weight as a tensor and call F.conv2d(x, weight), or replace the part by the layer that it computes before"
        )
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(isinstance(value, PackedSequence) for frame in frames for value in frame.f_locals.values()):
        return (
            "A trace has shapes and no values: run its recurrent layer on the padded batch, for how many steps of each "
            "sequence are packed is such a value. Quantizers for training need no trace in a loop of your own: leave "
            "out `example_inputs`, and modules alone are quantized"
        )
    if isinstance(error, UNKNOWN_TO_SHAPES):
        return (
            "A trace has shapes and no values, and torch does not know this operation's result from shapes alone: "
            "write it in other operations, or tell torch by `torch.library.register_fake`"
        )
    if "functorch tensor" in str(error):
        return DERIVATIVES
    start = "A trace has shapes and no values"
    if not LOOKS_AT_VALUES.search(f"{type(error).__name__}: {error}"):
        start = f"On real numbers the model may run; {start[0].lower()}{start[1:]}, and code that looks at them fails"
    return (
        f"{start}: take what looks at values (`if x.sum() > 0`, `.item()`, `.numpy()`) out of `forward`, or write it "
        "as `torch.where`"
    )

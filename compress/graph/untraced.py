"""What cannot be traced, in words: where the model's own code failed, and what to do about it.

`place_of`, `advice_on`. Called by trace.py.
"""

import traceback
from pathlib import Path

import torch
from torch.nn.utils.rnn import PackedSequence

OURS = (Path(__file__).with_name("trace.py"), Path(__file__))


def place_of(error: BaseException) -> str:
    """The line of the model's own code that failed: the innermost one outside torch; '' if there is none."""
    torch_folder = str(Path(torch.__file__).parent)
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(torch_folder)
    ]
    own = [frame for frame in frames if Path(frame.filename) not in OURS]
    return f" (at {own[-1].filename}:{own[-1].lineno})" if own else ""


def advice_on(error: BaseException) -> str:
    """What to do about a network's code that looks at values, behind 'if the model runs on these inputs, '."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(isinstance(value, PackedSequence) for frame in frames for value in frame.f_locals.values()):
        return (
            "run its recurrent layer on the padded batch: how many steps of each sequence are packed is such a value. "
            "Quantizers for training need no trace in a loop of your own: leave out `example_inputs`, and modules "
            "alone are quantized"
        )
    return (
        "take what looks at values (`if x.sum() > 0`, `.item()`, `.numpy()`) out of `forward`, or write it as "
        "`torch.where`"
    )

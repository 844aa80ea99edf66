"""A commented starting schedule for a network, its real weight names filled in.

Filling a template of this folder, one for each method family. Called by `train.py --new-schedule`.
"""

from pathlib import Path
from string import Template

from torch import nn

from compress.errors import UserError, did_you_mean
from compress.io.files import read_text
from compress.selectors import canonical_parameters

TEMPLATES = Path(__file__).parent
MODELINE = "# yaml-language-server: $schema=schedules/schedule.schema.json"


def families() -> list[str]:
    """The families that a schedule can be started for."""
    return sorted(path.stem for path in TEMPLATES.glob("*.yaml"))


DISTILLERS = {  # whether the output is a set of logits -> class and arguments
    True: (
        "KnowledgeDistillation",
        "temperature: 4.0          # of the softmax\n    distillation_wt: 0.7\n    student_wt: 0.3",
    ),
    False: (
        "OutputDistillation",
        "loss: l1                  # mean absolute difference of the outputs\n    distillation_wt: 0.5",
    ),
}


def new_schedule(family: str, model: nn.Module, command: str, gives_logits: bool = False) -> str:
    """The text of a schedule.

    Args:
        family: one of `families()`.
        model: whose weights are named. The first and the last layer are written as comments: they are small and
            usually the most sensitive.
        command: what trains this network, for the header, which adds `--compress`.
        gives_logits: whether the network's output is a set of logits; decides how a teacher is listened to.

    Raises:
        UserError: unknown family.
    """
    if family not in families():
        raise UserError(f"--new-schedule={family}: unknown family; {did_you_mean(family, families())}")
    names = [name for name, parameter in canonical_parameters(model).items() if parameter.dim() > 1]
    inner = names[1:-1] if len(names) > 2 else names
    distiller, settings = DISTILLERS[gives_logits]
    template = Template(read_text(TEMPLATES / f"{family}.yaml"))
    return template.substitute(
        modeline=MODELINE,
        command=command,
        distiller=distiller,
        distiller_settings=settings,
        weights=_lines(names, inner, "- NAME"),
        values=_lines(names, inner, "NAME: 0.5"),
        regims=_lines(names, inner, "NAME: [0.0005, Filters]"),
        strengths=_lines(names, inner, "NAME: 0.00001"),
    )


def _lines(names: list[str], active: list[str], form: str) -> str:
    """One indented line a weight; those that are not active are comments."""
    lines = []
    for name in names:
        lines.append(f"      {'' if name in active else '# '}{form.replace('NAME', name)}")
    return "\n".join(lines).lstrip()

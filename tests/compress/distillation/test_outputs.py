"""Logits (N, a, b) of a compiled student: whoever must know where the classes are is asked, not guessed."""

import pytest
import torch
from torch import nn

from compress.distillation.capture import OUTPUT
from compress.distillation.outputs import KnowledgeDistillation
from compress.errors import UserError


def test_a_compiled_student_is_asked_for_the_class_dimension() -> None:
    student = torch.compile(nn.Conv1d(3, 5, 1), backend="aot_eager")
    logits, wanted = student(torch.randn(2, 3, 7)), torch.randn(2, 5, 7)
    with pytest.raises(UserError, match=r"\(2, 5, 7\) come out of a compiled network.*class_dim: 1"):
        KnowledgeDistillation("self").terms({OUTPUT: logits}, {OUTPUT: wanted}, {OUTPUT: OUTPUT})
    term = KnowledgeDistillation("self", class_dim=1).terms({OUTPUT: logits}, {OUTPUT: wanted}, {OUTPUT: OUTPUT})
    divergence = (wanted.softmax(1) * (wanted.log_softmax(1) - logits.log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(term[OUTPUT], divergence)

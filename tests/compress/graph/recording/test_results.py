"""Results of batch norms by one addition: what fake tensors compute by a dozen operations, in every floating type."""

import itertools

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from compress.graph.recording.results import QuickResults

BATCH_NORM = torch.ops.aten.batch_norm.default


def facts(tensor: Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.dtype, tensor.stride(), tensor.device, tensor.requires_grad, tensor.grad_fn is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_sum_has_shape_type_layout_and_differentiability_of_the_norm(dtype):
    """In float64 too, in which networks are proven."""
    with FakeTensorMode() as mode:
        quick = QuickResults(mode)
        for dims, last, learned, affine, training in itertools.product((2, 4), *4 * [(False, True)]):
            image = torch.empty((4, 6, 5, 7)[:dims], dtype=dtype)
            if last and dims == 4:
                image = image.to(memory_format=torch.channels_last)
            vectors = [torch.empty(6, dtype=dtype, requires_grad=learned) if affine else None for _ in range(2)]
            statistics = [torch.empty(6, dtype=dtype) for _ in range(2)]
            arguments = (
                image.requires_grad_(learned and not affine),
                *vectors,
                *statistics,
                training,
                0.1,
                1e-5,
                False,
            )
            found = quick.of(BATCH_NORM, arguments)
            assert found is not None
            assert facts(found) == facts(BATCH_NORM(*arguments))


def test_what_mixes_types_or_is_another_operation_has_to_be_run():
    with FakeTensorMode() as mode:
        quick = QuickResults(mode)
        image, vector = torch.empty(4, 6, dtype=torch.float64), torch.empty(6)
        assert quick.of(BATCH_NORM, (image, None, None, vector, vector, False, 0.1, 1e-5, False)) is None
        assert quick.of(torch.ops.aten.relu.default, (image,)) is None

"""The real numbers of a proof: how many samples, and what stands in the place of useless ones."""

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.graph.calls import Call
from compress.thinning.proof.inputs import Samples, are_real, cast_inputs, fewer


def tensors(calls):
    return [each for call in calls for each in (*call.arguments, *call.keywords.values())]


def test_a_batch_of_one_stays_one_and_is_doubled_for_the_rest():
    image = torch.rand(1, 3, 4, 4)
    samples = Samples.of(image)
    (given,), (several,) = tensors(samples.given), tensors(samples.several)
    assert torch.equal(given, image)
    assert several.shape == (2, 3, 4, 4)
    assert not torch.equal(several[0], several[1])


def test_at_most_four_samples_are_used_as_they_are():
    batch = torch.rand(9, 5)
    samples = Samples.of(batch)
    for calls in (samples.given, samples.several):
        assert torch.equal(tensors(calls)[0], batch[:4])
    assert are_real(batch)


def test_useless_numbers_are_replaced_and_integers_stay():
    for useless in (torch.zeros(3, 4), torch.full((3, 4), float("nan")), torch.rand(1, 4).expand(3, 4)):
        (used,) = tensors(Samples.of(useless).given)
        assert used.shape == useless.shape
        assert bool(used.isfinite().all())
        assert not torch.equal(used[0], used[-1])
        assert not are_real(useless)
    words = torch.zeros(3, 4, dtype=torch.long)
    assert torch.equal(tensors(Samples.of(words).several)[0], words)


def test_calls_keep_their_method_and_samples_pass_through():
    call = Call({"x": torch.rand(2, 3), "scale": 2.0}, method="project")
    samples = Samples.of([call, torch.rand(3, 3)])
    assert [each.method for each in samples.given] == ["project", "forward"]
    assert samples.given[0].keywords["scale"] == 2.0
    assert Samples.all_alike(samples) is samples
    alike = Samples.all_alike([call])
    assert alike.given == alike.several


def test_fewer_and_another_type():
    (pair,) = fewer([Call((torch.rand(4, 3), torch.zeros(4, dtype=torch.long)))])
    assert [len(each) for each in pair.arguments] == [2, 2]
    (uneven,) = fewer([Call((torch.rand(4, 3), torch.rand(1, 3)))])  # they do not agree on how many there are
    assert [len(each) for each in uneven.arguments] == [4, 1]
    (double,) = cast_inputs([pair], torch.float64)
    assert [each.dtype for each in double.arguments] == [torch.float64, torch.long]


class Nodes(nn.Module):
    """Five nodes of a graph, which lie where batches lie."""

    def forward(self, x):
        return torch.ones(5, 5, dtype=x.dtype) @ x


def test_all_nodes_are_used_where_a_part_of_them_does_not_run():
    samples = Samples.of(torch.rand(5, 3), model=Nodes())
    assert tensors(samples.given)[0].shape == tensors(fewer(samples.several))[0].shape == (5, 3)
    samples = Samples.of(torch.rand(5, 3), model=nn.Linear(3, 2))
    assert tensors(samples.given)[0].shape == (4, 3)


def test_the_meta_device_is_refused():
    model = nn.Linear(3, 2)
    with pytest.raises(UserError, match=r"weight is on the meta device.*`model.to_empty"):
        Samples.of(torch.rand(2, 3), model=nn.Linear(3, 2, device="meta"))
    with pytest.raises(UserError, match="an example input is on the meta device"):
        Samples.of(torch.rand(2, 3, device="meta"), model=model)
    with torch.device("meta"), pytest.raises(UserError, match="default device is meta"):
        Samples.of(torch.ones(2, 3, device="cpu"), model=model)

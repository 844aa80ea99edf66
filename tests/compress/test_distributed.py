"""Statistics over processes: one process alone, and two whose data differ but whose masks must not."""

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from compress.distributed import sum_over_ranks
from tests.compress.harness import Run, one_policy

PRUNERS = ("ActivationMeanRankedFilterPruner", "FMReconstructionChannelPruner")


def test_one_process_sums_nothing():
    value = torch.tensor([1.0, 2.0])
    assert sum_over_ranks(value) is value


def _worker(rank: int, folder: str) -> None:
    """Trains nothing: gathers on data of its own and writes its mask and weight."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name in PRUNERS:
        instance = {"class": name, "weights": ["conv2.weight"], "desired_sparsity": 0.5, "batches": 2}
        run = Run(one_policy("pruners", instance, [0]), lr=0.0)
        run.net[0].register_forward_pre_hook(lambda module, given: (given[0] * (1 + 3 * rank) + rank,))
        run.net.eval()
        run.epoch(0)
        torch.save([run.mask("conv2.weight"), run.parameter("conv2.weight")], f"{folder}/{name}{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_masks_are_equal_on_every_rank(tmp_path: Path):
    multiprocessing.spawn(_worker, (str(tmp_path),), nprocs=2)
    for name in PRUNERS:
        first, second = (torch.load(tmp_path / f"{name}{rank}.pt", weights_only=True) for rank in (0, 1))
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])

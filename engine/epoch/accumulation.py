"""One update of the weights from several minibatches (`--accumulate N`), as if they were one large one.

Grouping, and the mean loss of a group. Called by the trainer.

The mean is over all samples, so that a smaller last minibatch counts as much less. What policies add to the loss,
such as a regularizer's term, is added once, by the group's last minibatch.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves


def grouped(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` minibatches; the last one may be shorter.

    >>> list(grouped("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    group: list[Any] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def mean_loss(
    group: Sequence[Any], loss_of: Callable[[Any], Tensor], locally: Callable[[], AbstractContextManager[None]]
) -> Tensor:
    """The mean loss over all samples of a group; its gradient lacks that of all minibatches but the last.

    Those are backpropagated here, so that one minibatch at a time is in memory.

    Args:
        group: minibatches.
        loss_of: minibatch -> mean loss of its samples, a scalar.
        locally: around forward and backward passes whose gradients are sent with the last one's.
    """
    if len(group) == 1:
        return loss_of(group[0])
    counts = [_samples(batch) for batch in group]
    *earlier, (last, last_share) = [(batch, count / sum(counts)) for batch, count in zip(group, counts, strict=True)]
    total: Tensor | float = 0.0
    for batch, share in earlier:
        # Processes exchange gradients once per update, with those of the last minibatch.
        with locally():
            # sum of n_i / N * mean_i is the mean over all N samples,
            # and its gradient is the sum of what each pass adds.
            loss = share * loss_of(batch)
            loss.backward()
        total = total + loss.detach()
    return last_share * loss_of(last) + total


def _samples(batch: Any) -> int:
    """The length of the first dimension of a minibatch's first tensor."""
    return next(len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))

"""Which candidates no other one beats: the Pareto front.

`pareto_front`.
"""

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]], higher_is_better: bool = True) -> list[int]:
    """The places of the points that none beats, cheapest first.

    A point is beaten by one that costs no more and is no worse, and is better in one of the two.

    Args:
        points: (cost, quality); a lower cost is better.
        higher_is_better: of quality.

    Example: pareto_front([(1, 30), (2, 29), (3, 31)]) is [0, 2]: the second costs more than the first and is worse.
    """
    sign = -1.0 if higher_is_better else 1.0
    order = sorted(range(len(points)), key=lambda i: (points[i][0], sign * points[i][1]))
    front: list[int] = []
    for i in order:
        same = bool(front) and points[i] == points[front[-1]]
        if not front or same or sign * points[i][1] < sign * points[front[-1]][1]:
            front.append(i)
    return front

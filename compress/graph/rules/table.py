"""The one table operation -> rule: everything that the channel graph understands.

To add an operation, write a rule beside similar ones (`convolutions.py` and `layers.py` with weights, `norms.py`,
`products.py` written with letters, `indices.py` by tensors of indices, `pairs.py` distances and diagonals, `shapes.py`
moves elements, `views.py` cuts dimensions anew, `splits.py` takes one apart, `windows.py` cuts space into windows,
`pointwise_and_reductions.py` computes) and name it in that file's `RULES`; one that works on each element by itself is
named in `pointwise.py`. What is not here is a boundary.
"""

from compress.graph.coupling import Rule
from compress.graph.rules import (
    convolutions,
    indices,
    layers,
    norms,
    pairs,
    pointwise_and_reductions,
    products,
    shapes,
    splits,
    views,
    windows,
)

RULES: dict[str, Rule] = {
    **views.RULES,
    **shapes.RULES,
    **splits.RULES,
    **pointwise_and_reductions.RULES,
    **convolutions.RULES,
    **layers.RULES,
    **norms.RULES,
    **products.RULES,
    **pairs.RULES,
    **indices.RULES,
    **windows.RULES,
}

"""The one table operation -> rule: everything that the channel graph understands.

To teach it an operation, write a rule beside its kin (`layers.py` with weights, `products.py` by indices, `shapes.py`
moves elements, `splits.py` takes a dimension apart, `windows.py` cuts space into windows, `pointwise_and_reductions.py`
computes) and name it in that file's `RULES`; one that works on each element by itself goes into `pointwise.py`. What is
not here is a boundary.
"""

from compress.graph.coupling import Rule
from compress.graph.rules import layers as rules_layer
from compress.graph.rules import pointwise_and_reductions as rules_math
from compress.graph.rules import products as rules_products
from compress.graph.rules import shapes as rules_shape
from compress.graph.rules import splits as rules_split
from compress.graph.rules import windows as rules_windows

RULES: dict[str, Rule] = {
    **rules_shape.RULES,
    **rules_split.RULES,
    **rules_math.RULES,
    **rules_layer.RULES,
    **rules_products.RULES,
    **rules_windows.RULES,
}

"""The one table operation -> rule: everything that the channel graph understands.

To teach it an operation, write a rule beside its kin (`rules_layer.py` with weights, `rules_products.py` by indices,
`rules_shape.py` moves elements, `rules_split.py` takes a dimension apart, `rules_math.py` computes) and name it in that
file's `RULES`; one that works on each element by itself goes into `pointwise.py`. What is not here is a boundary.
"""

from compress.graph import rules_layer, rules_math, rules_products, rules_shape, rules_split
from compress.graph.coupling import Rule

RULES: dict[str, Rule] = {
    **rules_shape.RULES,
    **rules_split.RULES,
    **rules_math.RULES,
    **rules_layer.RULES,
    **rules_products.RULES,
}

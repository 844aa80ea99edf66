"""How many bits the tensors of a trace have, when a network is quantized.

Bits, followed through the graph from the quantizers that make them. A quantizer is any module with a whole number
`bits` (`weight_quantizer`, `input_quantizer`, activation quantizers). Called by compress/analysis/macs/layers.py.
"""

from torch import nn
from torch.fx import Node

from compress.graph.trace import Trace, module_of, operation_name

FLOAT_BITS = 32
_KEEP = (
    "view reshape flatten unflatten squeeze unsqueeze permute transpose t contiguous clone detach alias expand repeat "
    "select slice split chunk getitem cat stack pixel_shuffle pixel_unshuffle channel_shuffle relu relu_ max_pool1d "
    "max_pool2d max_pool3d max_pool2d_with_indices adaptive_max_pool2d dropout dropout_ pad constant_pad_nd"
)
KEEP_THE_GRID = frozenset(_KEEP.split())


class Bits:
    """Bits of each tensor: those of the quantizer that made it, kept by operations that only move values.

    A weight keeps them through any arithmetic with constants, such as an un-scaling after rounding.
    """

    def __init__(self, trace: Trace, model: nn.Module) -> None:
        self._quantizers = {
            name: module.bits
            for name, module in model.named_modules(remove_duplicate=False)
            if isinstance(getattr(module, "bits", None), int)
        }
        self._bits: dict[Node, int] = {}
        constant = set(trace.tensor_names)
        for node in trace.operations if self._quantizers else ():
            inputs = node.all_input_nodes
            if inputs and all(source in constant for source in inputs):
                constant.add(node)
            self._bits[node] = self._find(node, node in constant)

    def of(self, node: Node) -> int:
        """Bits of what a node yields; 32 for what nothing has quantized."""
        return self._bits.get(node, FLOAT_BITS)

    def _find(self, node: Node, constant: bool) -> int:
        module = module_of(node)
        while module:
            if module in self._quantizers:
                return self._quantizers[module]
            module = module.rpartition(".")[0]
        inputs = [self.of(source) for source in node.all_input_nodes]
        if constant:
            return min(inputs, default=FLOAT_BITS)
        return max(inputs, default=FLOAT_BITS) if operation_name(node) in KEEP_THE_GRID else FLOAT_BITS

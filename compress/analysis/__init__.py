"""What a network is like: sensitivity, sparsity, MACs, activations, drawings."""

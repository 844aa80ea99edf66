"""One forward pass recorded operation by operation, without the machinery of torch.export."""

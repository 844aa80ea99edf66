"""What the layers of a network put out: statistics and whole tensors."""

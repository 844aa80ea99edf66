"""Further restoration networks of one size: RGB (N, 3, H, W) in [0, 1] -> restored, the same shape, not clamped."""

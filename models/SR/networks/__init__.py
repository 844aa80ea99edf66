"""Super-resolution networks beside C2SRCNN: RGB (N, 3, h, w) in [0, 1] -> (N, 3, h * scale, w * scale), not clamped."""

"""Restoration of degraded images, with any network that keeps the size."""

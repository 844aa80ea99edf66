"""Attention that can lose heads or parts of heads."""

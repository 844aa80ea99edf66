"""Deblurring: pairs of blurred and sharp pictures."""

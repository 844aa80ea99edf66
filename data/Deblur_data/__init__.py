"""Deblurring: pairs of blurred and sharp images."""

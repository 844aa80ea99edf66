"""Deblurring: DeblurGAN."""

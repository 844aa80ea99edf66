"""Image restoration: the trainer, tester and quality that super-resolution, deblurring and others share."""

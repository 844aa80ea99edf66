"""What deblurring measures."""

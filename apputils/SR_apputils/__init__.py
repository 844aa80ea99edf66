"""What super-resolution measures."""

"""What super-resolution measures and shows."""

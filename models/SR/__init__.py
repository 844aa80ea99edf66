"""What super-resolution networks share: evaluation and quality."""

"""The networks of `--arch`, one file for each family."""

"""Checkpoint files: writing, checksum, rotation, form, and how they differ from what is here."""

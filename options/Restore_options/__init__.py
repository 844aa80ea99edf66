"""Options of restoration (`--optform=Restore`)."""

"""Networks by name, and of one's own."""

"""Numbers in code and in sizes that count channels: where they come from, which can be set."""

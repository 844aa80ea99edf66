"""Networks by name: an application's table, libraries, and networks of one's own."""

"""Super-resolution networks beside C2SRCNN."""

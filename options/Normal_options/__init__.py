"""Options of super-resolution (`--optform=SR`)."""

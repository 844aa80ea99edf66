"""Rules of the channel graph: what each operation does to units."""

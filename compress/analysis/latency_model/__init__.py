"""A latency model of one network in one runtime: tables of layer times over widths, and what follows from them."""

"""How many zeros weights hold, by element and by structure."""

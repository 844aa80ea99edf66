"""Files, terminals and progress: the ways in and out."""

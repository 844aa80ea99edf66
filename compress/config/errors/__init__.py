"""How the faults of a schedule are gathered and worded."""

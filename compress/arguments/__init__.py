"""What the arguments of a constructor or a function may be, and how a wrong one is worded."""

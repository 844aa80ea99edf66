"""From masked channels to a physically smaller network that computes the same."""

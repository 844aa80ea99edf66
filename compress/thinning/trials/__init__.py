"""Removals tried out before they are made, and the retreat where one fails."""

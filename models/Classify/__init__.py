"""Classification: its networks (`--arch`), trainer and tester."""

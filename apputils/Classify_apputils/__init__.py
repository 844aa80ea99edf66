"""Reports of classification."""

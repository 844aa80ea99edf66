"""Measuring what came of compression: quality, sparsity, cost, exports and reports."""

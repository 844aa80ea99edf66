"""Networks side by side: one table, one page."""

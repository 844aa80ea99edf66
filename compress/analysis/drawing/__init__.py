"""Networks and plans as drawings."""

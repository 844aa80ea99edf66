"""Networks as files for other runtimes: written, checked, timed."""

"""Goals of a run, measured on what it exports: after training on the validation data, by `test.py` on the test data."""

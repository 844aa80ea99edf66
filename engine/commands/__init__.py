"""What `train.py` and `test.py` can be asked for, one module each."""

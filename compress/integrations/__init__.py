"""Adapters that drive a `CompressionScheduler` from other packages' training loops.

`lightning.py` (a Lightning `Callback`), `transformers.py` (a transformers `TrainerCallback`), and what both
share (`driver.py`). Each needs its package, which this project does not install; import the one that you use. Not
here: the plain loop, which needs no adapter (`compress/scheduler.py`).
"""

"""`python -m apputils.checkpoints.file`, as it was called before: now `python -m apputils.checkpoints.file`."""

from apputils.checkpoints.file import main

if __name__ == "__main__":
    main()

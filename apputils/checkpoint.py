"""The former name of `python -m apputils.checkpoints.file`, which still works."""

from apputils.checkpoints.file import main

if __name__ == "__main__":
    main()

"""The former name of `python -m apputils.runs.adopt`, which still works."""

from apputils.runs.adopt import main

if __name__ == "__main__":
    main()

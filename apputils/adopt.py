"""`python -m apputils.runs.adopt`, as it was called before: now `python -m apputils.runs.adopt`."""

from apputils.runs.adopt import main

if __name__ == "__main__":
    main()

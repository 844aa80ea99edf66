"""Finds the schedule that meets goals: python search.py --optform=SR --goals=goals.yaml --minutes=60"""

from apputils.runs.console import exit_codes
from apputils.runs.lasting_imports import lasting_imports
from options.search_options import SearchOptions


@exit_codes
def main() -> None:
    """Parses and searches."""
    config = SearchOptions().parse()

    with lasting_imports():  # of torch, which --help and wrong options need not wait for
        from engine.search.command import act

    act(config)


if __name__ == "__main__":
    main()

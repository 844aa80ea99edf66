"""Finds the schedule that meets goals: python search.py --optform=SR --goals=goals.yaml --minutes=60"""

from apputils.runs.console import exit_codes
from options.search_options import SearchOptions


@exit_codes
def main() -> None:
    """Parses and searches."""
    config = SearchOptions().parse()

    from engine.search.command import act  # imports torch, which --help and wrong options need not wait for

    act(config)


if __name__ == "__main__":
    main()

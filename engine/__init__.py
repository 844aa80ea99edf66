"""The loop that every application shares: training, evaluation, state, and the commands of train.py and test.py."""

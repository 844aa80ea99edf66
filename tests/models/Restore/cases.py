"""What the generic tests need to know of restoration."""

from tests.models.cases import Cases

CASES = Cases(
    small_run=["--traindata=images", "--samples=6", "--patch-size=24", "--batchSize=2"],
    schedules=4,
    refused={
        "train_options": [
            (["--match=order"], "--match says how the file of --weights is read"),
            (["--patch-size=30"], "--patch-size must be a multiple of 4 pixels"),
        ],
    },
)

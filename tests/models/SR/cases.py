"""What the generic tests need to know of super-resolution."""

from tests.models.cases import Cases

SMALL = {  # arguments of a network that is quick to run
    "c2srcnn": {"features": 4, "shrunk": 4},
    "srcnn": {"width": 4},
    "fsrcnn": {"width": 6, "shrunk": 3, "depth": 1},
    "espcn": {"width": 4},
    "edsr_baseline": {"width": 4, "depth": 1},
    "imdn": {"width": 8, "depth": 2},
    "ecbsr": {"width": 4, "depth": 1},
    "plainsr": {"width": 4, "depth": 1},
}
DATA = ["--traindata=images", "--samples=12", "--patch_size=24", "--batchSize=2"]
CASES = Cases(
    small_run=DATA,
    small=SMALL,
    data=DATA,
    schedules=23,
    refused={"train_options": [(["--match=order"], "--match says how the file of --weights is read")]},
    beyond={
        "train_options": [
            (["--nEpochs=200001"], "200000 at most"),
            (["--ema=1"], "less than 1.0"),
            (["--seed=" + str(2**70)], "at most"),
            (["--workers=100000"], "1024 at most"),
            (["--samples=" + str(10**12)], "at most"),
            (["--patch-size=1000000"], "4096 at most"),
            (["--lr=1e400"], "a finite number"),
            (["--optform="], "given nothing"),
            (["--device= "], "given nothing"),
        ],
        "test_options": [
            (["--jobs=1000000"], "1024 at most"),
        ],
    },
)

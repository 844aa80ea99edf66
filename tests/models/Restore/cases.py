"""What the generic tests need to know of restoration."""

from tests.models.cases import Cases
from tests.models.Deblur.cases import SMALL as DEBLURRING
from tests.models.SR.cases import SMALL as SUPER_RESOLUTION

SMALL = {**SUPER_RESOLUTION, **DEBLURRING}
DATA = ["--traindata=images", "--samples=6", "--patch-size=24", "--batchSize=2"]
CASES = Cases(
    small_run=DATA,
    small=SMALL,
    data=DATA,
    schedules=4,
    refused={
        "train_options": [
            (["--match=order"], "--match says how the file of --weights is read"),
            (["--patch-size=30"], "--patch-size must be a multiple of 4 pixels"),
        ],
    },
)

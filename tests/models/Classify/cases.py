"""What the generic tests need to know of classification."""

from tests.models.cases import Cases

CASES = Cases(
    small_run=["--arch=lenet5", "--size=28", "--batchSize=256"],
    schedules=36,
    refused={
        "train_options": [
            (["--dataset=digits", "--traindata=."], "--dataset names a data set, and --traindata another"),
            (["--download"], "--download fetches the data set of --dataset=torchvision:NAME"),
            (["--exit-weight=0.5"], "--exit-weight weighs the losses of early exits"),
            (["--match=order"], "--match says how the file of --weights is read"),
            (["--pretrained", "--weights=mine.yaml", "--arch=timm:a"], "--pretrained and --weights are two ways"),
            (["--pretrained"], "--pretrained is for --arch=torchvision:NAME"),
            (["--momentum=0"], "--momentum does not apply to this optimizer"),
            (["--momentum=0.5"], "--momentum does not apply to this optimizer"),
            (["--decay-all", "--weight-decay=0"], "--decay-all says what decays"),
        ],
        "test_options": [
            (["--predict=.", "--testdata=."], "--predict takes its images from its own folder"),
            (["--predict=.", "--quantize=auto"], "--quantize excludes --compare, --dump-features, --prune, --predict"),
            (["--predict=nowhere"], "--predict=nowhere: there is no such folder"),
        ],
    },
    beyond={
        "train_options": [
            (["--width-mult=0"], "more than 0.0"),
            (["--dropout=1"], "less than 1.0"),
            (["--zoom=1"], "less than 1.0"),
            (["--label-smoothing=2"], "less than 1.0"),
        ],
    },
)

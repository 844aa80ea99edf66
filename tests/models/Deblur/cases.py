"""What the generic tests need to know of deblurring."""

from tests.models.cases import Cases

SMALL = {arch: {"ngf": 4} for arch in ("resnet", "mobile", "unet", "nafnet")}
DATA = ["--traindata=images", "--sharp-only", "--samples=6", "--patch-size=32", "--ndf=2",
        "--blur-length=12"]  # fmt: skip
CASES = Cases(
    small_run=[*DATA, "--batchSize=1", "--ngf=2", "--blocks=1"],
    small=SMALL,
    data=DATA,
    schedules=6,
    refused={
        "train_options": [
            (["--match=order"], "--match says how the file of --weights is read"),
            (["--patch-size=30"], "--patch-size must be a multiple of 4 pixels"),
            (["--patch-size=16"], "--patch-size must be 24 or more for the discriminator to judge a patch; --adv"),
            (["--patch-size=20", "--gan=lsgan"], "--patch-size must be 24 or more"),
            (["--sharp-only"], "--sharp-only says what --traindata holds"),
            (["--traindata=.", "--blur-length=9"], "--blur-length is of blur that is made"),
            (["--preset=paper", "--arch=mine.py:Net"], "--preset has the sizes of DeblurGAN's generator"),
            (["--vgg-weights=mine.yaml"], "--vgg-weights is for --content=perceptual"),
            (["--vgg-weights=nowhere", "--preset=paper"], "--vgg-weights=nowhere: there is no such file"),
            (["--adversarial=0", "--gan=lsgan"], "--gan is about the discriminator, which --adversarial=0 leaves out"),
        ],
        "test_options": [
            (["--sharp-only"], "--sharp-only says what --testdata holds"),
        ],
    },
    beyond={
        "train_options": [
            (["--ngf=100000"], "4096 at most"),
        ],
    },
)

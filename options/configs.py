"""The options that every application has, as typed objects.

`TrainConfig` and `TestConfig`, which an application's package extends. A field named `explicit` is not an option: it
holds the names of those that were given on the command line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.epoch_window import MAX_EPOCHS
from options.applications import APPLICATIONS
from options.command import commands, schedule_command
from options.option import option
from options.schedules import schedule_families

MOST = 65_536  # samples in a minibatch, minibatches
MOST_SAMPLES = 100_000_000
PROCESSES = 1024  # processes or threads
LARGEST_SIDE = 4096  # pixels of what a network is trained on
MOST_CHANNELS = 4096


@dataclass(frozen=True)
class TrainConfig:
    """Options of `train.py`."""

    optform: str = option("SR", f"application to train: {', '.join(APPLICATIONS)}", metavar="NAME")
    compress: str | None = option(
        None,
        "YAML schedule to train under: a path, or a name in schedules/<optform>/; without it nothing is compressed",
        metavar="SCHEDULE",
    )
    traindata: str | None = option(
        None,
        "folder of training images (default: dataset/ if it exists, else the embedded photographs)",
        metavar="FOLDER",
    )
    batchSize: int = option(16, "number of samples in a minibatch of one process", minimum=1, maximum=MOST)
    accumulate: int = option(
        1,
        "number of minibatches whose gradients are accumulated for one update of the weights",
        minimum=1,
        maximum=MOST,
    )
    nEpochs: int | None = option(
        None,
        "number of epochs; 0 makes a run of a network that is trained already (default: as many as the schedule needs)",
        minimum=0,
        maximum=MAX_EPOCHS,
    )
    lr: float = option(1e-3, "initial learning rate", minimum=0.0)
    seed: int = option(0, "seed of every random choice", minimum=0, maximum=2**63 - 1)
    seeds: str | None = option(
        None,
        "train once for each of several seeds, as one group: 5 (seeds 0 to 4) or a list such as 0,7,12",
        metavar="SEEDS",
    )
    run: str | None = option(None, "name of the run: its folder under logs/, results/ and checkpoints/", metavar="NAME")
    start_from: str | None = option(
        None, "a new run starts from the best weights of this dense run, which goals compare with", metavar="RUN"
    )
    resume: str | None = option(None, "resume this run from its last checkpoint, or this group of seeds", metavar="RUN")
    reset_optimizer: bool = option(
        False, "with --resume: reset the optimizer's state; it starts at the run's present learning rates, or at --lr"
    )
    reset_schedule: bool = option(
        False,
        "with --resume: continue under the schedule of --compress, or under none; what is masked or thinned stays so",
    )
    checkpoint_every: int = option(
        0, "also save a checkpoint every N updates; 0 saves after each epoch only", minimum=0, maximum=MOST, metavar="N"
    )
    keep: int = option(2, "number of checkpoints to keep: the last one and those before it", minimum=1, maximum=MOST)
    on_nan: str = option(
        "stop", "what to do when the loss is NaN or infinite: stop, skip the minibatch, or rollback to the last "
        "checkpoint and leave the minibatch out", choices=("stop", "skip", "rollback"),
    )  # fmt: skip
    unused: tuple[str, ...] | None = option(
        None, "parts of the network that nobody runs, by name or pattern of --list-weights: nothing has to fit them",
        metavar="PART",
    )  # fmt: skip
    thin: bool = option(
        False, "with --resume: first remove whole filters and channels that are zero, with proof, optimizer included"
    )
    device: str = option(
        "auto", "device to compute on: cuda, cuda:N, cpu or auto (CUDA if available)", metavar="DEVICE"
    )
    workers: int = option(
        0, "number of processes that load data; 0 loads in the main process", minimum=0, maximum=PROCESSES
    )
    precision: str | None = option(
        None, "of the forward pass: float32, bfloat16 (autocast), or auto, which is bfloat16 where this CPU multiplies "
        "it faster and the bench's networks lost nothing by it (default: float32)",
        choices=("float32", "bfloat16", "auto"),
    )  # fmt: skip
    amp: bool = option(False, "the same as --precision=bfloat16")
    compile: bool = option(False, "compile the forward pass of training steps with torch.compile")
    channels_last: bool = option(False, "store weights and images in the channels-last memory format")
    sync_batchnorm: bool = option(
        False, "compute BatchNorm statistics over the samples of all processes; requires CUDA"
    )
    check_ranks: bool = option(False, "compare network, masks and states of all processes by checksum after each epoch")
    threads: int | None = option(None, "number of CPU threads (default: PyTorch's)", minimum=1, maximum=PROCESSES)
    ema: float = option(
        0.0,
        "decay of an exponential moving average of the weights, which evaluation and best.pt then use; 0 keeps none",
        minimum=0.0,
        below=1.0,
    )
    histograms: bool = option(False, "write histograms of the weights to TensorBoard after each epoch")
    activation_stats: bool = option(
        False,
        "write statistics of layers' outputs in validation after each epoch: TensorBoard, logs/<run>/activations.csv",
    )
    strict: bool = option(False, "treat warnings of the schedule as errors")
    plan: bool = option(
        False, "show what the schedule will do in each epoch, and draw it as <schedule>-plan.png in the current folder"
    )
    smoke: bool = option(False, "try the schedule: every policy fires on a few minibatches, in about a minute")
    list_weights: bool = option(False, "print the names of the weights as YAML, ready to paste into a schedule")
    list_groups: bool = option(False, "print which channels are coupled, and why others cannot be removed")
    list_archs: bool = option(False, "list the architectures of the application, with their arguments and sizes")
    new_schedule: str | None = option(
        None, f"print a commented schedule for this network; FAMILY: {', '.join(schedule_families())}", metavar="FAMILY"
    )
    explicit: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    def stem(self) -> str:
        """What a new run's name begins with: the application and the schedule."""
        return f"{self.optform}-{Path(self.compress).stem if self.compress else 'plain'}"

    def schedule_command(self) -> str:
        """What trains this network under another schedule, when `--compress=FILE` is added."""
        return schedule_command(self.optform, vars(self))


@dataclass(frozen=True)
class TestConfig:
    """Options of `test.py`."""

    __test__ = False  # pytest: not a test class

    optform: str | None = option(None, "application to test (default: that of the run)")
    model: str | None = option(
        None,
        "checkpoint, or exported .onnx or .pt2 file, to test (default: the best checkpoint of --run)",
        metavar="FILE",
    )
    testdata: str | None = option(
        None, "folder of test images (default: dataset/ if it exists, else the embedded photographs)", metavar="FOLDER"
    )
    run: str | None = option(None, "run, or group of seeds, to test (default: the newest run)", metavar="RUN")
    baseline: str | None = option(
        None, "run whose network is measured on the same data as a second baseline, such as the dense network's",
        metavar="RUN",
    )  # fmt: skip
    dump_features: str | None = option(
        None, "write the outputs of --layers for the first --num samples to this .npz file instead of testing"
    )
    thin: bool = option(
        False,
        "first remove whole filters and channels that are zero, with proof; writes FILE_thin.pt beside the checkpoint, "
        "which everything after is about",
    )
    overwrite: bool = option(False, "with --thin: replace the evaluated checkpoint by the thinner one")
    export: bool = option(True, "export the network to results/<run>/ as ONNX and .pt2, check and time the files")
    reduce_range: bool = option(
        False, "export integer files with 7-bit weights, for x86 CPUs without VNNI, where 8 x 8 bits can saturate"
    )
    complete: bool = option(
        False, "in integer files also quantize the outputs that training left in float, so that every layer runs in "
        "integers; the difference to what was trained is measured",
    )  # fmt: skip
    formats: tuple[str, ...] | None = option(
        None, "also export the ONNX file in these narrower formats, check and time it, and run it in --runtimes; of a "
        "quantized network int4 only", choices=("float16", "bfloat16", "float8", "int4"),
    )  # fmt: skip
    free_axes: tuple[int, ...] | None = option(
        None, "axes of the inputs that may have another size in the ONNX file, besides batch, height and width: "
        "1 for the length of sequences (batch, length, features); the file is run on another length too", minimum=1,
        maximum=9, metavar="AXIS",
    )  # fmt: skip
    fixed_size: bool = option(
        False, "export for the network's own height and width only: for networks whose padding is computed from the "
        "size, of which an export with free sizes takes minutes or does not end",
    )  # fmt: skip
    arch: tuple[str, ...] | None = option(
        None, "networks of your own whose code may be imported, as FILE.py:CLASS or MODULE:CLASS; which network a "
        "checkpoint has is in it", metavar="NAME", own_code=True,
    )  # fmt: skip
    unused: tuple[str, ...] | None = option(
        None, "parts of the network that nobody runs, beside those that training named: nothing has to fit them",
        metavar="PART",
    )  # fmt: skip
    report: bool = option(
        True, "write tables and drawings of the network, and results/<run>/report.html with everything"
    )
    sense: str = option(
        "element",
        "kind of sensitivity analysis: the loss when elements, filters or channels are pruned, or bits reduced",
        choices=("element", "filter", "channel", "bits", "none"),
    )
    full: bool = option(False, "analyse all levels and metrics instead of a few; takes minutes longer")
    jobs: int = option(1, "number of processes that share the sensitivity analysis", minimum=1, maximum=PROCESSES)
    sense_data: str = option(
        "test", "images that the analysis measures on; to choose levels for a schedule, use validation images",
        choices=("test", "validation"),
    )  # fmt: skip
    sense_queue: bool = option(
        False, "share the sensitivity analysis with every other process that runs the same command, on this machine or "
        "on another one with the same folder; needs Optuna"
    )  # fmt: skip
    tolerance: float | None = option(
        None, "loss that a suggested level may cost each weight, in the metric's unit (default: 0.05 dB of PSNR, "
        "0.5 points of accuracy)", minimum=0.0,
    )  # fmt: skip
    write_schedule: str | None = option(
        None,
        "write the suggested levels as a schedule; tolerance=X is the tolerated loss. With --diagnose, FILE.yaml: "
        "write the run's schedule there with the remedies that were found",
        metavar="tolerance=X",
    )
    prune: str | None = option(
        None, "prune whole channels without training until this fraction of the MACs or parameters is left, measured "
        "beside dense: macs=X or params=X", metavar="COST=X",
    )  # fmt: skip
    quantize: str | None = option(
        None, "quantize after training, measured beside float: a file of settings, `auto` (the cheapest that keeps the "
        "metric) or `mixed` (bits for each layer under --bits-budget)", metavar="SETTINGS",
    )  # fmt: skip
    max_drop: float | None = option(
        None, "for --quantize=auto: largest loss of the metric, in its unit (default: 0.1)", minimum=0.0
    )
    bits_budget: str | None = option(
        None,
        "for --quantize=mixed: budget as size:X or bitops:X, X a fraction of the float network's",
        metavar="KIND:X",
    )
    calibration: int = option(
        16,
        "for --quantize, --prune and --bits: number of minibatches of training data to calibrate with",
        minimum=1,
        maximum=MOST,
    )
    calibration_data: str = option(
        "training", "for --quantize and --prune: calibrate with the run's training data, or without any, with inputs "
        "generated from the statistics that the network's BatchNorm layers hold", choices=("training", "generated"),
    )  # fmt: skip
    compare: tuple[str, ...] | None = option(
        None, "compare these networks, runs or checkpoints, instead of testing one; `all` takes every run of the "
        "application", metavar="RUN_OR_CHECKPOINT",
    )  # fmt: skip
    runtimes: tuple[str, ...] | None = option(
        None, "also convert the network for these runtimes, run it there, compare and time it; `all` takes every known "
        "one, no name those installed", metavar="RUNTIME", may_be_empty=True,
    )  # fmt: skip
    bundle: str | None = option(
        None, "also write a folder to carry to a device: the network in the forms of --runtimes, which are not "
        "measured here then (by default of those installed), inputs, expected outputs, and measure.py, which measures "
        "there", metavar="NEW_FOLDER",
    )  # fmt: skip
    layer_table: bool = option(
        False,
        "with --bundle: also carry layers of the dense network at many widths, which measure.py times (in onnxruntime "
        "or OpenVINO, the first of --runtimes), so that search.py and goals can predict times on the device",
    )
    device_results: str | None = option(
        None, "the device.json that a bundle's measure.py wrote on a device; it goes into the run's report, and the "
        "schedule's goals on time are judged by it",
        metavar="FILE",
    )  # fmt: skip
    diagnose: bool = option(
        False, "look for the layers where a quantized network loses: weights and activations apart, each layer by "
        "itself, in the simulation and in the integer file; causes and remedies are named",
    )  # fmt: skip
    benchmark: bool = option(False, "time the network, or those of --compare, for longer: 30 interleaved rounds")
    batch: int = option(
        1, "for --compare and --benchmark: number of samples in a forward pass", minimum=1, maximum=MOST
    )
    bits: int | None = option(
        None, "for --compare, --benchmark and --runtimes: also measure each network quantized after training to this "
        "many bits", choices=(4, 5, 6, 7, 8),
    )  # fmt: skip
    layers: str | None = option(
        None, "for --dump-features: names of layers, or patterns such as 'conv*', separated by commas"
    )
    num: int = option(200, "for --dump-features: largest number of samples", minimum=1, maximum=MOST_SAMPLES)
    device: str = option(
        "auto", "device to compute on: cuda, cuda:N, cpu or auto (CUDA if available)", metavar="DEVICE"
    )
    threads: int | None = option(
        None, "number of CPU threads (default: PyTorch's, and one for what is timed: networks, files, runtimes, goals)",
        minimum=1, maximum=PROCESSES,
    )  # fmt: skip
    explicit: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    def commands(self, checkpoint: Mapping[str, Any]) -> dict[str, str]:
        """What to type to train the evaluated network again (`train`), and to evaluate it like this (`test`)."""
        return commands(self, checkpoint)

    def schedule_command(self, checkpoint: Mapping[str, Any]) -> str:
        """What trains the evaluated network under another schedule, when `--compress=FILE` is added."""
        return schedule_command(checkpoint["optform"], checkpoint["options"])

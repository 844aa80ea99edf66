"""What the bench does on an NVIDIA GPU, in at most eight minutes: python benchmarks/cuda_check.py [--out cuda.json]

    --minutes 8      parts that would begin later are left out
    --only PART ...  tests, main, steps, amp, sparse, thinning, runtimes
    --device cpu     tries this script itself without a GPU: small, and what needs CUDA is named as left out

One JSON file with a result, a reason or an error for each part, each in a process of its own, which is ended when it
takes longer than its share; `cut` says which were. The parts: the tests marked `cuda`; the main command; a training
step masked by AGP, with regularizers and quantized, over the bare step; the same in bfloat16; 2:4 linear layers; ResNet
thinned with proof; an exported network in onnxruntime's CUDA provider and in TensorRT, where they are installed.

It has not been run on a GPU yet: no figure of this bench's pages is a GPU's. Exit code: 0, all parts passed; 1, a part
failed or was cut; 2, there is no CUDA device, and nothing was measured.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.interleaved import compare
from benchmarks.networks import resnet20
from benchmarks.qat_step import QUANTIZERS
from benchmarks.step_overhead import Batch, Loop, Scheduled, one, schedules
from compress.criteria import level_mask, nm_mask
from compress.export.semi_structured import to_semi_structured
from compress.thinning.thin import thin

ROOT = Path(__file__).resolve().parent.parent
MARKED = ("engine/test_trainer.py", "compress/export/runtimes/test_each.py", "compress/export/test_semi_structured.py")


class LeftOut(Exception):
    """Why a part was not tried."""


class Check:
    """The parts, each a method that returns plain data.

    Args:
        device: cuda, or cpu to try the script.
        until: `time.monotonic()` at which all must be over.
    """

    def __init__(self, device: str, until: float) -> None:
        self.device, self.until = torch.device(device), until
        self.on_gpu = self.device.type == "cuda"

    def tests(self) -> dict[str, Any]:
        """The tests that are marked `cuda`."""
        self._needs_gpu()
        files = [str(ROOT / "tests" / each) for each in MARKED]
        done = self._command("-m", "pytest", "-q", "-m", "cuda", *files, cwd=ROOT)
        return {"last_line": done.strip().splitlines()[-1]}

    def main(self) -> dict[str, Any]:
        """The main command, of few epochs, in a folder that is removed."""
        schedule = ROOT / "schedules" / "SR" / "agp_prune.yaml"
        size = [] if self.on_gpu else ["--samples=16", "--batchSize=8", "--patch_size=32"]
        with tempfile.TemporaryDirectory() as folder:
            command = [str(ROOT / "train.py"), "--optform=SR", f"--compress={schedule}", "--nEpochs=2", "--run=check"]
            started = time.monotonic()
            self._command(*command, f"--device={self.device.type}", *size, cwd=Path(folder))
            seconds = time.monotonic() - started
            rows = (Path(folder) / "logs" / "check" / "metrics.csv").read_text().splitlines()
        return {"seconds": seconds, "metrics": dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))}

    def steps(self) -> dict[str, Any]:
        """Step times over the bare step's, ResNet-20: AGP's masks, group lasso + L1, 8-bit QAT."""
        batch = self._batch()
        ways: dict[str, Loop] = {"bare": Loop(self._network(), batch, functional.cross_entropy)}
        for name in ("AGP", "group lasso + L1"):
            model = self._network()
            ways[name] = Scheduled(model, batch, functional.cross_entropy, schedules(model)[name])
        own = {**QUANTIZERS["QAT per channel"], "bits_activations": 8, "bits_weights": 8}
        ways["QAT"] = Scheduled(self._network(), batch, functional.cross_entropy, one("quantizer", own), batch[0])
        return self._ratios(ways)

    def amp(self) -> dict[str, Any]:
        """The bare step in bfloat16 over that in float32."""
        images, labels = self._batch()

        def autocast(output: Tensor, wanted: Tensor) -> Tensor:
            return functional.cross_entropy(output.float(), wanted)

        narrow = Loop(_Autocast(self._network()), (images, labels), autocast)
        wide = Loop(self._network(), (images, labels), functional.cross_entropy)
        return self._ratios({"float32": wide, "bfloat16": narrow})

    def sparse(self) -> dict[str, Any]:
        """2:4 linear layers: time over the dense one, and how far outputs are apart."""
        self._needs_gpu()
        rows = {}
        for width in (1024, 4096):
            layer = nn.Linear(width, width).to(self.device, torch.float16)
            layer.weight.data.mul_(nm_mask(layer.weight, 2, 4, 1))
            example = torch.randn(256, width, device=self.device, dtype=torch.float16)
            with torch.inference_mode():
                expected = layer(example)
                found = to_semi_structured(nn.Sequential(layer), 256)[0]
                gap = float((layer(example) - expected).abs().max() / expected.abs().max())
            rows[str(width)] = {"sparse_over_dense": found.sparse / found.dense, "difference": gap}
        return rows

    def thinning(self) -> dict[str, Any]:
        """A residual network, half of whose weights' filters are cleared, thinned with proof."""
        import torchvision

        model = torchvision.models.resnet50(weights=None) if self.on_gpu else resnet20()
        model = model.to(self.device)
        example = torch.randn(2, 3, 64, 64, device=self.device)
        before = sum(each.numel() for each in model.parameters())
        masks = {}
        for name, parameter in model.named_parameters():
            if parameter.dim() == 4:
                kept = level_mask(parameter.abs().sum((1, 2, 3)), 0.5)
                masks[name] = kept[:, None, None, None].expand_as(parameter).contiguous()
        started = time.monotonic()
        thinned = thin(model, example, masks)
        after = sum(each.numel() for each in model.parameters())
        seconds = time.monotonic() - started
        return {"seconds": seconds, "parameters": [before, after], "difference": float(thinned.difference)}

    def runtimes(self) -> dict[str, Any]:
        """An exported network in onnxruntime's CUDA provider and in TensorRT, against PyTorch on the CPU."""
        from compress.export.runtimes.measure import measure_runtimes
        from compress.export.runtimes.table import RUNTIMES

        names = ["onnxruntime-cuda", "tensorrt"] if self.on_gpu else ["onnxruntime"]
        absent = {name: reason for name in names if (reason := str(RUNTIMES[name].available()))}
        if len(absent) == len(names):
            raise LeftOut("; ".join(absent.values()))
        there = [name for name in names if name not in absent]
        found = measure_runtimes({"ResNet-20": resnet20().eval()}, torch.rand(8, 3, 32, 32), there)
        rows = [_plain(row) for row in found.rows]
        return {"absent": absent, "rows": rows}

    def _needs_gpu(self) -> None:
        if not self.on_gpu:
            raise LeftOut("needs CUDA")

    def _network(self) -> nn.Module:
        torch.manual_seed(0)
        return resnet20().to(self.device)

    def _batch(self) -> Batch:
        size = 128 if self.on_gpu else 4
        images = torch.rand(size, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        return images.to(self.device), torch.arange(size).to(self.device) % 10

    def _ratios(self, ways: dict[str, Loop]) -> dict[str, Any]:
        def finished(way: Loop) -> Callable[[], None]:
            def work() -> None:
                way()
                if self.on_gpu:
                    torch.cuda.synchronize()

            return work

        rounds, repetitions = (15, 10) if self.on_gpu else (1, 1)
        found = compare({name: finished(way) for name, way in ways.items()}, rounds, repetitions, time.perf_counter)
        return {
            name: {"milliseconds": each.milliseconds, "ratios": sorted(each.values)} for name, each in found.items()
        }

    def _command(self, *arguments: str, cwd: Path) -> str:
        """What a Python process prints.

        Raises:
            RuntimeError: it fails, or takes longer than is left.
        """
        left = max(self.until - time.monotonic(), 1.0)
        try:
            done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=left)
        except subprocess.TimeoutExpired as e:
            raise RuntimeError(f"ended after {left:.0f} s, when the time was over") from e
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-600:]}")
        return done.stdout


class _Autocast(nn.Module):
    """A network in bfloat16 where torch takes it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            output: Tensor = self.network(images)
        return output


def _plain(row: Any) -> Any:
    """What JSON can hold."""
    return json.loads(json.dumps(row, default=str))


# Part -> the seconds it may take.
PARTS = {"tests": 150.0, "main": 120.0, "steps": 90.0, "amp": 60.0, "sparse": 45.0, "thinning": 60.0, "runtimes": 90.0}
START: dict[str, Literal["fork", "spawn"]] = {"cuda": "spawn", "cpu": "fork"}
LONGEST_START = 60.0  # seconds in which CUDA must answer
GRACE = 5.0  # seconds: what a part waits for is ended later than the part, which is then said to be cut


def checked(device: str, until: float, parts: list[str], keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Part -> its result, why it was left out or cut, or how it failed; `keep` takes what there is after each part."""
    found: dict[str, Any] = {}
    for name in parts:
        started = time.monotonic()
        limit = min(PARTS[name], until - started)
        check = Check(device, started + limit + GRACE)
        found[name] = (
            apart(getattr(check, name), limit, START[device]) if limit > 0 else {"left_out": "the time was over"}
        )
        found[name]["seconds"] = round(time.monotonic() - started, 2)
        print(f"{name:10s} {json.dumps(found[name])[:200]}", flush=True)
        keep(found)
    return found


def apart(work: Callable[[], Any], seconds: float, start: Literal["fork", "spawn"]) -> dict[str, Any]:
    """What some work comes to in a process of its own, which is ended with all that it started when its time is over.

    Args:
        work: returns plain data.
        seconds: that it may take.
        start: `spawn` for work on a GPU: what is forked off a process that has asked for CUDA, if only when torch was
            imported, cannot use it.
    """
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process: Any = multiprocessing.get_context(start).Process(target=_tell, args=(work, theirs))
    process.start()
    theirs.close()
    try:
        if not ours.poll(seconds):
            return {"cut": f"ended after {seconds:.0f} s"}
        told: dict[str, Any] = json.loads(ours.recv_bytes())
        return told
    except EOFError:
        process.join()
        return {"failed": f"its process ended with code {process.exitcode}"}
    finally:
        with contextlib.suppress(ProcessLookupError):  # it leads a group of its own; a moment after its start not yet
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.kill()
        process.join()


def _tell(work: Callable[[], Any], pipe: Any) -> None:
    os.setsid()
    try:
        outcome = {"result": work()}
    except LeftOut as e:
        outcome = {"left_out": str(e)}
    except Exception as e:  # whatever it is, the other parts are still worth having
        outcome = {"failed": f"{type(e).__name__}: {e}"}
    pipe.send_bytes(json.dumps(outcome, default=str).encode())


def _gpu() -> dict[str, Any]:
    if not torch.cuda.is_available():
        raise LeftOut("no CUDA device here")
    return {"device": torch.cuda.get_device_name(), "capability": list(torch.cuda.get_device_capability())}


def main() -> int:
    """Checks what is asked for and writes one JSON; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("cuda_check.json"))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    tried = {"device": "cpu: the script was tried, nothing here is a GPU's", "capability": None}
    asked = apart(_gpu, LONGEST_START, START["cuda"]) if on_gpu else {"result": tried}
    if "result" not in asked:
        why = next(iter(asked.values()))
        print(f"{why}: nothing was measured; --device=cpu tries the script itself", file=sys.stderr)
        return 2
    content: dict[str, Any] = {
        **asked["result"],
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "date": time.strftime("%Y-%m-%d"),
    }

    def keep(parts: dict[str, Any]) -> None:
        cut = [name for name, each in parts.items() if "cut" in each]
        text = json.dumps({**content, "cut": cut, "parts": parts}, indent=1) + "\n"
        options.out.write_text(text, encoding="utf-8")

    found = checked(options.device, time.monotonic() + 60 * options.minutes, options.only, keep)
    print(f"written: {options.out}")
    for kind in ("left_out", "cut"):
        if named := [f"{name} ({each[kind]})" for name, each in found.items() if kind in each]:
            print(f"{kind.replace('_', ' ')}: {', '.join(named)}")
    return int(any("failed" in each or "cut" in each for each in found.values()))


if __name__ == "__main__":
    sys.exit(main())

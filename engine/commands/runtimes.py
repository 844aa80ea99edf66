"""A run's networks in every runtime: `test.py --runtimes`.

`in_runtimes`, `measure_run` (results/<run>/runtimes.json), `measured`.
"""

import dataclasses
import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from apputils.report.records import read_json
from compress.analysis.latency_model.carried import add_layer_table
from compress.analysis.measured_words import measured_words
from compress.errors import UserError
from compress.export.bundle import check_free, read_device_results, usable_runtimes, write_bundle
from compress.export.layer_times import PROFILED
from compress.export.onnx.export_report import ExportSettings
from compress.export.onnx.qdq import is_quantized
from compress.export.runtimes.measure import (
    ALL,
    REFERENCE,
    Cropped,
    Quality,
    RuntimeTable,
    chosen_runtimes,
    measure_runtimes,
)
from compress.export.runtimes.text import device_name, table_text, warnings_of
from compress.export.timing import Timing
from compress.io.files import write_json
from compress.quantization.decision import Bits
from engine.application import TestedApplication
from engine.commands.quantize import quantized_copy

logger = logging.getLogger("run")
FILE, MOST_SAMPLES = "runtimes.json", 3
DENSE = "dense"


def in_runtimes(
    tester: TestedApplication, networks: Mapping[str, nn.Module], inputs: Sequence[tuple[Tensor, ...]]
) -> None:
    """What the options ask for: a measurement here, a bundle for a device, what a device has measured."""
    opt, run = tester.config, tester.folders.name
    if (found := device_results(tester)) is not None:
        keep_device_results(tester.results, found)
    if opt.bundle is not None:
        folder, example = Path(opt.bundle), tuple(x[:1] for x in inputs[0])
        clock = _clock(opt.runtimes) if opt.layer_table else ""
        given = {DENSE: _dense(tester), **_with_bits(tester, networks)}
        narrow = _narrow(tester, networks)
        if opt.runtimes is not None:
            logger.info("with --bundle, --runtimes names what the folder carries; without it, it measures here")
        for fault in write_bundle(folder, given, example, opt.runtimes, run, _settings(tester), narrow):
            logger.warning("%s", fault)
        if opt.layer_table:
            logger.info("exporting the files of a latency model of the dense network in %s; some minutes", clock)
            size = add_layer_table(folder, given[DENSE].cpu(), tuple(each.cpu() for each in example), clock)
            logger.info("the layer table has %.1f MB", size / 1e6)
        logger.info("written: %s; on the device: python %s", folder, shlex.quote(f"{folder.name}/measure.py"))
    elif opt.runtimes is not None:
        measure_run(tester, networks, inputs)


def check_asked(tester: TestedApplication) -> None:
    """Refuses what the options cannot mean, before anything is computed.

    Raises:
        UserError: an unknown runtime, a file that is no measurement of this run, a bundle's folder that is not free or
            for which no named runtime can convert, or layers that none can time.
    """
    opt = tester.config
    if opt.runtimes is not None:
        chosen_runtimes(opt.runtimes)
    device_results(tester)
    if opt.bundle is not None:
        check_free(Path(opt.bundle))
        usable_runtimes(opt.runtimes)
    if opt.layer_table:
        _clock(opt.runtimes)


def _clock(names: Sequence[str] | None) -> str:
    """The runtime that times layers on the device: the first of those named that has a profiler."""
    if not names or list(names) == [ALL]:
        return REFERENCE
    found = next((name for name in names if name in PROFILED), None)
    if found is None:
        raise UserError(
            f"--layer-table: layers are timed by {' or '.join(PROFILED)}, and --runtimes names neither; nothing was "
            "written"
        )
    return found


def device_results(tester: TestedApplication) -> dict[str, Any] | None:
    """What `--device-results` names; None without it."""
    given = tester.config.device_results
    return None if given is None else read_device_results(Path(given), tester.folders.name)


def keep_device_results(results: Path, found: Mapping[str, Any]) -> Path:
    """Writes what a device has measured beside what others have; only the same device's with as many threads goes.

    Args:
        results: folder of the run.
        found: of `read_device_results`.
    """
    name = device_name(found)
    path = results / f"device_{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')[:120]}.json"
    before = read_json(path)
    write_json(path, found)
    replaced = f", instead of what it measured on {before['machine']['date']}" if before else ""
    logger.info("written: %s, measured on %s, %s%s", path, name, found["machine"]["date"], replaced)
    return path


def measure_run(
    tester: TestedApplication, networks: Mapping[str, nn.Module], inputs: Sequence[tuple[Tensor, ...]]
) -> dict[str, Any]:
    """Measures networks of a run in the runtimes that the options name, beside its dense network, and writes them.

    Args:
        tester: of the run.
        networks: name -> network; with `--bits` a float one is joined by its quantized copy.
        inputs: real ones.
    """
    opt = tester.config
    given = {DENSE: _dense(tester), **_with_bits(tester, networks)}
    single = single_inputs(inputs)
    qualities = {name: cast(Quality, tester.test) for name in given if name != DENSE}
    settings, narrow = _settings(tester), _narrow(tester, networks)
    qualities |= {label: cast(Quality, tester.test) for label in narrow}
    crops = dict.fromkeys(qualities, cropping(tester))
    timing = Timing(threads=opt.threads or 1)
    table = measured(given, single, opt.runtimes, qualities, timing, crops, settings, narrow)
    result = {"run": tester.folders.name, "measured_on": tester.data_facts(), **table.to_dict()}
    write_json(tester.results / FILE, result)
    logger.info("\n%s\nmeasured on %s\n", table_text(result), measured_words(result["measured_on"]))
    for each in warnings_of(result):
        logger.warning("%s", each)
    logger.info("written: %s", tester.results / FILE)
    return result


def single_inputs(inputs: Sequence[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    """The first few samples of minibatches, each for itself."""
    return [tuple(x[i : i + 1] for x in each) for each in inputs for i in range(len(each[0]))][:MOST_SAMPLES]


def measured(
    networks: Mapping[str, nn.Module],
    inputs: Sequence[tuple[Tensor, ...]],
    names: Sequence[str] | None,
    qualities: Mapping[str, Quality],
    timing: Timing,
    cropped: Mapping[str, Cropped],
    settings: ExportSettings | None = None,
    narrow: Mapping[str, tuple[str, ExportSettings]] | None = None,
) -> RuntimeTable:
    """The same of any networks; the first is what times are compared with. `narrow` is that of `measure_runtimes`."""
    chosen = chosen_runtimes(names)
    logger.info("measuring %d networks in %s", len(networks), ", ".join(chosen))
    return measure_runtimes(
        networks, inputs[0], chosen, check_inputs=inputs, quality=qualities, timing=timing, settings=settings,
        narrow=narrow, cropped=cropped,
    )  # fmt: skip


def cropping(tester: TestedApplication) -> Cropped:
    """What evaluates networks on the tester's data, cut to the size of a file's input."""

    def cropped(shape: Sequence[int]) -> tuple[str, Quality] | None:
        found = tester.cropped(shape)
        if found is None:
            return None
        count, total = (sum(1 for _ in each.testing_loader) for each in (found, tester))
        size = " x ".join(map(str, shape[2:]))
        return f"the middle {size} of {count} of {total} images", cast(Quality, found.test)

    return cropped


def _dense(tester: TestedApplication) -> nn.Module:
    return tester.new_network(tester.checkpoint["network"]["arguments"]).eval()


def _narrow(tester: TestedApplication, networks: Mapping[str, nn.Module]) -> dict[str, tuple[str, ExportSettings]]:
    """The networks in the formats that the options name."""
    formats, settings = tester.config.formats or (), _settings(tester)
    return {
        f"{name}, {each}": (name, dataclasses.replace(settings, format=each)) for name in networks for each in formats
    }


def _with_bits(tester: TestedApplication, networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    opt, found = tester.config, dict(networks)
    for name, model in networks.items():
        if opt.bits is not None and not is_quantized(model):
            copy = quantized_copy(tester, model, cast(Bits, opt.bits), opt.calibration)
            found[f"{name}, {opt.bits} bits"] = copy
    return found


def _settings(tester: TestedApplication) -> ExportSettings:
    opt = tester.config
    return ExportSettings(fixed_size=opt.fixed_size, reduce_range=opt.reduce_range, complete=opt.complete)

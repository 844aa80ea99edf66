"""Damaged arrays, CIFAR batches, exported networks, tables and records: read after all, or a UserError."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pandas as pd
import pytest
import torch
import yaml
from onnx import TensorProto, helper
from torch import nn

from apputils.report.records import read_json, read_table
from apputils.runs.folders import recorded_optform
from compress.analysis.activations.statistics import ActivationReport, append_activations
from compress.analysis.sensitivity.changes import find_subjects
from compress.analysis.sensitivity.record import open_record
from compress.errors import UserError
from compress.export.exported_model import ExportedModel, description_of
from compress.export.onnx.export import METADATA
from compress.export.pt2 import export_pt2
from compress.quantization.post_training.statistics_file import read_statistics
from data.Classify_data.convert import convert_cifar
from data.Classify_data.find_dataset import place_layout
from data.Classify_data.formats.cifar import read_batch
from engine.saved.find_checkpoint import load_subject
from tests.fuzz.damage import Damaged, damaged
from tests.fuzz.test_checkpoints import Payload, payloads
from tests.fuzz.watch import fuzz, tiers

ABOUT = {"run": "a", "optform": "SR", "network": {"class": "Net", "arguments": {"upscale_factor": 2}}, "options": {}}


# Arrays ---------------------------------------------------------------------------------------------------------------


def hdf5(**settings: Any) -> bytes:
    """A small set in the hand-sign layout."""
    file = io.BytesIO()
    draw = np.random.default_rng(0)
    with h5py.File(file, "w") as content:
        for part in ("train", "test"):
            content.create_dataset(
                f"{part}_set_x", data=draw.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8), **settings
            )
            content.create_dataset(f"{part}_set_y", data=np.arange(6) % 2)
        content["list_classes"] = np.array([b"cat", b"dog"])
    return file.getvalue()


def npz(save: Callable[..., None]) -> bytes:
    """The same as an archive of arrays."""
    file = io.BytesIO()
    x, y = np.zeros((6, 8, 8, 3), np.uint8), np.arange(6) % 2
    save(file, x_train=x, y_train=y, x_test=x / 255, y_test=y, classes=np.array(["cat", "dog"]))
    return file.getvalue()


ARRAYS = {
    "plain.h5": hdf5(), "packed.h5": hdf5(compression="gzip", chunks=True, shuffle=True, fletcher32=True),
    "plain.npz": npz(np.savez), "packed.npz": npz(np.savez_compressed),
}  # fmt: skip


@tiers(few=40, many=2000)
def test_damaged_arrays(here: Path, examples: int) -> None:
    def work(case: Damaged) -> None:
        (here / case.name).write_bytes(case.content)
        try:
            layout = place_layout(here / case.name)
            for part in ("train", "test"):
                assert layout.open(part).load(0).ndim == 3  # type: ignore[arg-type]
        finally:
            (here / case.name).unlink()

    watched = fuzz(damaged(ARRAYS), examples, work)
    assert watched.read
    assert watched.refused


def test_arrays_that_lie_elsewhere_or_are_absurdly_large_are_refused(here: Path) -> None:
    (here / "secret").write_bytes(bytes(range(192)))
    with h5py.File("other.h5", "w") as file:
        file["train_set_x"] = np.zeros((1, 8, 8, 3), np.uint8)
    for name in ("link", "external", "virtual", "huge", "group", "labels"):
        with h5py.File(f"{name}.h5", "w") as file:
            file["train_set_y"] = np.array([2**62 if name == "labels" else 0])
            if name == "link":
                file["train_set_x"] = h5py.ExternalLink("../../etc/other.h5", "train_set_x")
            elif name == "external":
                place = [("../secret", 0, 192)]
                file.create_dataset("train_set_x", (1, 8, 8, 3), np.uint8, external=place)
            elif name == "virtual":
                layout = h5py.VirtualLayout((1, 8, 8, 3), np.uint8)
                layout[:] = h5py.VirtualSource("other.h5", "train_set_x", (1, 8, 8, 3))
                file.create_virtual_dataset("train_set_x", layout)
            elif name == "huge":
                file.create_dataset("train_set_x", (10**7, 512, 512, 3), np.uint8, chunks=(1, 512, 512, 3))
            elif name == "group":
                file.create_group("train_set_x")
            else:
                file["train_set_x"] = np.zeros((1, 8, 8, 3), np.uint8)
        with pytest.raises(UserError, match=r"no data set in this file|other files|bytes, and at most|labels from"):
            place_layout(here / f"{name}.h5").open("train")


@pytest.mark.parametrize(
    "head", [b"{'descr': '<f8', 'fortran_order': False, ", b"{" * 3000, b"\x00", b"('", b"\xff\xfe"]
)
def test_an_archive_whose_head_is_broken_is_refused(here: Path, head: bytes) -> None:
    with zipfile.ZipFile("a.npz", "w") as archive:
        for name in ("x_train.npy", "y_train.npy"):
            archive.writestr(name, b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
    with pytest.raises(UserError, match=r"a.npz: the arrays cannot be read"):
        place_layout(here / "a.npz").open("train")


def test_an_archive_of_objects_runs_nothing(here: Path) -> None:
    mark = here / "ran"
    np.savez("a.npz", x_train=np.array([Payload(os.mkdir, str(mark))], dtype=object), y_train=np.array([0]))
    with pytest.raises(UserError, match="Object arrays cannot be loaded|allow_pickle"):
        place_layout(here / "a.npz").open("train")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "..", "a\\b"])
def test_names_of_classes_cannot_leave_the_folder(here: Path, name: str) -> None:
    batch = pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0]}, protocol=2)
    (here / "src").mkdir()
    for file in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (here / "src" / file).write_bytes(batch)
    (here / "src" / "batches.meta").write_bytes(pickle.dumps({b"label_names": [name.encode()]}, protocol=2))
    with pytest.raises(UserError, match="cannot be a folder below"):
        convert_cifar(here / "src", here / "out")
    assert sorted(path.name for path in here.iterdir()) == ["src"]


# CIFAR ----------------------------------------------------------------------------------------------------------------

BATCHES = {
    f"protocol{protocol}": pickle.dumps(
        {b"data": np.arange(3072, dtype=np.uint8).reshape(1, -1), b"labels": [3], b"filenames": [b"a.png"]}, protocol
    )
    for protocol in (2, 3, 4, 5)
}


@tiers(few=100, many=4000)
def test_damaged_batches(here: Path, examples: int) -> None:
    def work(case: Damaged) -> None:
        (here / "batch").write_bytes(case.content)
        read_batch(here / "batch")

    watched = fuzz(damaged(BATCHES), examples, work)
    assert watched.read
    assert watched.refused
    assert [path.name for path in here.iterdir()] == ["batch"]


@pytest.mark.parametrize("number", range(8))
def test_a_malicious_batch_is_refused_and_its_payload_does_not_run(here: Path, number: int) -> None:
    mark = here / "ran"
    (here / "batch").write_bytes(pickle.dumps({b"data": payloads(mark)[number]}, protocol=2))
    with pytest.raises(UserError, match="batch is refused: it holds .*, which is neither an array nor plain data"):
        read_batch(here / "batch")
    assert not mark.exists()


def test_a_batch_cannot_change_what_reads_it(here: Path) -> None:
    (here / "batch").write_bytes(b"\x80\x02cnumpy\ndtype\n}X\x0c\x00\x00\x00__defaults__)sb.")
    with pytest.raises(UserError, match="it would change a function"):
        read_batch(here / "batch")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a frame of 2^63 bytes
        b"\x80\x04B\xff\xff\xff\x7f.",  # bytes that are not there
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # the memo's place 2^31
        b"(" * 100_000 + b".",
        b"\x80\x02J\x01.",  # a number that is cut off
        b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86tR.",  # an array of 2^62 values
    ],
)
def test_pickles_that_claim_more_than_they_hold(here: Path, content: bytes) -> None:
    (here / "batch").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as a batch"):
        read_batch(here / "batch")


# Exported networks ----------------------------------------------------------------------------------------------------


def onnx_file(about: Any, *nodes: Any, external: str | None = None) -> bytes:
    """A tiny network y = 2 x for images, with a description."""
    two = helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0])
    if external is not None:
        two.ClearField("float_data")
        two.data_location = TensorProto.EXTERNAL
        two.external_data.add(key="location", value=external)
    shape = ["n", 3, "h", "w"]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["y"]), *nodes],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [two],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    model.metadata_props.add(key=METADATA, value=about if isinstance(about, str) else json.dumps(about))
    return model.SerializeToString()


def pt2_file(folder: Path) -> bytes:
    """The smallest network as a `.pt2` file."""
    file = folder / "small.pt2"
    export_pt2(nn.Conv2d(3, 2, 1), file, torch.zeros(1, 3, 8, 8), description=ABOUT)
    return file.read_bytes()


def run_exported(file: Path) -> None:
    """What `test.py --model FILE` does with it before it measures, and one forward pass."""
    try:
        load_subject(file)
    finally:
        ExportedModel(file, threads=1)(torch.zeros(1, 3, 8, 8))


@tiers(few=40, many=1000)
def test_damaged_onnx_files(here: Path, examples: int) -> None:
    (here / "a.onnx").write_bytes(onnx_file(ABOUT))
    run_exported(here / "a.onnx")

    def work(case: Damaged) -> None:
        (here / "a.onnx").write_bytes(case.content)
        run_exported(here / "a.onnx")

    watched = fuzz(damaged({"a": onnx_file(ABOUT)}), examples, work)
    assert watched.refused


@pytest.mark.slow
def test_damaged_pt2_files(here: Path) -> None:
    whole = pt2_file(here)
    run_exported(here / "small.pt2")

    def work(case: Damaged) -> None:
        (here / "a.pt2").write_bytes(case.content)
        run_exported(here / "a.pt2")

    assert fuzz(damaged({"a": whole}, most=2), 200, work).refused


@pytest.mark.parametrize(
    "about",
    ["[", "[" * 100_000, "3", "[]", {"run": "../x"}, {**ABOUT, "run": "../../x"}, {**ABOUT, "network": 3},
     {**ABOUT, "network": {"class": "x", "arguments": {"a": 10**30}}}, {**ABOUT, "optform": ["SR"]}],
)  # fmt: skip
def test_descriptions_of_exported_files(here: Path, about: Any) -> None:
    (here / "a.onnx").write_bytes(onnx_file(about))
    with pytest.raises(UserError):
        load_subject(here / "a.onnx")


@pytest.mark.parametrize("place", ["../../../../../../etc/passwd", "/etc/passwd", "secret"])
def test_weights_outside_of_an_onnx_file_are_refused(here: Path, place: str) -> None:
    (here / "secret").write_bytes(b"abcd")
    (here / "a.onnx").write_bytes(onnx_file(ABOUT, external=place))
    assert description_of(here / "a.onnx")["run"] == "a"
    with pytest.raises(UserError, match="weights outside of the file"):
        ExportedModel(here / "a.onnx")


def test_an_onnx_file_with_a_loop_is_refused(here: Path) -> None:
    """It could run for ever; none of ours has one."""
    number, go_on, again = (
        helper.make_tensor_value_info(name, kind, [])
        for name, kind in (("i", TensorProto.INT64), ("c", TensorProto.BOOL), ("d", TensorProto.BOOL))
    )
    body = helper.make_graph([helper.make_node("Identity", ["c"], ["d"])], "body", [number, go_on], [again])
    yes = helper.make_node("Constant", [], ["c0"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True]))
    (here / "a.onnx").write_bytes(onnx_file(ABOUT, yes, helper.make_node("Loop", ["", "c0"], [], body=body)))
    assert onnx.load(str(here / "a.onnx")).graph.node
    with pytest.raises(UserError, match="Loop, which could run for ever"):
        ExportedModel(here / "a.onnx")


# Tables and records ---------------------------------------------------------------------------------------------------

ROWS = pd.DataFrame({"epoch": [0, 1], "layer": ["a", "b"], "shape": ["1 x 2", "3"], "mean": [0.5, 1.0]})
STATISTICS = {"conv": {"inputs": {0: {"min": -1.0, "max": 1.0, "mean": 0.0, "std": 0.5}}, "output": {"min": 0.0}}}
TEXTS = {
    "a.csv": ROWS.to_csv(index=False).encode(),
    "a.json": json.dumps({"kind": "x", "weights": {"a": [{"level": 0.5}]}, "dense": {"psnr": 3.0}}).encode(),
    "a.yaml": yaml.safe_dump(STATISTICS).encode(),
}


def _report(net: nn.Module) -> ActivationReport:
    return ActivationReport(pd.DataFrame({"layer": ["a"], "shape": [(1, 2)], "mean": [0.5]}), pd.DataFrame(), {})


@tiers(few=60, many=2000)
def test_damaged_tables_and_records(here: Path, net: nn.Module, examples: int) -> None:
    subjects = find_subjects(net, "element")
    dense = {"psnr": 3.0}
    record = open_record(here / "r.json", net, "element", subjects, dense, True)
    record.save() if hasattr(record, "save") else None
    texts = {**TEXTS, "record.json": json.dumps(record.content).encode()}

    def work(case: Damaged) -> None:
        file = here / case.name
        file.write_bytes(case.content)
        if case.name.endswith(".csv"):
            read_table(file)
            append_activations(_report(net), file, 1)
        elif case.name.endswith(".yaml"):
            assert recorded_optform("a", None) is None
            read_statistics(file, False)
        else:
            read_json(file)
            open_record(file, net, "element", subjects, dense, True)

    watched = fuzz(damaged(texts), examples, work)
    assert watched.refused
    assert watched.read


def test_statistics_that_are_nested_too_deeply(here: Path) -> None:
    (here / "a.yaml").write_text("a: " + "[" * 5000)
    with pytest.raises(UserError, match="model_activation_stats: .* cannot be read"):
        read_statistics(here / "a.yaml", False)

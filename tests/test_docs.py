"""The manual is true: public names have docstrings, YAML examples load, commands parse, the loop on the page runs."""

import importlib
import importlib.util
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import compress
from apputils.checkpoints.file import main as checkpoint_main
from compress.config import file_config
from compress.config.__main__ import main as config_main
from compress.config.families import FAMILIES
from models.C2SRCNN.model import Net
from options import rules
from options.applications import DEFAULT, find_application, named_on_command_line
from options.search_options import SearchOptions

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
NETWORK = re.compile(r"^(?:%|<!--) network: (\S+)(?: -->)?$", re.MULTILINE)


def blocks(language: str) -> list[Any]:
    """Page, line and text of every block in that language, for `parametrize`."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            if match[2] == language:
                line = text.count("\n", 0, match.start()) + 1
                body = "\n".join(row.removeprefix(match[1]) for row in match[3].splitlines()) + "\n"
                found.append(pytest.param(page, body, id=f"{page.name}:{line}"))
    return found


YAML = blocks("yaml")
TOOLS = {  # module with a command line -> what does its work
    "apputils.checkpoints.file": "_network", "data.Classify_data.convert": "convert_cifar",
    "data.Deblur_data.make_pairs": "_made", "compress.analysis.latency_model": "_measured",
}  # fmt: skip
COMMANDS = [
    pytest.param(line, id=line)
    for line in sorted(
        {part.strip() for block in blocks("sh") for line in block.values[1].splitlines() for part in line.split("&&")}
    )
    if line.startswith(("python ", "torchrun "))
]


def network_of(page: Path) -> nn.Module:
    """The network that a page's examples are for: its line `% network: MODULE:NAME`."""
    places = set(NETWORK.findall(page.read_text(encoding="utf-8")))
    assert len(places) == 1, f"{page.name} needs one line `% network: MODULE:NAME`, it has {sorted(places)}"
    module, name = places.pop().split(":")
    network: Callable[[], nn.Module] = getattr(importlib.import_module(module), name)
    return network()


def source_checks() -> ModuleType:
    """docs/_ext/sources.py, which is not a package of ours."""
    spec = importlib.util.spec_from_file_location("manual_sources", DOCS / "_ext" / "sources.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_has_a_docstring() -> None:
    assert source_checks().undocumented() == []


def test_a_missing_docstring_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = source_checks()
    (tmp_path / "compress").mkdir()
    (tmp_path / "compress" / "a.py").write_text('"""A."""\nclass B:\n    def c(self): ...\n    def _d(self): ...\n')
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    assert checks.undocumented() == ["compress/a.py:2: B", "compress/a.py:3: B.c"]
    assert checks.public_names() == {"B": ["compress.a.B"]}


def test_the_number_of_examples_is_known() -> None:
    assert len(YAML) >= 12
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize(("page", "text"), YAML)
def test_every_schedule_in_the_manual_loads_without_a_warning(page: Path, text: str, tmp_path: Path) -> None:
    data = yaml.safe_load(text)
    if "policies" not in data:  # a fragment: its instances get a policy each
        keys = {family.section: family.key for family in FAMILIES}
        entries = [{keys[s]: {"instance_name": name}, "epochs": [0]} for s in keys for name in data.get(s, {})]
        assert entries, f"{page.name}: a yaml block without instances; mark a fragment as `text`"
        text += yaml.safe_dump({"policies": entries})
    path = tmp_path / "example.yaml"
    path.write_text(text, encoding="utf-8")
    model = network_of(page)
    scheduler = file_config(model, torch.optim.Adam(model.parameters(), 1e-3), path, strict=True)
    assert scheduler.policies
    assert scheduler.preview().rows


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_in_the_manual_is_understood(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line.partition(" > ")[0], comments=True)[1:]
    if line.startswith("torchrun "):
        words = words[words.index("--") + 1 :]
    (tmp_path / "my.yaml").write_text("version: 1\n", encoding="utf-8")  # the reader's own schedule
    words = [word.replace("my.yaml", str(tmp_path / "my.yaml")) for word in words]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(rules, "_missing_places", lambda config: [])  # the manual's runs and folders are not here
    for check in ("find_run", "run_to_resume", "check_new_name"):
        monkeypatch.setattr(rules, check, lambda name: None)
    application = find_application(named_on_command_line("--optform", words) or DEFAULT)
    if words[:1] == ["train.py"]:
        application.load("train_options")().parse(words[1:])
    elif words[:1] == ["test.py"]:
        application.load("test_options")().parse(words[1:])
    elif words[:1] == ["search.py"]:
        SearchOptions().parse(words[1:])
    elif words[:2] == ["-m", "compress.config"]:
        assert config_main(words[2:]) == 0
    elif words[:3] == ["-m", "apputils.checkpoints.file", "import"]:
        torch.save(nn.Linear(2, 1), tmp_path / "model.pt")
        monkeypatch.chdir(tmp_path)
        assert checkpoint_main(words[2:]) == 0
        assert set(torch.load("weights.pt", weights_only=True)) == {"weight", "bias"}
    elif words[:1] == ["-m"] and words[1] in TOOLS:  # understood, and its work left out
        module = importlib.import_module(words[1])
        module = importlib.import_module(f"{words[1]}.__main__") if hasattr(module, "__path__") else module
        monkeypatch.setattr(module, TOOLS[words[1]], lambda *given: "done")
        monkeypatch.setattr(module, "COMMANDS", {word: lambda given: "done" for word in words}, raising=False)
        assert module.main(words[2:]) == 0
    elif (found := words[words[0] == "-m"]).startswith("benchmarks"):  # a file, or a module
        assert (ROOT / f"{found.removesuffix('.py').replace('.', '/')}.py").is_file()
    else:
        assert words[:2] in (["-m", "sphinx"], ["-m", "venv"], ["-m", "pytest"]), line


def test_the_loop_of_the_manual_trains_and_prunes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = DOCS / "loops.md"
    (schedule,) = (block.values[1] for block in YAML if block.values[0] == page)
    (loop,) = (
        each.values[1] for each in blocks("python") if each.values[0] == page and "for epoch in" in each.values[1]
    )
    (tmp_path / "schedule.yaml").write_text(schedule, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    model = network_of(page)
    loader = [(torch.randn(4, 3, 6, 6), torch.randint(5, (4,))) for _ in range(2)]
    names: dict[str, Any] = {"model": model, "loader": loader, "criterion": nn.CrossEntropyLoss()}
    exec(loop, names)
    assert 0.45 < names["scheduler"].masks["conv1.weight"].sparsity() < 0.55


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="as-it-stands", marks=pytest.mark.slow),
        pytest.param(
            {
                "models import resnet18": "models.resnet import BasicBlock, ResNet",
                "resnet18(": "ResNet(BasicBlock, [1, 1, 1, 1], ",
                "64, 64": "32, 32",
                "range(2)": "range(1)",
                "epochs=2": "epochs=1",
            },
            id="few-steps",
        ),
    ],
)
def test_the_example_of_the_python_api_trains_thins_quantizes_and_exports(
    changes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example, *_) = (each.values[1] for each in blocks("python") if each.values[0] == DOCS / "python_api.md")
    for old, new in changes.items():
        assert old in example
        example = example.replace(old, new)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["model"].layer1[0].conv1.out_channels == 32
    assert names["report"].mode == "qdq"
    assert (tmp_path / "resnet18_int8.onnx").stat().st_size == names["report"].bytes < 9e6  # of 45 MB in float


def test_the_program_of_the_tutorial_runs_an_exported_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = (each.values[1] for each in blocks("python") if each.values[0] == DOCS / "tutorial.md")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    compress.export_onnx(Net(2), "network_int8.onnx", torch.rand(1, 3, 12, 8))
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    exec(program, {})
    with torch.no_grad():
        wanted = Net(2).eval()  # new networks begin as bicubic, whatever their seed
        image = wanted(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)[0].clamp(0, 1).permute(1, 2, 0)
    found = np.asarray(Image.open("large.png"), dtype=np.float64)
    assert found.shape == (24, 16, 3)
    assert np.abs(found - 255 * image.numpy()).mean() < 3


def test_the_loop_of_the_readme_prunes_thins_and_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (loop,) = (each.values[1] for each in blocks("python") if each.values[0] == ROOT / "README.md")
    assert len(loop.splitlines()) <= 16
    monkeypatch.chdir(tmp_path)
    filters = {"class": "L1RankedStructureParameterPruner", "group_type": "Filters", "desired_sparsity": 0.5,
               "weights": ["0.weight"]}  # fmt: skip
    policies = [{"pruner": {"instance_name": "filters"}, "epochs": [0]}]
    Path("schedule.yaml").write_text(yaml.safe_dump({"pruners": {"filters": filters}, "policies": policies}))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 5))
    images = torch.rand(2, 3, 8, 8)
    names: dict[str, Any] = {"model": model, "images": images, "loader": [(images, torch.tensor([0, 1]))]}
    names |= {"optimizer": torch.optim.SGD(model.parameters(), 0.1), "criterion": nn.CrossEntropyLoss()}
    exec(loop.replace("30", "2"), names)
    assert model[0].out_channels == model[2].in_channels == 4
    assert "network.onnx: float" in capsys.readouterr().out


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$|^\|[^\n]*$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert len(prose.split()) <= 900
    for place in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (ROOT / place).exists(), f"README.md: {place}"


def test_the_page_of_the_python_api_has_every_stated_name() -> None:
    by_subject = source_checks().stated_names("compress")
    assert [name for names in by_subject.values() for name in names] == compress.__all__
    rows = [f"| {subject} | {', '.join(f'`{name}`' for name in names)} |" for subject, names in by_subject.items()]
    table = "\n".join(["| subject | names |", "|---|---|", *rows])  # for readers of the Markdown; the site has more
    page = (DOCS / "python_api.md").read_text(encoding="utf-8")
    assert f"<!-- api: compress -->\n\n{table}\n<!-- end -->" in page, f"docs/python_api.md should have\n{table}"


@pytest.mark.parametrize("package", ["lightning", "transformers"])
def test_the_adapters_shown_are_made(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(package)
    page = DOCS / "loops.md"
    (schedule,) = (block.values[1] for block in YAML if block.values[0] == page)
    (code,) = (each.values[1] for each in blocks("python") if f"compress.integrations.{package}" in each.values[1])
    (tmp_path / "schedule.yaml").write_text(schedule, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    model = network_of(page)
    names: dict[str, Any] = {"Trainer": lambda *given, **named: named, "model": model, "arguments": None, "data": None}
    names["torch"] = torch
    exec(code, names)
    (callback,) = names["trainer"]["callbacks"]
    assert type(callback).__module__ == f"compress.integrations.{package}"
    if package == "lightning":
        scheduler = names["schedule"](model, torch.optim.SGD(model.parameters(), 0.1))
    else:
        scheduler = callback.scheduler
    assert scheduler.scheduled_weights == ["conv1.weight", "conv2.weight", "fc.weight"]


def test_the_pruner_of_the_manual_works() -> None:
    (text,) = (block.values[1] for block in blocks("python") if "class SmallestHalfPruner" in block.values[1])
    names: dict[str, Any] = {"__name__": "manual"}
    exec(text.replace("@PRUNERS.register\n", ""), names)
    weight = torch.arange(8.0)
    mask = names["SmallestHalfPruner"](["w"]).masks({"w": weight}, None, None)["w"]
    assert mask.tolist() == [False] * 4 + [True] * 4


def test_pages_read_on_their_own_show_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    pages = importlib.import_module("pages")
    pages.find_places(DOCS)
    for name, section in (("schedule", "pruners"), ("schedule", "regularizers"), ("learning-rates", "lr_schedulers")):
        table = f"<!-- policy: {section} -->\n\n{pages.policy(section, '')}\n<!-- end -->"
        text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        assert table in text, f"docs/{name}.md: the arguments of the policies of {section} should be\n{table}"
    for page in (DOCS / "schedule.md", DOCS / "loops.md"):
        assert not re.findall(r"\{py:|\{ref\}|\[\]\(|^% ", page.read_text(encoding="utf-8"), re.MULTILINE), page.name


def test_files_that_the_guide_names_are_there() -> None:
    for page in (DOCS / "extend.md", DOCS / "start.md", DOCS / "design.md"):
        for name in re.findall(r"`((?:\w+/)+\w+\.(?:py|md|json))`", page.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file() or "smallest_half" in name, f"{page.name} names {name}"


@pytest.mark.slow
def test_the_manual_builds_without_a_warning(tmp_path: Path) -> None:
    sphinx = pytest.importorskip("sphinx.cmd.build")
    paths, modules = list(sys.path), set(sys.modules)
    try:
        assert sphinx.build_main(["-q", "-W", "-b", "html", str(DOCS), str(tmp_path / "html")]) == 0
    finally:
        sys.path[:] = paths
        for name in set(sys.modules) - modules:
            if name in ("manual", "pages", "sources", "docstrings"):
                del sys.modules[name]
    assert (tmp_path / "html" / "index.html").is_file()

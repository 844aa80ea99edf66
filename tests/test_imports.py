"""What an evaluation does not import: what only other commands and options need."""

import subprocess
import sys

import pytest

UNUSED = {  # module -> who may import it
    "scipy.stats": "the comparison of seeds",
    "skimage.metrics.simple_metrics": "nobody: it imports scipy.stats",
    "engine.commands.compare": "--compare, --benchmark",
    "matplotlib.pyplot": "nobody: figures are made without a display",
    "sklearn": "embedded data and classification",
    "torchvision": "classification and pretrained networks",
    "optuna": "search.py",
}
CODE = """
import sys
import test
from engine.commands.evaluate import evaluate
from options.applications import find_application
find_application("SR").load("tester")
print("\\n".join(name for name in sys.argv[1:] if name in sys.modules))
"""


@pytest.mark.slow
def test_the_evaluation_imports_nothing_that_only_others_need() -> None:
    done = subprocess.run([sys.executable, "-c", CODE, *UNUSED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

"""Settings of the manual: python -m sphinx -W -b html docs doc/html (no network is used)."""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS / "_ext")]

project = "Compression training bench"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "manual"]
exclude_patterns = ["_ext", "_static"]
smartquotes = False  # they would make a dash of the two in `--plan`
html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["manual.css"]
html_copy_source = False
html_show_copyright = False

# A broken reference fails the build. Names of other projects cannot be looked up without the network.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!(compress|apputils)\.).*"), (r"py:.*", r".*\.([A-Z]|_\w+)")]
# the second: TypeVars, and private bases of public classes

toc_object_entries = False  # with it each of the 700 pages copies the names of all others: five minutes instead of one
myst_heading_anchors = 3
suppress_warnings = ["misc.highlighting_failure"]  # an excerpt with `...` in it is not Python

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_mock_imports = ["lightning", "pytorch_lightning", "transformers"]  # optional
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

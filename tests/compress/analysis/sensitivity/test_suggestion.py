"""Sensitivity by filter on a quantized network, and the notebook's suggestion: what cannot leave stays dense."""

from pathlib import Path
from typing import Any

import pytest
import torch

from apputils.notebook import suggested_levels
from compress.analysis.sensitivity.analysis import sensitivity_analysis
from compress.quantization.lsq import LSQQuantizer
from compress.quantization.pact import PACTQuantizer
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer as Qat
from tests.compress.harness import tiny_net

X = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def analysed(net: torch.nn.Module, folder: Path) -> Any:
    with torch.no_grad():
        dense = net(X)
        return sensitivity_analysis(net, folder / "s.xlsx", lambda n: -float((n(X) - dense).norm()), "filter", [0.5])


@pytest.mark.parametrize(
    ("cls", "settings"), [(Qat, {"fold_batchnorm": True}), (LSQQuantizer, {}), (PACTQuantizer, {})]
)
def test_filters_of_a_quantized_network_go_with_what_they_go_with_in_the_float_one(
    cls: Any, settings: dict[str, Any], tmp_path: Path, caplog: Any
) -> None:
    wanted = analysed(tiny_net().eval(), tmp_path)
    net = tiny_net()
    quantizer = cls(8, 8, example_inputs=X, **settings)
    quantizer.prepare(net, torch.optim.SGD(net.parameters(), 0.1))
    quantizer.convert(net)
    net.train()(X)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    caplog.clear()
    found = analysed(net.eval(), tmp_path / "quantized")
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert found[["weight", "level", "zeros", "members"]].equals(wanted[["weight", "level", "zeros", "members"]])
    assert found.attrs["pinned"] == ["fc.weight"]
    assert not [record for record in caplog.records if "conv1.weight: masked in place" in record.getMessage()]


def test_the_notebooks_suggestion_leaves_the_last_layer_dense(tmp_path: Path) -> None:
    table = analysed(tiny_net().eval(), tmp_path)
    found = suggested_levels(table, "quality", 1e9, "filter")["level"]
    assert found.to_dict() == {"conv1.weight": 0.5, "conv2.weight": 0.5, "fc.weight": 0.0}

"""Intermediate outputs in a file: the network's own numbers, readable without pickle."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compress.analysis.activations.features import chosen_layers, dump_features
from compress.errors import UserError
from tests.compress.harness import tiny_net

BATCHES = [(torch.randn(4, 3, 6, 6), torch.arange(4)), (torch.randn(4, 3, 6, 6), torch.arange(4, 8))]


def test_the_arrays_are_the_layers_outputs_in_eval_mode(tmp_path: Path) -> None:
    net = tiny_net().train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    shapes = dump_features(net, ["relu1", "fc"], BATCHES, 6, tmp_path / "out.npz")
    assert shapes["relu1"] == [(8, 6, 6)] * 6
    assert net.training
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    found = np.load(tmp_path / "out.npz", allow_pickle=False)
    all_images = torch.cat([images for images, _ in BATCHES])[:6]
    net.eval()
    np.testing.assert_allclose(found["relu1"], net[:3](all_images).detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["fc"], net(all_images).detach().numpy(), rtol=1e-5, atol=1e-6)
    assert found["labels"].tolist() == [0, 1, 2, 3, 4, 5]
    assert sorted(found.files) == ["fc", "labels", "relu1"]
    assert list(tmp_path.iterdir()) == [tmp_path / "out.npz"]


def test_images_of_different_sizes_have_arrays_of_their_own(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 1))
    all_images = [(torch.randn(1, 3, size, size), None) for size in (4, 5)]
    dump_features(net, ["0"], all_images, 200, tmp_path / "out.npz")
    found = np.load(tmp_path / "out.npz", allow_pickle=False)
    assert {name: found[name].shape for name in found.files} == {"0/00000": (2, 4, 4), "0/00001": (2, 5, 5)}


def test_layers_by_name_and_pattern() -> None:
    net = tiny_net()
    assert chosen_layers(net, "fc, conv?") == ["fc", "conv1", "conv2"]
    with pytest.raises(UserError, match="'conf1' matches no layer of this network; did you mean 'conv1'"):
        chosen_layers(net, "conf1")
    with pytest.raises(UserError, match=r"needs --layers=NAME,NAME...; there are: conv1, bn1"):
        chosen_layers(net, None)


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is of the kind .npz"):
        dump_features(tiny_net(), ["fc"], BATCHES, 1, tmp_path / "out.h5")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        dump_features(tiny_net(), ["fc"], BATCHES, 1, tmp_path / "file" / "out.npz")

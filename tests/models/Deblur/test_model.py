"""DeblurGAN's networks against the paper's sizes."""

import pytest
import torch
from torch import nn

from models.Deblur.model import Discriminator, Generator
from options.Deblur_options.train_options import TrainOptions
from tests.models.Deblur.conftest import DeblurrerOf

# Kupyn et al. 2018, section 4.1: a 7 x 7 layer, two strided, nine blocks of two, two transposed, a 7 x 7 layer
PAPER = [(3, 64, 7), (64, 128, 3), (128, 256, 3), *[(256, 256, 3)] * 18, (256, 128, 3), (128, 64, 3), (64, 3, 7)]


def paper_networks() -> tuple[Generator, Discriminator]:
    config = TrainOptions().parse(["--optform=Deblur", "--preset=paper"])
    sizes = {"ngf": config.ngf, "blocks": config.blocks, "norm": config.norm, "halvings": config.halvings}
    with torch.device("meta"):  # shapes alone
        return Generator(kind=config.arch, dropout=config.dropout, **sizes), Discriminator(config.ndf)


def test_the_papers_generator() -> None:
    generator, _ = paper_networks()
    layers = [each for each in generator.modules() if isinstance(each, nn.Conv2d | nn.ConvTranspose2d)]
    assert [(each.in_channels, each.out_channels, each.kernel_size[0]) for each in layers] == PAPER
    count = sum(parameter.numel() for parameter in generator.parameters())
    assert count == sum(a * b * side**2 + b for a, b, side in PAPER) == 11_378_179
    assert sum(isinstance(each, nn.InstanceNorm2d) for each in generator.modules()) == 23  # all layers but the last
    assert [each.p for each in generator.modules() if isinstance(each, nn.Dropout)] == [0.5] * 9


def test_the_papers_discriminator_sees_patches_of_70() -> None:
    _, critic = paper_networks()
    layers = [each for each in critic.modules() if isinstance(each, nn.Conv2d)]
    assert [each.out_channels for each in layers] == [64, 128, 256, 512, 1]
    assert sum(parameter.numel() for parameter in critic.parameters()) == 2_764_737
    seen = 1
    for layer in reversed(layers):
        seen = (seen - 1) * layer.stride[0] + layer.kernel_size[0]
    assert seen == 70


def test_dropout_is_for_training_alone() -> None:
    generator = Generator(4, 2, norm="instance", dropout=0.5)
    nn.init.normal_(generator.last[1].weight)
    image = torch.rand(1, 3, 16, 16)
    assert not torch.equal(generator(image), generator(image))
    generator.eval()
    assert torch.equal(generator(image), generator(image))


@pytest.mark.slow  # a minute
def test_the_papers_configuration_trains_two_steps(deblurrer_of: DeblurrerOf) -> None:
    """Sizes, crops and losses are the paper's (without VGG19's weights, the content loss says so)."""
    sizes = ["--ngf=64", "--blocks=9", "--ndf=64", "--patch-size=256", "--batchSize=1", "--blur-length=60"]
    trainer = deblurrer_of("--preset=paper", *sizes, "--samples=2", "--run=a")
    trainer.build()
    before = trainer.model.blocks[4].conv1.weight.detach().clone()
    losses = trainer.train(0, trainer.compression_scheduler)
    assert trainer.model.arguments == {
        "ngf": 64, "blocks": 9, "kind": "resnet", "norm": "instance", "halvings": 2, "dropout": 0.5,
    }  # fmt: skip
    assert trainer.critic_steps == 5
    assert set(losses) >= {"content", "adversarial", "critic"}
    assert all(torch.isfinite(torch.tensor(value)) for value in losses.values())
    assert not torch.equal(trainer.model.blocks[4].conv1.weight, before)

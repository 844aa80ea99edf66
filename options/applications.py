"""The table of applications: what `--optform` may be, and where each application's parts are.

The table and its look-ups. To add one: a folder in options/, data/ and models/, and one entry in `APPLICATIONS`. Parts
are imported when they are used, so that `--help` needs no torch. docs/add_an_application.md shows all of it.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from apputils.runs.lasting_imports import lasting_imports
from compress.errors import UserError
from options.own_network import Named

DEFAULT = "SR"


@dataclass(frozen=True)
class Application:
    """Where the parts of an application are, each as `module:name`.

    Attributes:
        name: the value of `--optform`.
        purpose: one line of help.
        train_options: class with `parse(arguments)`.
        test_options: the same for `test.py`.
        training_loaders: function of the options -> (training loader, validation loader).
        testing_loader: function of the test options and the checkpoint -> testing loader.
        trainer: class(config, training_loader, validation_loader) with `run()`.
        tester: class(config, testing_loader, checkpoint) with `run()`.
        network: what makes a network of the arguments that a checkpoint keeps.
        architectures: the `Zoo` of an application with several networks.
        named: what that has, so that a mistyped `--arch` is refused before torch is imported.
    """

    name: str
    purpose: str
    train_options: str
    test_options: str
    training_loaders: str
    testing_loader: str
    trainer: str
    tester: str
    network: str
    architectures: str = ""
    named: Named | None = None

    def load(self, part: str) -> Any:
        """The object behind a part, such as `load("trainer")`."""
        module, name = getattr(self, part).split(":")
        if module not in sys.modules:
            with lasting_imports():
                importlib.import_module(module)
        return getattr(sys.modules[module], name)


APPLICATIONS = {
    application.name: application
    for application in (
        Application(
            name="SR",
            purpose="super-resolution of photographs (C2SRCNN, EDSR, ...)",
            train_options="options.Normal_options.train_options:TrainOptions",
            test_options="options.Normal_options.test_options:TestOptions",
            training_loaders="data.loaders:sr_training_loaders",
            testing_loader="data.loaders:sr_testing_loader",
            trainer="models.C2SRCNN.solver:C2SRCNNTrainer",
            tester="models.SR.tester:XSRCNNTester",
            network="models.SR.zoo:ZOO",
            architectures="models.SR.zoo:ZOO",
            named=Named(
                "c2srcnn srcnn fsrcnn espcn edsr_baseline imdn ecbsr plainsr",
                ("spandrel",),
            ),
        ),
        Application(
            name="Classify",
            purpose="classification of images (lenet5, resnet20, torchvision:NAME, ...)",
            train_options="options.Classify_options.train_options:TrainOptions",
            test_options="options.Classify_options.test_options:TestOptions",
            training_loaders="data.Classify_data.loaders:classify_training_loaders",
            testing_loader="data.Classify_data.loaders:classify_testing_loader",
            trainer="models.Classify.solver:ClassifyTrainer",
            tester="models.Classify.tester:ClassifyTester",
            network="models.Classify.zoo:build_network",
            architectures="models.Classify.zoo:ZOO",
            named=Named(
                "alexnet alexnet_bn alexnet_bn_dorefa lenet5 mobilenet plain20 preact_resnet20 resnet8 "
                "resnet20 resnet32 resnet44 resnet56 resnet110 resnet_signs simplenet simplenet_mnist "
                "studentnet vgg16_named vgg6_named vgg_cifar preact_resnet20_cifar "
                "preact_resnet20_cifar_conv_ds preact_resnet32_cifar preact_resnet32_cifar_conv_ds "
                "preact_resnet44_cifar preact_resnet44_cifar_conv_ds preact_resnet56_cifar "
                "preact_resnet56_cifar_conv_ds preact_resnet110_cifar preact_resnet110_cifar_conv_ds "
                "vgg11_cifar vgg11_bn_cifar vgg13_cifar vgg13_bn_cifar vgg16_cifar vgg16_bn_cifar "
                "vgg19_cifar vgg19_bn_cifar",
                ("torchvision", "timm"),
            ),
        ),
        Application(
            name="Deblur",
            purpose="deblurring of photographs (DeblurGAN, NAFNet, ...)",
            train_options="options.Deblur_options.train_options:TrainOptions",
            test_options="options.Deblur_options.test_options:TestOptions",
            training_loaders="data.Deblur_data.loaders:deblur_training_loaders",
            testing_loader="data.Deblur_data.loaders:deblur_testing_loader",
            trainer="models.Deblur.solver:DeblurTrainer",
            tester="models.restoration.tester:RestorationTester",
            network="models.Deblur.networks:build_networks",
            architectures="models.Deblur.zoo:ZOO",
            named=Named(
                "resnet mobile unet nafnet",
                ("spandrel",),
            ),
        ),
        Application(
            name="Restore",
            purpose="restoration of noisy, compressed or blurred photographs",
            train_options="options.Restore_options.train_options:TrainOptions",
            test_options="options.Restore_options.test_options:TestOptions",
            training_loaders="models.Restore.solver:restore_training_loaders",
            testing_loader="models.Restore.solver:restore_testing_loader",
            trainer="models.Restore.solver:RestoreTrainer",
            tester="models.Restore.tester:RestoreTester",
            network="models.Restore.zoo:ZOO",
            architectures="models.Restore.zoo:ZOO",
            named=Named(
                "c2srcnn srcnn fsrcnn espcn edsr_baseline imdn ecbsr plainsr resnet mobile unet nafnet",
                ("spandrel",),
            ),
        ),
    )
}


def find_application(name: str) -> Application:
    """The application of that name.

    Raises:
        UserError: there is none; those that exist are listed.
    """
    if name not in APPLICATIONS:
        known = ", ".join(f"{each.name} ({each.purpose})" for each in APPLICATIONS.values())
        raise UserError(f"unknown application {name!r}; --optform is one of {known}")
    return APPLICATIONS[name]


def application_on_command_line(otherwise: str | None = None) -> Application:
    """The application of `--optform`; where that is not given, the one called `otherwise`, or the default.

    Raises:
        UserError: there is no such application.
    """
    named = named_on_command_line("--optform")
    return find_application((otherwise or DEFAULT) if named is None else named)


def named_on_command_line(option: str, arguments: Sequence[str] | None = None) -> str | None:
    """The value of an option among the arguments (sys.argv's by default), None if it is not there."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for word, following in zip(words, [*words[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if name == option:
            return value if equals else following
    return None

"""Training of DeblurGAN: what a conditional GAN adds to the shared loop.

Both networks, the discriminator's updates, losses and metric.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compress.config.loader import load_text
from compress.distributed import average
from compress.errors import ScheduleError, UserError
from compress.io.files import read_text
from engine.architectures.chosen import ChosenArchitecture
from engine.architectures.zoo import arguments_of
from engine.state import Companion
from models.Deblur.losses import ADVERSARIAL, GRADIENT_PENALTY, Adversarial, content_loss, effective, gradient_penalty
from models.Deblur.model import Discriminator
from models.Deblur.networks import Networks, prefixes_of
from models.Deblur.zoo import OPTIONS, ZOO
from models.restoration.quality import Quality
from models.restoration.solver import RestorationTrainer
from options.Deblur_options.train_options import DeblurTrainConfig

logger = logging.getLogger("run")
CRITIC_BETAS = (0.5, 0.999)  # of Adam, usual for discriminators (Radford et al. 2016, arXiv 1511.06434)
QUALITY = Quality("blurred")


class DeblurTrainer(ChosenArchitecture, RestorationTrainer):
    """Trains a generator against a discriminator; the metric is PSNR (dB) of RGB on whole validation images."""

    image_quality = QUALITY
    zoo = ZOO
    setting_options = OPTIONS
    optimizer_name = "netG"
    default_epochs = 12

    config: DeblurTrainConfig
    content: Any
    adversarial: Adversarial
    critic_steps: int
    prefixes: frozenset[str] = frozenset()  # of the schedule's names

    def build(self, checkpoint: dict[str, Any] | None = None) -> None:
        """See `BaseTrainer`; the schedule's names decide which networks it sees."""
        self.prefixes = frozenset(prefixes_of(self._schedule(checkpoint)))
        self.adversarial = ADVERSARIAL[self.config.gan]
        self.critic_steps = self.config.critic_steps or self.adversarial.critic_steps
        self.content = self._content(checkpoint)  # now: a wrong --vgg-weights is reported before training starts
        super().build(checkpoint)

    def build_model(self) -> nn.Module:
        """A new generator, or `Networks` where the schedule tells the two apart."""
        generator = super().build_model()
        if not self.prefixes:
            return generator
        return Networks(arguments_of(generator), {"ndf": self.config.ndf} if "netD" in self.prefixes else None)

    def arguments_in(self, checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
        """The generator's, also of `Networks`."""
        arguments = super().arguments_in(checkpoint)
        generator: Mapping[str, Any] = arguments.get("netG", arguments)
        return generator

    def given(self) -> dict[str, Any]:
        """Nothing: images keep their size."""
        return {}

    def start_model(self, model: nn.Module) -> None:
        """`--weights`, of the generator."""
        super().start_model(model.netG if isinstance(model, Networks) else model)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Adam of the generator."""
        generator = model.netG if isinstance(model, Networks) else model
        return torch.optim.Adam(generator.parameters(), lr=self.config.lr)

    def build_companions(self) -> dict[str, Companion]:
        """The discriminator, `netD`, with its Adam."""
        inside = self.model.netD if isinstance(self.model, Networks) else None
        critic = inside if inside is not None else Discriminator(self.config.ndf).to(self.device)
        return {"netD": Companion(critic, torch.optim.Adam(critic.parameters(), lr=self.config.lr, betas=CRITIC_BETAS))}

    def task_facts(self) -> dict[str, Any]:
        """The files, and the content loss that is trained with."""
        return {**super().task_facts(), "content": effective(self.content)}

    def _content(self, checkpoint: dict[str, Any] | None) -> Any:
        """The content loss, of (restored, sharp): a resumed run's own, whatever VGG19's weights did in between.

        Raises:
            UserError: VGG19's weights are damaged, or were there and are not any more.
        """
        name, own = self.config.content, checkpoint["task"].get("content") if checkpoint is not None else None
        if own == "l1-ssim" and name != own:
            logger.info("the content loss stays L1 + SSIM: VGG19's weights were not there when the run began")
            name = own
        content = content_loss(name, self.config.vgg_weights, self.device)
        if own is not None and effective(content) != own:
            raise UserError(
                "the run was trained with --content=perceptual, and VGG19's weights are not there any more; put them "
                "back, or start a new run. Nothing was changed"
            )
        return content

    def compute_loss(self, batch: Any) -> Tensor:
        """Updates the discriminator on the batch, then gives the generator's loss: content and adversarial."""
        blurred, sharp = self.on_device(batch)
        restored = self.forward(blurred)
        content = self.content(restored, sharp)
        if self.config.adversarial == 0:
            return content
        critic = self.companions["netD"].network
        for _ in range(self.critic_steps):
            self._update_critic(sharp, restored.detach())
        critic.requires_grad_(False)
        adversarial = self.adversarial.generator(critic(restored))
        critic.requires_grad_(True)
        self.note_loss("content", content)
        self.note_loss("adversarial", adversarial)
        return content + self.config.adversarial * adversarial

    def loss_to_measure(self, batch: Any) -> Tensor:
        """The content loss: the adversarial one comes with an update of the discriminator."""
        blurred, sharp = self.on_device(batch)
        loss: Tensor = self.content(self.forward(blurred), sharp)
        return loss

    def _update_critic(self, sharp: Tensor, restored: Tensor) -> None:
        critic, optimizer = self.companions["netD"]
        loss = self.adversarial.critic(critic(sharp), critic(restored))
        if self.adversarial.penalised:
            loss = loss + GRADIENT_PENALTY * gradient_penalty(critic, sharp, restored)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average([each.grad for each in critic.parameters() if each.grad is not None])
        optimizer.step()
        self.note_loss("critic", loss)
        self.compression_scheduler.masks.after_step("netD.")  # pruned weights of netD: momentum moved them

    def _schedule(self, checkpoint: dict[str, Any] | None) -> Any:
        """The schedule as plain data; what is wrong with it is reported when it is built."""
        if checkpoint is not None and not self.config.reset_schedule:
            return checkpoint["schedule"]
        if self.config.compress is None:
            return None
        try:
            return load_text(read_text(self.config.compress), self.config.compress).data
        except (OSError, UnicodeDecodeError, ScheduleError):
            return None

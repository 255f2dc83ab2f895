"""What a training for any painting minimises, for either kind of network.

Compact: total = content_weight · content + style_weight · style + tv_weight · tv + motion_weight · motion
               + identity_weight · identity + hint_weight · hint

The first four are those of `train.py`, with a painting of its own for every photograph. `identity` is the mean squared
error of the photograph that a style of zeros gives back, in units of a [0, 1] picture; without it alpha 0 would be no
photograph. `hint` asks the style encoder's description of a painting to foretell the loss network's own statistics of
it, by a linear layer that is thrown away: the encoder learns to see textures long before the stylizer can use what it
says.

Reference: Huang and Belongie 2017, equations 11 to 13: content is the distance of the painting's features at relu4_1 to
the target t that AdaIN made, style that of means and deviations at four layers. Relative to the targets' own energy,
unlike the paper's, so that its λ of 10 means something for VGGs of any scale; with our steadiness term if asked for.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from .adain_config import AdainTrainConfig
from .adain_losses import hint_loss, statistics_loss, style_distances, tempered
from .adain_networks import CompactNetworks, mean_and_deviation
from .adain_reference import ENCODER_LAYER, STATISTICS_LAYERS, AdainNetworks, ReferenceNetworks
from .balance import StyleBalance
from .checkpoint import Checkpoint
from .errors import TrainingError
from .instance_norm import InstanceNorm
from .loop import MEMORY_FORMAT, Process
from .loss_network import CONTENT_LAYER, STYLE_LAYERS, LossNetwork
from .losses import content_loss, gram_matrix, total_variation_loss
from .motion import Motion, MotionRange, disturb, motion_loss, random_motion
from .quality import structure_kept_of_batch

Terms = dict[str, Tensor]


class Objective(Protocol):
    """What the training loop needs to know of a kind of network."""

    @property
    def networks(self) -> AdainNetworks:
        """What is saved."""

    model: nn.Module
    """Everything that learns, behind one forward call, as DistributedDataParallel wants it."""

    def terms(self, model: nn.Module, batch: "Batch") -> tuple[Terms, Terms]:
        """Losses to minimise, and figures to show, of one batch."""

    def weights(self, losses: Mapping[str, float], step: int) -> Mapping[str, float]:
        """What to multiply each term with, given the losses of the whole batch."""

    style_weight: float
    """In force now; part of what a resumed run needs."""


@dataclass(frozen=True)
class Batch:
    """A process' share of photographs and paintings, (N, 3, S, S) in [0, 255], and of half of the photographs moved."""

    photos: Tensor
    paintings: Tensor
    inputs: Tensor
    """The photographs, then the moved ones."""
    motion: Motion | None
    motion_share: float = 1.0
    """What this process' value of the term counts, so that the mean over all is that of one that has it all."""

    @classmethod
    def of(
        cls, photos: Tensor, paintings: Tensor, generator: torch.Generator, process: Process, *, move: bool
    ) -> "Batch":
        """Of the whole batch, (N, 3, S, S) each, for which the motion is drawn in every process.

        Half of the pictures are moved: the term costs as much again as the pictures that it is computed on.
        """
        own, styles = process.share(photos), process.share(paintings)
        if not move:
            return cls(own, styles, own, None)
        limits, moved = MotionRange(), photos[: (len(photos) + 1) // 2].to(process.device, memory_format=MEMORY_FORMAT)
        whole = Motion(random_motion(moved.shape, generator, limits).grid.to(process.device))
        disturbed = process.share(disturb(whole.warp(moved).cpu(), generator, limits))
        motion = Motion(whole.grid[process.rank :: process.world])
        counted = motion.inside().sum().item() * process.world / max(1.0, whole.inside().sum().item())
        return cls(own, styles, torch.cat([own, disturbed]), motion, counted)

    def motion_term(self, stylized: Tensor) -> Terms:
        """Of the answers to `inputs`."""
        if self.motion is None:
            return {}
        count, moved = len(self.photos), len(self.inputs) - len(self.photos)
        return {"motion": self.motion_share * motion_loss(stylized[:moved], stylized[count:], self.motion)}


class CompactObjective:
    """Stylizer and style encoder, end to end."""

    def __init__(
        self,
        config: AdainTrainConfig,
        loss_network: LossNetwork,
        photographs: Tensor,
        earlier: Checkpoint | None = None,
    ) -> None:
        """`photographs`: (N, 3, S, S) in [0, 255], what a warm start with the style `earlier` is measured on."""
        self._config, self._loss_network = config, loss_network
        networks = CompactNetworks(config.network)
        self.networks: AdainNetworks = networks
        if earlier is not None:
            begin_with(networks, earlier, photographs)
        with torch.no_grad():
            probe = photographs[:1].to(loss_network.device)
            sizes = [x.shape[1] for x in loss_network(probe, STYLE_LAYERS).values()]
        self.model: nn.Module = _CompactModel(networks, 2 * sum(sizes))
        self._balance = StyleBalance(
            config.structure, config.content_weight, config.style_weight, weight=_FIRST_STYLE_WEIGHT
        )

    @property
    def style_weight(self) -> float:
        return self._balance.weight

    @style_weight.setter
    def style_weight(self, weight: float) -> None:
        self._balance.weight = weight

    def terms(self, model: nn.Module, batch: Batch) -> tuple[Terms, Terms]:
        with torch.no_grad():
            wanted = self._loss_network(batch.photos, {CONTENT_LAYER})
            painted = self._loss_network(batch.paintings, STYLE_LAYERS)
            targets = {name: gram_matrix(painted[name]) for name in STYLE_LAYERS}
        untouched = batch.photos[-((len(batch.photos) + 1) // 2) :]
        stylized_all, reconstructed, hints = model(batch.inputs, batch.paintings, untouched)
        stylized = stylized_all[: len(batch.photos)]
        features = self._loss_network(stylized, {*STYLE_LAYERS, CONTENT_LAYER})
        distances = style_distances({name: gram_matrix(features[name]) for name in STYLE_LAYERS}, targets)
        terms = {
            "content": content_loss(features[CONTENT_LAYER], wanted[CONTENT_LAYER]),
            "style": tempered(distances, self._config.style_knee),
            "tv": total_variation_loss(stylized),
            "identity": functional.mse_loss(reconstructed.float(), untouched) / 255**2,
            "hint": hint_loss(hints, description_target(painted)),
            **batch.motion_term(stylized_all),
        }
        structure = torch.tensor(structure_kept_of_batch(batch.photos, stylized), device=stylized.device)
        return terms, {"distance": distances.detach().median(), "structure": structure}

    def weights(self, losses: Mapping[str, float], step: int) -> Mapping[str, float]:
        config = self._config
        style_weight = self._balance.update(
            content=losses["content"], style=losses["style"], structure=losses["structure"],
            step=step, steps=config.steps,
        )  # fmt: skip
        return {
            "content": config.content_weight, "style": style_weight, "tv": config.tv_weight,
            "motion": config.motion_weight, "identity": config.identity_weight, "hint": config.hint_weight,
        }  # fmt: skip


class ReferenceObjective:
    """The decoder of Huang and Belongie's network; its VGG is the loss network."""

    def __init__(self, config: AdainTrainConfig, loss_network: LossNetwork) -> None:
        self._config, self._loss_network = config, loss_network
        networks = ReferenceNetworks.of(loss_network)
        self.networks: AdainNetworks = networks
        self.model: nn.Module = _ReferenceModel(networks)
        self.style_weight = float(config.style_weight or 0.0)

    def terms(self, model: nn.Module, batch: Batch) -> tuple[Terms, Terms]:
        with torch.no_grad():
            painted = self._loss_network(batch.paintings, STYLE_LAYERS)
        stylized_all, target = model(batch.inputs, batch.paintings)
        stylized, target = stylized_all[: len(batch.photos)], target[: len(batch.photos)].detach()
        features = self._loss_network(stylized, STYLE_LAYERS)
        terms = {
            "content": content_loss(features[ENCODER_LAYER], target),
            "style": statistics_loss(
                [features[name] for name in STATISTICS_LAYERS], [painted[name] for name in STATISTICS_LAYERS]
            ),
            "tv": total_variation_loss(stylized),
            **batch.motion_term(stylized_all),
        }
        with torch.no_grad():
            distances = style_distances(
                {name: gram_matrix(features[name]) for name in STYLE_LAYERS},
                {name: gram_matrix(painted[name]) for name in STYLE_LAYERS},
            )
        structure = torch.tensor(structure_kept_of_batch(batch.photos, stylized), device=stylized.device)
        return terms, {"distance": distances.median(), "structure": structure}

    def weights(self, losses: Mapping[str, float], step: int) -> Mapping[str, float]:
        config = self._config
        return {
            "content": config.content_weight, "style": self.style_weight, "tv": config.tv_weight,
            "motion": config.motion_weight,
        }  # fmt: skip


class _CompactModel(nn.Module):
    def __init__(self, networks: CompactNetworks, num_statistics: int) -> None:
        super().__init__()
        self.networks = networks
        self.to_hints = nn.Linear(networks.config.hidden, num_statistics)

    def forward(self, photos: Tensor, paintings: Tensor, untouched: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Photographs with a painting each, the first of them again for photographs beyond their number; photographs
        to give back."""
        encoder = self.networks.encoder
        description = encoder.describe(paintings)
        style = encoder.style_of(paintings, description)
        style = torch.cat([style, style[: len(photos) - len(paintings)]])
        stylized = self.networks.stylizer(photos, style)
        return stylized, self.networks.stylizer.reconstruct(untouched), self.to_hints(description)


class _ReferenceModel(nn.Module):
    def __init__(self, networks: ReferenceNetworks) -> None:
        super().__init__()
        self.networks = networks

    def forward(self, photos: Tensor, paintings: Tensor) -> tuple[Tensor, Tensor]:
        """As `_CompactModel`; the pictures and t."""
        with torch.no_grad():
            style = self.networks.encoder(paintings)
            style = torch.cat([style, style[: len(photos) - len(paintings)]])
            target = self.networks.stylizer.target(photos, style)
        return self.networks.stylizer.decoder(target), target


def description_target(features: Mapping[str, Tensor]) -> Tensor:
    """(N, S): means and deviations of all style layers, each layer divided by its own usual size so that all count."""
    parts = []
    for name in STYLE_LAYERS:
        mean, deviation = mean_and_deviation(features[name])
        both = torch.cat([mean, deviation], dim=1)
        parts.append(both / both.square().mean().sqrt().clamp_min(1e-6) / math.sqrt(both.shape[1]))
    return torch.cat(parts, dim=1)


_FIRST_STYLE_WEIGHT = 5.0  # the middle of what single styles end with, 2 to 14


def begin_with(networks: CompactNetworks, fast: Checkpoint, photographs: Tensor) -> None:
    """Take over the convolutions of a fast-tier style, and its normalisations as the first style of all paintings.

    Where the compact stylizer has no normalisation, what the style's did to these photographs on average is folded
    into the convolution before it: y = (x - mean) / deviation · weight + bias.

    Args:
        photographs: (N, 3, H, W) in [0, 255].

    Raises:
        TrainingError: no fast-tier style of this width and depth.
    """
    wanted = networks.config
    if (fast.config.architecture, fast.config.width, fast.config.blocks) != ("fast", wanted.width, wanted.blocks):
        raise TrainingError(
            f"warm start must be a fast-tier style of width {wanted.width} with {wanted.blocks} blocks, "
            f"got a {fast.config}"
        )
    network: Any = fast.build()  # its parts are known, but not to the type checker
    stylizer: Any = networks.stylizer
    moments: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def remember(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        mean, deviation = mean_and_deviation(inputs[0])
        moments[norm] = mean.mean(dim=0), deviation.square().mean(dim=0).sqrt()

    norms = [module for module in network.modules() if isinstance(module, InstanceNorm)]
    hooks = [norm.register_forward_pre_hook(remember) for norm in norms]
    with torch.no_grad():
        network(photographs)
        for hook in hooks:
            hook.remove()
        for ours, theirs, norm in zip(stylizer.down, network.down, network.down_norm, strict=True):
            _take_folded(ours, theirs, norm, *moments[norm])
        for ours_up, theirs_up, norm in zip(stylizer.up, network.up, network.up_norm, strict=True):
            _take_folded(ours_up.conv, theirs_up.conv, norm, *moments[norm])
        stylizer.to_rgb.load_state_dict(network.to_rgb.state_dict())
        style = [*torch.split(stylizer.neutral_style(), list(stylizer.style_sizes))]
        for index, (ours_block, theirs_block) in enumerate(zip(stylizer.body, network.body, strict=True)):
            ours_block.load_state_dict(
                {name: value for name, value in theirs_block.state_dict().items() if name.startswith("conv")}
            )
            norm1, norm2 = theirs_block.norm1, theirs_block.norm2
            style[3 + 4 * index : 7 + 4 * index] = [norm1.weight, norm1.bias, norm2.weight, norm2.bias]
        networks.encoder.to_style.bias.copy_(torch.cat(style))


def _take_folded(ours: nn.Conv2d, theirs: nn.Conv2d, norm: InstanceNorm, mean: Tensor, deviation: Tensor) -> None:
    factor = norm.weight / deviation
    ours.weight.copy_(theirs.weight * factor[:, None, None, None])
    if ours.bias is not None and theirs.bias is not None:
        ours.bias.copy_((theirs.bias - mean) * factor + norm.bias)

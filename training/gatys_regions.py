"""Spatial control: which region of the picture looks at which region of which painting, as terms of the objective."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .data import Picture
from .errors import TrainingError
from .gatys_config import GatysConfig
from .gatys_masks import Color, Regions, Weights, find_regions, match_regions, name_color, soft_weights
from .gatys_objective import StyleTerm
from .loss_network import LossNetwork
from .style_targets import layer_target


@dataclass(frozen=True)
class MatchedRegions:
    """The masks, understood."""

    content: Regions
    styles: Sequence[Regions]
    pairs: Mapping[Color, Sequence[tuple[int, Color]]]
    """Colour of the photograph's mask to (number of the painting, colour of its mask)."""

    def terms(
        self,
        number: int,
        weights: Sequence[float],
        painting: Tensor,
        loss_network: LossNetwork,
        config: GatysConfig,
        height: int,
        width: int,
    ) -> list[StyleTerm]:
        """The terms of painting `number`, (1, 3, h, w), for a picture of (height, width).

        Args:
            weights: of all paintings against one another.
        """
        with torch.no_grad():
            features = loss_network(painting, config.style_layers)
        found = []
        for color, partners in self.pairs.items():
            # Not every painting has every region: in each, the weights of those that do are shared out anew.
            rivals = sum(weights[other] for other, _ in partners)
            here = soft_weights(self.content.masks[color], height, width)
            share = float(here.mean()) * weights[number] / rivals if rivals else 0.0
            for style_number, style_color in partners:
                if style_number != number:
                    continue
                there = soft_weights(self.styles[number].masks[style_color], *painting.shape[-2:])
                theirs, ours = f"style mask's {name_color(style_color)}", f"content mask's {name_color(color)}"
                for layer, layer_weight in config.style_layers.items():
                    at_layer = features[layer]
                    target = layer_target(
                        at_layer, _at_layer(there, at_layer.shape[-2:], theirs, painting), config.statistics
                    )
                    region = _at_layer(here, _layer_shape(layer, height, width), ours, painting)
                    found.append(StyleTerm(layer, target, layer_weight * share, region))
        return found


def regions_of(
    content: Picture,
    content_mask: Picture | None,
    paintings: Sequence[Picture],
    masks: Sequence[Picture | None],
) -> MatchedRegions | None:
    """Find the regions of all masks and match them; None without masks.

    Args:
        masks: one per painting.

    Raises:
        ValueError: only some pictures have masks.
        TrainingError: a mask is not as large as its picture, or a region has no partner.
    """
    given = [mask for mask in masks if mask is not None]
    if content_mask is None and not given:
        return None
    if content_mask is None or len(given) != len(paintings):
        raise ValueError(
            f"masks must be given for the photograph and every painting, got {int(content_mask is not None)} and "
            f"{len(given)} for {len(paintings)}"
        )
    names = ["style mask"] if len(given) == 1 else [f"style mask {number}" for number in range(1, len(given) + 1)]
    _check_size("content mask", content_mask, content)
    for name, mask, painting in zip(names, given, paintings, strict=True):
        _check_size(name, mask, painting)
    here = find_regions(content_mask, what="content mask")
    there = [find_regions(mask, what=name) for name, mask in zip(names, given, strict=True)]
    return MatchedRegions(here, there, match_regions(here, there))


def _check_size(what: str, mask: Picture, picture: Picture) -> None:
    if mask.shape != picture.shape:
        colors = find_regions(mask, what=what).masks
        raise TrainingError(
            f"the {what} must be as large as its picture, {picture.shape[1]}x{picture.shape[0]}, got "
            f"{mask.shape[1]}x{mask.shape[0]} (its colours: {', '.join(map(name_color, colors))})"
        )


def _layer_shape(layer: str, height: int, width: int) -> tuple[int, int]:
    """Height and width of `relu<block>_<i>`: halved, rounded down, before each block after the first."""
    halvings = int(layer[4]) - 1
    return height >> halvings, width >> halvings


def _at_layer(weights: Weights, shape: tuple[int, int], what: str, like: Tensor) -> Tensor:
    """A region's weights averaged down to a layer's size and made to sum to 1: (1, 1, H, W)."""
    full = torch.from_numpy(weights)[None, None].to(like.device)
    region = functional.adaptive_avg_pool2d(full, shape)
    total = region.sum()
    if float(total) < 1e-3:
        raise TrainingError(
            f"the {what} region must be larger: nothing is left of it where a layer is {shape[1]}x{shape[0]}; a larger "
            "--min-size helps"
        )
    return region / total

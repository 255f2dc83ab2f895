"""Whose colours a painted picture has: Gatys, Bethge, Hertzmann, Shechtman 2016 (arXiv 1606.05897).

All pictures are (H, W, 3) uint8 RGB. A linear match x -> A (x - μ_from) + μ_to gives one picture's colours the mean
and covariance of another's; any A with A Σ_from Aᵀ = Σ_to does. `eigen`: A = Σ_to^½ Σ_from^-½, which changes each
colour least; `cholesky`: A = L_to L_from^-1, which depends on the order of the channels and so can swap hues.
"""

from typing import get_args

import numpy as np
import numpy.typing as npt

from .data import Picture
from .gatys_config import ColorDirection, ColorMode, ColorTransform

Array = npt.NDArray[np.float64]

# BT.601 luminance, as in YIQ and in full-range YCbCr; the chroma planes of the two differ by a rotation only.
_LUMA = np.array([0.299, 0.587, 0.114])
_FLAT = 1e-3  # standard deviation in grey levels below which a direction of colour has no spread to be matched


def match_covariance(picture: Picture, like: Picture, *, transform: ColorTransform = "eigen") -> Picture:
    """`picture` with the mean and covariance of the colours of `like`, rounded and clamped to bytes."""
    return _to_bytes(match_colors(_pixels(picture), _pixels(like), transform=transform), picture)


def match_colors(pixels: Array, like: Array, *, transform: ColorTransform = "eigen") -> Array:
    """(N, 3) colours linearly mapped to the mean and covariance of (M, 3) colours, neither rounded nor clamped.

    A direction in which the source has no spread (a grey picture has but one that has) cannot be given any: there the
    result has none, and is exact in the others for `eigen`; `cholesky` is then taken of Σ + 10⁻⁶ and is near.
    """
    if transform not in get_args(ColorTransform):
        raise ValueError(f"color transform must be one of {', '.join(get_args(ColorTransform))}, got {transform!r}")
    mean, covariance = _moments(pixels)
    wanted_mean, wanted = _moments(like)
    if transform == "eigen":
        matrix = np.asarray(_root(wanted) @ _inverse_root(covariance))
    else:
        ridge = _FLAT**2 * np.eye(3)
        matrix = np.asarray(np.linalg.cholesky(wanted + ridge) @ np.linalg.inv(np.linalg.cholesky(covariance + ridge)))
    return np.asarray((pixels - mean) @ matrix.T + wanted_mean, dtype=np.float64)


def match_histogram(picture: Picture, like: Picture) -> Picture:
    """Each channel by itself gets the histogram of `like`'s: v -> F_like^-1(F(v)), equal values staying equal."""
    matched = np.empty_like(picture)
    for channel in range(3):
        _, places, counts = np.unique(picture[:, :, channel], return_inverse=True, return_counts=True)
        wanted, wanted_counts = np.unique(like[:, :, channel], return_counts=True)
        # Middle of each value's step, so that a picture matched to itself stays as it is.
        ranks = (np.cumsum(counts) - counts / 2) / picture[:, :, channel].size
        wanted_ranks = (np.cumsum(wanted_counts) - wanted_counts / 2) / like[:, :, channel].size
        table = np.interp(ranks, wanted_ranks, wanted)
        matched[:, :, channel] = np.rint(table).astype(np.uint8)[places.reshape(picture.shape[:2])]
    return matched


def luminance(picture: Picture) -> Picture:
    """Y of BT.601 in all three channels."""
    y = np.rint(picture @ _LUMA).astype(np.uint8)
    return np.repeat(y[:, :, None], 3, axis=2)


def match_luminance(picture: Picture, like: Picture) -> Picture:
    """Y of `picture` with mean and standard deviation of the Y of `like`, in all three channels.

    Gatys et al. 2016, section 4.2: a dark painting would otherwise make every photograph dark.
    """
    y, wanted = picture @ _LUMA, like @ _LUMA
    spread = float(y.std())
    gain = float(wanted.std()) / spread if spread > _FLAT else 0.0
    matched = np.clip(np.rint((y - y.mean()) * gain + wanted.mean()), 0, 255).astype(np.uint8)
    return np.repeat(matched[:, :, None], 3, axis=2)


def with_chroma_of(painted: Picture, photo: Picture) -> Picture:
    """The luminance of `painted` with the Cb and Cr of `photo`.

    Where the two together lie outside RGB, luminance gives way, not chroma: clipping RGB, as is usual, would change
    hues most where the photograph is most colourful.
    """
    rgb = photo.astype(np.float64)
    offset = rgb - (rgb @ _LUMA)[:, :, None]  # R - Y, G - Y, B - Y: all that chroma is
    lowest, highest = -offset.min(axis=2), 255 - offset.max(axis=2)
    y = np.clip(painted @ _LUMA, lowest, highest)
    return np.asarray(np.clip(np.rint(y[:, :, None] + offset), 0, 255), dtype=np.uint8)


def prepare_colors(
    content: Picture,
    styles: list[Picture],
    mode: ColorMode,
    *,
    transform: ColorTransform = "eigen",
    direction: ColorDirection = "to-content",
) -> tuple[Picture, list[Picture]]:
    """Photograph and paintings as they go into the optimisation."""
    for what, given, choices in (("color", mode, ColorMode), ("color direction", direction, ColorDirection)):
        if given not in get_args(choices):
            raise ValueError(f"{what} must be one of {', '.join(get_args(choices))}, got {given!r}")
    if mode == "luminance":
        return luminance(content), [match_luminance(style, content) for style in styles]
    if mode not in ("match-histogram", "match-covariance"):
        return content, styles

    def match(picture: Picture, like: Picture) -> Picture:
        if mode == "match-histogram":
            return match_histogram(picture, like)
        return match_covariance(picture, like, transform=transform)

    if direction == "to-content":
        return content, [match(style, content) for style in styles]
    return match(content, styles[0]), styles  # several paintings: the first gives the colours


def finish_colors(painted: Picture, content: Picture, mode: ColorMode) -> Picture:
    """The optimised picture as it is to be shown; `content` as it was, at the same size."""
    return with_chroma_of(painted, content) if mode in ("content", "luminance") else painted


def _pixels(picture: Picture) -> Array:
    return picture.reshape(-1, 3).astype(np.float64)


def _to_bytes(pixels: Array, like: Picture) -> Picture:
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8).reshape(like.shape)


def _moments(pixels: Array) -> tuple[Array, Array]:
    mean = np.asarray(pixels.mean(axis=0), dtype=np.float64)
    centred = pixels - mean
    return mean, centred.T @ centred / len(pixels)


def _root(covariance: Array) -> Array:
    values, vectors = np.linalg.eigh(covariance)
    root: Array = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root


def _inverse_root(covariance: Array) -> Array:
    """The pseudo-inverse of the root: 0 where there is no spread."""
    values, vectors = np.linalg.eigh(covariance)
    flat = values < max(_FLAT**2, 1e-12 * float(values.max(initial=0)))
    inverse: Array = (vectors * np.where(flat, 0, 1 / np.sqrt(np.where(flat, 1, values)))) @ vectors.T
    return inverse

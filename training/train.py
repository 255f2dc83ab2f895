"""Learn one style: a transformation network trained with perceptual losses (Johnson et al. 2016).

total = content_weight · content + style_weight · style + tv_weight · tv + 10 · range + 1000 · grid
        + motion_weight · motion

with the losses of `losses.py` and the steadiness term of `motion.py`; with clips, video_weight · videos (`clips.py`)
joins in for the last part. Each loss is relative to its target's energy,
so one set of weights serves every painting; what is left to choose, how much painting against how much photograph,
is found while training: see `balance`.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .balance import StyleBalance
from .checkpoint import Checkpoint, LoadCheckpoint, load_checkpoint, save_checkpoint
from .clips import ClipBatch, ClipPairs, clip_loss
from .data import PhotoCrops, find_pictures, read_picture, resize_short_side, to_tensor
from .errors import TrainingError
from .keyframes import KeyframePairs, keyframe_loss
from .loop import (
    MEMORY_FORMAT,
    Process,
    Progress,
    StepHooks,
    learning_rate,
    mean_over_processes,
    training_process,
)
from .loss_network import CONTENT_LAYER, STYLE_LAYERS, LossNetwork, load_loss_network
from .losses import content_loss, grid_loss, out_of_range_loss, total_variation_loss
from .motion import Motion, MotionRange, disturb, motion_loss, random_motion
from .networks import NetworkConfig, TransformationNetwork, build_network
from .quality import structure_kept_of_batch
from .state import begin_run, load_state, paths_from_state, paths_to_state, save_state
from .style_targets import LayerTarget, layer_target
from .train_config import TrainConfig

log = logging.getLogger(__name__)

VIDEO_STAGE = 0.6
"""Share of the steps after which clips join in: the style is there by then, and learns to hold still."""
_RANGE_WEIGHT = 10.0
"""Holds the answer in 0…255. Without it the deeper network of the quality tier found that values far outside please the
loss network, and strong edges came out as streaks of pure cyan and orange."""
_GRID_WEIGHT = 1000.0
"""A pattern of 2/255 then counts as much as a tenth of a good total. The steadiness term takes it away as well, but at
weights that cost the painting more."""
_LARGEST_GRADIENT = 10.0
"""Rare steps of the deep style layers are a hundred times the usual size and would undo the training so far."""
_MIN_STYLE_SIDE = 64  # pixels; a smaller painting has no texture at relu5_1, one sixteenth of the size


@dataclass
class _Run:
    """What changes from step to step; what `state.pt` holds."""

    network: TransformationNetwork
    optimizer: torch.optim.Optimizer
    balance: StyleBalance
    bad_files: set[Path]
    """Photographs that could not be read."""
    before: dict[str, Any] | None = None
    """How the checkpoint that it began with was made; see `Checkpoint.stage`."""
    step: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    """Smoothed, when it was saved last."""


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    load_earlier: LoadCheckpoint = load_checkpoint,
    callback: Callable[[Progress], None] | None = None,
    before_save: Callable[[], None] | None = None,
    sample: Callable[[nn.Module, int], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Train and return the path of the last checkpoint.

    Runs data-parallel when started by `torchrun`: each process takes its share of every batch, gradients are
    averaged, the first process writes and reports.

    Args:
        resume: go on from `state.pt` in `config.output`, to the same result as an uninterrupted run.
        load_earlier: opens `config.warm_start`.
        callback: called after every step.
        before_save: called before every checkpoint is written.
        sample: called with the network every `sample_every` steps and at the end.
        should_stop: asked after every step; True writes the checkpoint and ends.

    Raises:
        TrainingError: pictures, weights or the state to resume from are missing or damaged; a loss is not finite.
    """
    with training_process(config) as process:
        photos = PhotoCrops(find_pictures(config.photos), config.batch_size, config.crop_size, config.seed)
        targets = _Targets.load(config, process.device)
        run = _start(config, process.device, photos.bad_files)
        settings = _settings(config, targets.loss_network)
        if resume:
            state = load_state(config.output, settings)
            _take_state(run, state)
            process = process.at(state["settings"].get("precision", "auto"))
        else:
            begin_run(config.output)  # in every process: what ends one alone is a puzzle to the others
            if config.warm_start is not None:
                _begin_with(run, load_earlier(config.warm_start))
        settings["precision"] = process.precision
        network = process.parallel(run.network)
        hooks = StepHooks(
            config, process, start=run.step, losses=run.losses, callback=callback, before_save=before_save,
            save=partial(_save, run, config, settings), sample=sample and partial(sample, run.network),
        )  # fmt: skip
        for batch in photos.batches(run.step):
            if run.step >= config.steps or process.any(should_stop()):
                break
            losses = _step(run, network, batch, targets, config, process)
            run.step += 1
            hooks.after(run.step, losses, style_weight=run.balance.weight, bad_files=len(run.bad_files))
        hooks.end(run.step)
        return config.output / "checkpoint.safetensors"


@dataclass(frozen=True)
class _Targets:
    """The loss network and what it says of the painting."""

    loss_network: LossNetwork
    style: Mapping[str, LayerTarget]
    """By layer."""
    keyframes: KeyframePairs | None = None
    clips: ClipPairs | None = None

    @classmethod
    def load(cls, config: TrainConfig, device: torch.device) -> "_Targets":
        painting = read_picture(config.style_image)
        if min(painting.shape[:2]) < _MIN_STYLE_SIDE:
            log.warning(
                "%s is only %dx%d pixels: its marks will be blurred", config.style_image, *painting.shape[1::-1]
            )
        painting = resize_short_side(painting, round(config.style_size * config.style_scale))
        network = load_loss_network(config.loss_network, weights=config.loss_weights)
        network = network.to(device, memory_format=MEMORY_FORMAT)  # type: ignore[call-overload]
        with torch.inference_mode():
            features = network(to_tensor(painting).to(device), STYLE_LAYERS)
        # Cloned outside inference mode: autograd refuses inference tensors.
        style = {name: layer_target(x.clone(), None, config.statistics) for name, x in features.items()}
        crops: dict[str, Any] = {"crop_size": config.crop_size, "seed": config.seed}
        keyframes = None if config.keyframes is None else KeyframePairs.load(config.keyframes, **crops)
        clips = None if config.videos is None else ClipPairs.load(config.videos, **crops)
        return cls(network, style, keyframes, clips)


def _start(config: TrainConfig, device: torch.device, bad_files: set[Path]) -> _Run:
    network = build_network(NetworkConfig.for_tier(config.tier))
    network = network.to(device, memory_format=MEMORY_FORMAT)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    balance = StyleBalance(config.structure, config.content_weight, config.style_weight)
    return _Run(network, optimizer, balance, bad_files)


def _begin_with(run: _Run, earlier: Checkpoint) -> None:
    """Take over the network of a checkpoint and, to begin the search with, how much the painting counted there.

    Raises:
        TrainingError: it is another network, or damaged.
    """
    if earlier.config != run.network.config:
        raise TrainingError(f"warm start must be a {run.network.config}, got a {earlier.config}")
    run.network.load_state_dict(earlier.build().state_dict())
    run.before = earlier.stage
    with suppress(TypeError, ValueError):  # older checkpoints do not say
        run.balance.weight = max(0.0, float(run.before.get("final_style_weight", 0.0)))


def _step(
    run: _Run,
    network: nn.Module,
    batch: Tensor,
    targets: _Targets,
    config: TrainConfig,
    process: Process,
) -> dict[str, float]:
    """One step of Adam on this process' share of the batch, (N, 3, S, S) in [0, 255]; returns the losses of it all."""
    photos = process.share(batch)
    inputs = _inputs(run.step, batch, targets, config, process)
    with process.autocast():
        painted = network(torch.cat([photos, inputs.disturbed, inputs.frames, *inputs.clip_frames]))
    terms = _terms(photos, painted, inputs, targets, process)
    structure = torch.tensor(structure_kept_of_batch(photos, painted[: len(photos)]), device=photos.device)
    losses = mean_over_processes({**terms, "structure": structure})
    style_weight = run.balance.update(
        content=losses["content"],
        style=losses["style"],
        structure=losses["structure"],
        step=run.step,
        steps=config.steps,
    )
    weights = {
        "content": config.content_weight,
        "style": style_weight,
        "tv": config.tv_weight,
        "range": _RANGE_WEIGHT,
        "grid": _GRID_WEIGHT,
        "motion": config.motion_weight,
        "keyframes": config.keyframe_weight,
        "videos": config.video_weight,
    }
    total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    losses["total"] = sum(weights[name] * losses[name] for name in terms)
    if not math.isfinite(losses["total"]):
        raise TrainingError(f"loss is not finite at step {run.step}; try a lower --learning-rate")
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(run.step, config.steps, config.learning_rate)
    run.optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(run.network.parameters(), _LARGEST_GRADIENT)
    run.optimizer.step()
    return losses


@dataclass(frozen=True)
class _Inputs:
    """What the network paints in one step beside the photographs; each may be empty, (0, 3, S, S)."""

    disturbed: Tensor
    """The first photographs again, moved and noisy."""
    motion: Motion | None
    frames: Tensor
    """Frames of a film,"""
    keyframes: Tensor
    """and how they shall be painted."""
    clips: ClipBatch | None = None
    """Frames of clips, two by two."""
    shares: dict[str, float] = field(default_factory=dict)
    """By term: what this process' value counts, so that the mean over all processes is that of one that has it all."""

    @property
    def clip_frames(self) -> list[Tensor]:
        return [] if self.clips is None else [self.clips.first, self.clips.second]


def _inputs(step: int, batch: Tensor, targets: _Targets, config: TrainConfig, process: Process) -> _Inputs:
    """Depends on the step and the seed alone, so that a resumed run goes on the same.

    Drawn for the whole batch, (N, 3, S, S), in every process, which then takes its part: several learn what one does.
    """
    disturbed = frames = keyframes = process.share(batch[:0])
    motion = clips = None
    shares = {}
    draw = step * 64  # from when each process drew its own; kept, so that one process learns what it did then
    if config.motion_weight:
        # Half of the pictures are moved as well: the term costs a quarter of a step, and all of them a half.
        moved = batch[: (len(batch) + 1) // 2].to(process.device, memory_format=MEMORY_FORMAT)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 * 64 + draw)
        limits = MotionRange()
        whole = Motion(random_motion(moved.shape, generator, limits).grid.to(process.device))
        disturbed = process.share(disturb(whole.warp(moved).cpu(), generator, limits))
        motion = Motion(whole.grid[process.rank :: process.world])
        shares["motion"] = _counted(motion.inside(), whole.inside(), process)
    if targets.keyframes is not None:
        # One for every four photographs: a film's few keyframes are soon known by heart.
        count = (len(batch) + 3) // 4
        frames, keyframes = (process.share(x) for x in targets.keyframes.batch(draw, count))
        shares["keyframes"] = len(frames) * process.world / count
    if targets.clips is not None and step >= VIDEO_STAGE * config.steps:
        # One pair, two pictures, for every four photographs: a step takes a third longer.
        pairs = targets.clips.batch(draw, (len(batch) + 3) // 4)
        clips = pairs.part(process.rank, process.world).to(process.device)
        shares["videos"] = _counted(clips.followed, pairs.followed, process)
    return _Inputs(disturbed, motion, frames, keyframes, clips, shares)


def _counted(ours: Tensor, everyones: Tensor, process: Process) -> float:
    """What a mean over the pixels of one mask, of 0 and 1, counts beside those of the other processes; 1 on average."""
    return ours.sum().item() * process.world / max(1.0, everyones.sum().item())


def _terms(photos: Tensor, painted: Tensor, inputs: _Inputs, targets: _Targets, process: Process) -> dict[str, Tensor]:
    """The losses, unweighted; `painted` holds the answers to the photographs and to `inputs`, one after the other."""
    sizes = [len(photos), len(inputs.disturbed), len(inputs.frames)]
    stylized, disturbed, frames, clip_frames = torch.split(painted, [*sizes, len(painted) - sum(sizes)])
    visible = stylized.clamp(0, 255)  # judged as it is shown; what lies outside is drawn back by `range` alone
    with process.autocast():
        features = targets.loss_network(visible, {*STYLE_LAYERS, CONTENT_LAYER})
        with torch.no_grad():
            wanted = targets.loss_network(photos, {CONTENT_LAYER})
    terms = {
        "content": content_loss(features[CONTENT_LAYER], wanted[CONTENT_LAYER]),
        "style": torch.stack([target.loss(features[name], None) for name, target in targets.style.items()]).sum(),
        "tv": total_variation_loss(stylized),
        "range": out_of_range_loss(stylized),
        "grid": grid_loss(stylized),
    }
    if inputs.motion is not None:
        terms["motion"] = inputs.shares["motion"] * motion_loss(stylized[: len(disturbed)], disturbed, inputs.motion)
    if "keyframes" in inputs.shares:
        terms["keyframes"] = torch.zeros((), device=photos.device)  # where another process has them all
        if len(frames):
            with process.autocast():
                apart = keyframe_loss(frames, inputs.keyframes, targets.loss_network)
            terms["keyframes"] = inputs.shares["keyframes"] * apart
    if inputs.clips is not None:
        first, second = clip_frames.chunk(2)
        terms["videos"] = inputs.shares["videos"] * clip_loss(first, second, inputs.clips)
    return terms


# What makes two runs the same run, beside what `_settings` adds; paths and intervals may differ when it is resumed.
_SAME_RUN = (
    "name", "tier", "steps", "batch_size", "crop_size", "learning_rate", "content_weight", "style_weight",
    "structure", "tv_weight", "motion_weight", "keyframe_weight", "video_weight", "style_size", "style_scale",
    "statistics", "seed", "precision",
)  # fmt: skip


def _settings(config: TrainConfig, loss_network: LossNetwork) -> dict[str, Any]:
    settings = {name: asdict(config)[name] for name in _SAME_RUN}
    return settings | {
        "keyframes": config.keyframes is not None,
        "videos": config.videos is not None,
        "style_sha256": hashlib.sha256(config.style_image.read_bytes()).hexdigest(),
        "loss_network_sha256": loss_network.checksum(),
    }


def _save(run: _Run, config: TrainConfig, settings: Mapping[str, Any], losses: Mapping[str, float]) -> None:
    config.output.mkdir(parents=True, exist_ok=True)
    metadata = {
        "name": config.name,
        "tier": config.tier,
        "style": {**asdict(config.style), "sha256": settings["style_sha256"]},
        "training": {
            **{name: value for name, value in settings.items() if name != "style_sha256"},
            "style_image": config.style_image.name,
            "content_layer": CONTENT_LAYER,
            "style_layers": list(STYLE_LAYERS),
            "loss_network": config.loss_weights.name if config.loss_weights else config.loss_network,
            "final_style_weight": run.balance.weight,
            **({} if run.before is None else {"before": run.before}),
        },
        "step": run.step,
        "losses": dict(losses),
    }
    weights = run.network.state_dict()
    save_checkpoint(
        config.output / "checkpoint.safetensors", Checkpoint(NetworkConfig.for_tier(config.tier), weights, metadata)
    )
    save_state(
        config.output,
        settings,
        {
            "network": weights,
            "optimizer": run.optimizer.state_dict(),
            "style_weight": run.balance.weight,
            "bad_files": paths_to_state(run.bad_files),
            "before": run.before,
            "step": run.step,
            "losses": dict(losses),
        },
    )


def _take_state(run: _Run, state: Mapping[str, Any]) -> None:
    run.network.load_state_dict(state["network"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.balance.weight = float(state["style_weight"])
    run.bad_files |= paths_from_state(state.get("bad_files", ()))  # older states lack both
    run.before = state.get("before")
    run.step = int(state["step"])
    run.losses = dict(state.get("losses", {}))

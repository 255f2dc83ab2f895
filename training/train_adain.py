"""Learn to paint like any painting: the training loop for both kinds of networks. What it minimises stands in
`adain_objectives`, how it is set up in `adain_config`."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .adain_checkpoint import AdainCheckpoint, save_adain_checkpoint
from .adain_config import AdainTrainConfig
from .adain_objectives import Batch, CompactObjective, Objective, ReferenceObjective
from .adain_reference import AdainNetworks
from .checkpoint import Checkpoint, LoadCheckpoint, load_checkpoint
from .data import PhotoCrops, find_pictures
from .errors import TrainingError
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
from .state import begin_run, load_state, paths_from_state, paths_to_state, save_state

_WARM_START_PHOTOS = 16
_LARGEST_GRADIENT = 5.0


@dataclass
class _Run:
    """What changes from step to step; what `state.pt` holds."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    bad_files: set[Path]
    """Pictures that could not be read."""
    before: dict[str, Any] | None
    """How the checkpoint that it began with was made; see `Checkpoint.stage`."""
    step: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    """Smoothed, when it was saved last."""


def train_adain(
    config: AdainTrainConfig,
    *,
    resume: bool = False,
    load_earlier: LoadCheckpoint = load_checkpoint,
    callback: Callable[[Progress], None] | None = None,
    before_save: Callable[[], None] | None = None,
    sample: Callable[[AdainNetworks, int], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Train and return the path of the last checkpoint. Runs data-parallel when started by `torchrun`.

    Several processes learn nearly what one does: the figure `distance` becomes the mean of their medians, and where a
    process has an odd number of photographs, more of them are to be given back by a style of zeros.

    Args:
        resume: go on from `state.pt` in `config.output`, to the same result as an uninterrupted run.
        load_earlier: opens `config.warm_start`.
        callback: called after every step.
        before_save: called before every checkpoint is written.
        sample: called with the networks every `sample_every` steps and at the end.
        should_stop: asked after every step; True writes the checkpoint and ends.

    Raises:
        TrainingError: pictures, weights or the state to resume from are missing or damaged; a loss is not finite.
    """
    with training_process(config) as process:
        bad_files: set[Path] = set()
        photos, paintings = (
            PhotoCrops(find_pictures(folder), config.batch_size, config.crop_size, seed, config.zoom, bad_files)
            for folder, seed in ((config.photos, config.seed), (config.paintings, config.seed + 1))
        )
        loss_network = load_loss_network(config.loss_network, weights=config.loss_weights)
        earlier = load_earlier(config.warm_start) if config.warm_start is not None and not resume else None
        run = _start(config, loss_network, photos, process.device, earlier)
        objective = run.objective
        settings = _settings(config, objective, loss_network)
        if resume:
            state = load_state(config.output, settings)
            _take_state(run, state)
            process = process.at(state["settings"].get("precision", "auto"))
        else:
            begin_run(config.output)
        settings["precision"] = process.precision
        model = process.parallel(objective.model)
        hooks = StepHooks(
            config, process, start=run.step, losses=run.losses, callback=callback, before_save=before_save,
            save=partial(_save, run, config, settings), sample=sample and partial(sample, objective.networks),
        )  # fmt: skip
        for photo_batch, painting_batch in zip(photos.batches(run.step), paintings.batches(run.step), strict=False):
            if run.step >= config.steps or process.any(should_stop()):
                break
            styles = _recoloured(painting_batch, config.seed, run.step)
            losses = _step(run, model, photo_batch, styles, config, process)
            run.step += 1
            hooks.after(run.step, losses, style_weight=objective.style_weight, bad_files=len(bad_files))
        hooks.end(run.step)
        return config.output / "checkpoint.safetensors"


def _start(
    config: AdainTrainConfig,
    loss_network: LossNetwork,
    photos: PhotoCrops,
    device: torch.device,
    earlier: Checkpoint | None,
) -> _Run:
    loss_network = loss_network.to(device, memory_format=MEMORY_FORMAT)  # type: ignore[call-overload]
    objective: Objective
    if config.kind == "reference":
        objective = ReferenceObjective(config, loss_network)
    else:
        crops = PhotoCrops(photos.paths, _WARM_START_PHOTOS, config.crop_size, config.seed).batch(0)
        objective = CompactObjective(config, loss_network, crops, earlier)
    model = objective.model.to(device, memory_format=MEMORY_FORMAT)  # type: ignore[call-overload]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=config.learning_rate)
    return _Run(objective, optimizer, photos.bad_files, None if earlier is None else earlier.stage)


def _recoloured(paintings: Tensor, seed: int, step: int) -> Tensor:
    """A quarter of the paintings with red, green and blue exchanged: palettes that no painter of the folder used."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) * 2 + 1)
    changed = paintings.clone()
    for index in range(len(paintings)):
        if torch.rand((), generator=generator) < 0.25:
            changed[index] = paintings[index][torch.randperm(3, generator=generator)]
    return changed


def _step(
    run: _Run,
    model: nn.Module,
    photos: Tensor,
    paintings: Tensor,
    config: AdainTrainConfig,
    process: Process,
) -> dict[str, float]:
    """One step of Adam on this process' share of the batch, (N, 3, S, S) in [0, 255]; returns the losses of it all."""
    # From when each process drew its own; kept, so that one process learns what it did then.
    generator = torch.Generator().manual_seed((config.seed * 1_000_003 + run.step) * 64)
    batch = Batch.of(photos, paintings, generator, process, move=config.motion_weight > 0)
    with process.autocast():
        terms, shown = run.objective.terms(model, batch)
    losses = mean_over_processes({**terms, **shown})
    weights = run.objective.weights(losses, run.step)
    total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    losses["total"] = sum(weights[name] * losses[name] for name in terms)
    if not math.isfinite(losses["total"]):
        raise TrainingError(f"loss is not finite at step {run.step}; try a lower --learning-rate")
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(run.step, config.steps, config.learning_rate)
    run.optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), _LARGEST_GRADIENT)
    run.optimizer.step()
    return losses


# What makes two runs the same run; steps and batch size may change when it is resumed, to go on for longer.
_SAME_RUN = (
    "kind", "name", "crop_size", "zoom", "learning_rate", "content_weight", "style_weight", "structure", "style_knee",
    "tv_weight", "motion_weight", "identity_weight", "hint_weight", "seed", "precision",
)  # fmt: skip


def _settings(config: AdainTrainConfig, objective: Objective, loss_network: LossNetwork) -> dict[str, Any]:
    return {
        **{name: asdict(config)[name] for name in _SAME_RUN},
        "zoom": list(config.zoom),
        "network": objective.networks.config.to_dict(),
        "loss_network_sha256": loss_network.checksum(),
    }


def _save(run: _Run, config: AdainTrainConfig, settings: Mapping[str, Any], losses: Mapping[str, float]) -> None:
    metadata = {
        "name": config.name,
        "training": {
            **{name: value for name, value in settings.items() if name != "network"},
            "steps": config.steps,
            "batch_size": config.batch_size,
            "content_layer": CONTENT_LAYER,
            "style_layers": list(STYLE_LAYERS),
            "style_size": config.style_size,
            "loss_network": config.loss_weights.name if config.loss_weights else config.loss_network,
            "final_style_weight": run.objective.style_weight,
            **({} if run.before is None else {"before": run.before}),
        },
        "step": run.step,
        "losses": dict(losses),
    }
    config.output.mkdir(parents=True, exist_ok=True)
    save_adain_checkpoint(
        config.output / "checkpoint.safetensors",
        AdainCheckpoint(config.kind, settings["network"], run.objective.networks.state_dict(), metadata),
    )
    save_state(
        config.output,
        settings,
        {
            "model": run.objective.model.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "style_weight": run.objective.style_weight,
            "bad_files": paths_to_state(run.bad_files),
            "before": run.before,
            "step": run.step,
            "losses": dict(losses),
        },
    )


def _take_state(run: _Run, state: Mapping[str, Any]) -> None:
    run.objective.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.objective.style_weight = float(state["style_weight"])
    run.bad_files |= paths_from_state(state.get("bad_files", ()))  # older states lack both
    run.before = state.get("before")
    run.step = int(state["step"])
    run.losses = dict(state.get("losses", {}))

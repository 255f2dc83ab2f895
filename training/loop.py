"""What both training loops are made of: processes, the learning rate, and what is done after a step."""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .device import bf16_is_faster, torch_device

if TYPE_CHECKING:
    from .adain_config import AdainTrainConfig
    from .train_config import TrainConfig

Precision = Literal["auto", "fp32", "bf16"]

MEMORY_FORMAT = torch.channels_last
"""A quarter faster than NCHW for the whole step, on CPUs and on tensor cores."""


@dataclass(frozen=True)
class Progress:
    """What a step reports."""

    step: int
    """Steps done."""
    steps: int
    losses: Mapping[str, float]
    """`total` weighted; its terms and the figures beside them, by the names of `log.csv`'s columns, unweighted; all
    smoothed over some twenty steps."""
    style_weight: float
    pictures_per_second: float
    seconds_left: float
    bad_files: int
    """Pictures that could not be read so far, before the run was resumed too."""


@dataclass(frozen=True)
class Process:
    """This process of a training: one of several if `torchrun` started it."""

    rank: int
    """From 0; the first writes and reports."""
    world: int
    """How many there are."""
    device: torch.device
    bf16: bool

    def share(self, batch: Tensor) -> Tensor:
        """This process' part of a batch (N, 3, H, W), where it is needed; empty where there are too few.

        Every `world`-th picture, so that the first few of a batch are spread over all processes.
        """
        return batch[self.rank :: self.world].to(self.device, memory_format=MEMORY_FORMAT)

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model, with gradients that are averaged over all processes."""
        return model if self.world == 1 else DistributedDataParallel(model)

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """What `auto` came to."""
        return "bf16" if self.bf16 else "fp32"

    def at(self, precision: Precision) -> "Process":
        """The same process in a run of that precision; `auto` leaves it."""
        return self if precision == "auto" else replace(self, bf16=precision == "bf16")

    def any(self, said: bool) -> bool:
        """Whether one of the processes says so: each is asked at the same step, since one alone cannot end."""
        if self.world == 1:
            return said
        votes = torch.tensor(float(said), device=self.device)
        dist.all_reduce(votes)
        return votes.item() > 0

    def autocast(self) -> torch.autocast:
        """For the networks' answers; losses are computed in fp32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)


@contextmanager
def training_process(config: "TrainConfig | AdainTrainConfig") -> Iterator[Process]:
    """Join the others, if there are any, and sow the seed.

    Raises:
        TrainingError: the device cannot be used.
        ValueError: the batch cannot be shared out.
    """
    with _process_group(config.device) as (rank, world):
        if config.batch_size % world:
            raise ValueError(f"batch_size must be a multiple of the {world} processes, got {config.batch_size}")
        device = torch_device(config.device, rank)
        # Gradients of the deep layers fade into denormal numbers, which cost a processor a tenth of the time.
        torch.set_flush_denormal(True)
        bf16 = config.precision == "bf16" or (config.precision == "auto" and _first_ones(bf16_is_faster, device))
        torch.manual_seed(config.seed)
        try:
            yield Process(rank, world, device, bf16)
        finally:
            torch.set_flush_denormal(False)


@contextmanager
def _process_group(device: str) -> Iterator[tuple[int, int]]:
    """Rank and number of processes, which compute on a `device` of that name; (0, 1) unless started by torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, 1
        return
    dist.init_process_group("nccl" if torch_device(device).type == "cuda" else "gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def _first_ones(judge: Callable[[torch.device], bool], device: torch.device) -> bool:
    """What the first process finds: a stopwatch may not tell all of them the same."""
    if not dist.is_initialized():
        return judge(device)
    found = torch.tensor(float(dist.get_rank() == 0 and judge(device)), device=device)
    dist.broadcast(found, 0)
    return found.item() > 0


def learning_rate(step: int, steps: int, highest: float) -> float:
    """One cycle (Smith and Topin 2017): linear up over the first twentieth, half a cosine down to a hundredth."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return highest * (step + 1) / warmup
    return highest * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))))


def mean_over_processes(terms: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars by name, averaged over the processes that `torchrun` started."""
    values = torch.stack([term.detach().float() for term in terms.values()])
    if dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return dict(zip(terms, values.tolist(), strict=True))


class Meter:
    """Smoothed losses, speed and time left."""

    SMOOTHING = 0.95

    def __init__(self, steps: int, start: int, batch_size: int, last: Mapping[str, float]) -> None:
        self.steps, self.start, self.batch_size = steps, start, batch_size
        self.begun = time.monotonic()
        self.last = dict(last)
        self._before = start if last else 0  # states of older versions do not hold the losses

    def tick(self, step: int, losses: Mapping[str, float], style_weight: float, bad_files: int) -> Progress:
        """After step `step`, with the losses of its batch."""
        done = step - self.start
        keep = min(self.SMOOTHING, 1 - 1 / (self._before + done))
        self.last = {name: keep * self.last.get(name, value) + (1 - keep) * value for name, value in losses.items()}
        per_second = done / max(1e-9, time.monotonic() - self.begun)
        return Progress(
            step=step,
            steps=self.steps,
            losses=dict(self.last),
            style_weight=style_weight,
            pictures_per_second=per_second * self.batch_size,
            seconds_left=(self.steps - step) / per_second,
            bad_files=bad_files,
        )


class StepHooks:
    """What the first process does after a step, and the others do not: report, save, paint samples."""

    def __init__(
        self,
        config: "TrainConfig | AdainTrainConfig",
        process: Process,
        *,
        start: int,
        losses: Mapping[str, float],
        save: Callable[[Mapping[str, float]], None],
        before_save: Callable[[], None] | None,
        sample: Callable[[int], None] | None,
        callback: Callable[[Progress], None] | None,
    ) -> None:
        """Begin to measure.

        Args:
            start: steps that were done before,
            losses: and the smoothed losses then.
            save: writes the checkpoint, with these losses in it.
            before_save: called before that.
            sample: called every `sample_every` steps and at the end, with the number of steps done.
            callback: called after every step.
        """
        self._config, self._process = config, process
        self._write, self._before_save, self._sample, self._callback = save, before_save, sample, callback
        self._start, self._meter = start, Meter(config.steps, start, config.batch_size, losses)

    def after(self, step: int, losses: Mapping[str, float], *, style_weight: float, bad_files: int) -> None:
        """`step` steps are done; `losses` are the last one's."""
        if self._process.rank:
            return
        progress = self._meter.tick(step, losses, style_weight, bad_files)
        if self._callback:
            self._callback(progress)
        if step % self._config.checkpoint_every == 0 and step < self._config.steps:
            self._save(progress.losses)
        if self._sample and step % self._config.sample_every == 0:
            self._sample(step)

    def end(self, step: int) -> None:
        """No more steps will follow."""
        if self._process.rank or step == self._start:
            return
        self._save(self._meter.last)
        if self._sample and step % self._config.sample_every:
            self._sample(step)

    def _save(self, losses: Mapping[str, float]) -> None:
        if self._before_save:
            self._before_save()
        self._write(losses)

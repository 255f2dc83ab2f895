"""What both training loops are made of: processes, the learning rate, and what a step reports."""

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

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
    """`content`, `style`, `tv`, `range`, `motion`, `videos` unweighted, `total` weighted; means since the last one."""
    style_weight: float
    pictures_per_second: float
    seconds_left: float
    bad_files: int
    """Photographs that could not be read so far."""


@contextmanager
def process_group() -> Iterator[tuple[int, int]]:
    """Rank and number of processes; (0, 1) unless started by torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, 1
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


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

    def __init__(self, steps: int, start: int, batch_size: int) -> None:
        self.steps, self.start, self.batch_size = steps, start, batch_size
        self.begun = time.monotonic()
        self.last: dict[str, float] = {}

    def tick(self, step: int, losses: Mapping[str, float], style_weight: float, bad_files: int) -> Progress:
        """After step `step`, with the losses of its batch."""
        done = step - self.start
        keep = min(self.SMOOTHING, 1 - 1 / done)
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

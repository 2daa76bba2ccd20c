"""Interleaved rounds: every contender once a round, in random order, so that all see the same disturbances."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

# A sample is at least this long, by repetition, or the clock would be a part of it.
MIN_SECONDS = 5e-4


class Action(NamedTuple):
    """What is timed, `run(prepare())`, of which `prepare` is not."""

    prepare: Callable[[], Any]
    run: Callable[[Any], object]


def _sample(action: Action, repeats: int) -> float:
    """Seconds a run, results freed as they come.

    An untimed run goes first, so that memory and threads are as the contender's own last call left them, as in
    training, and not as whoever came before left them: after a peer's larger buffers the allocator gives memory back,
    and new pages for a gradient take 3 ms.
    """
    action.run(action.prepare())
    prepared = [action.prepare() for _ in range(repeats)]
    start = time.perf_counter()
    for item in prepared:
        action.run(item)
    return (time.perf_counter() - start) / repeats


def interleaved(actions: Sequence[Action], rounds: int) -> list[list[float]]:
    """Seconds of each action in each round."""
    repeats = []
    for action in actions:
        _sample(action, 1)  # what happens but once: imports, compilation, the first page faults
        repeats.append(max(1, math.ceil(MIN_SECONDS / max(_sample(action, 1), 1e-6))))
    samples: list[list[float]] = [[] for _ in actions]
    order = list(range(len(actions)))
    shuffle = random.Random(0).shuffle
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            shuffle(order)
            for index in order:
                samples[index].append(_sample(actions[index], repeats[index]))
    finally:
        gc.enable()
    return samples


def percentile(values: Sequence[float], percent: float) -> float:
    """With linear interpolation between the neighbours."""
    values = sorted(values)
    position = percent / 100 * (len(values) - 1)
    low = math.floor(position)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (position - low)

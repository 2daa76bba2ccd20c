"""Peak extra memory of one trial, measured by the system in a process of its own.

As a script, `memory.py SECTION CASE CONTENDER SIZE THREADS`: prints a JSON object, {pass: multiples of the logits}.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from inputs import Inputs
from sections import FORWARD, TRAINING, Section, section
from trials import Runner, Trial

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measurable() -> bool:
    """Whether the system tells: Linux does."""
    return CLEAR_REFS.exists()


def _resident(field: str) -> int:
    """Bytes in VmRSS, what is resident now, or VmHWM, the most since the last reset."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def extra(run: Callable[[], object]) -> int:
    """Bytes at the peak of `run` beyond what is resident before it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier work freed goes back to the system: it shall not hide the peak
    CLEAR_REFS.write_text("5")  # VmHWM = VmRSS
    before = _resident("VmRSS")
    result = run()
    peak = _resident("VmHWM")
    del result
    return peak - before


def measure(trial: Trial) -> dict[str, float]:
    """Multiples of the logits' size, for each pass."""
    inputs = trial.inputs
    # A small batch loads libraries and starts threads. torch.compile has to see the very shape, or it would compile
    # while we measure.
    warm_up = inputs if trial.contender == "torch.compile" else replace(inputs, size=min(inputs.size, 64))
    runner = Runner(replace(trial, inputs=warm_up))
    passes = {FORWARD: runner.forward} | ({TRAINING: runner.forward_backward} if trial.differentiable else {})
    for run in passes.values():
        run()
    runner.logits, runner.target = inputs.make()
    size = inputs.logits * inputs.dtype.itemsize
    return {name: extra(run) / size for name, run in passes.items()}


def in_fresh_process(of: Section, trial: Trial, threads: int) -> dict[str, float]:
    """The same, from a process that has done nothing else."""
    command = [
        sys.executable,
        __file__,
        of.name,
        trial.case,
        trial.contender,
        str(of.size),
        str(threads),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    name, case, contender, size, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    trials = section(name, Inputs(size=int(size))).trials
    (found,) = (trial for trial in trials if (trial.case, trial.contender) == (case, contender))
    print(json.dumps(measure(found)))

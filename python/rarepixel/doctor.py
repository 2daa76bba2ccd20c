"""What the CUDA side finds on this machine: versions, devices, NVRTC, the cache, and one loss as a self-test.

``rarepixel doctor`` prints it. Nothing here raises: what cannot be had is a finding.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import NamedTuple

from . import _core

__all__ = ["Finding", "report"]


# How the errors of the CUDA side end, which here says nothing.
_POINTER_TO_HERE = "; `rarepixel doctor` shows what was found where"


class Finding(NamedTuple):
    """One line of the report."""

    name: str
    ok: bool
    text: str


def _found(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, look())
    except Exception as error:  # a report has no other way to go on
        return Finding(name, False, f"{type(error).__name__}: {error}".removesuffix(_POINTER_TO_HERE))


def _versions() -> str:
    info = _core.build_info()
    built = f"{info['version']} for {info['target']} ({info['profile']}, {info['rustc']})"
    return f"{built}, Python {platform.python_version()}"


def _torch() -> str:
    import torch

    sees = f"sees {torch.cuda.device_count()} GPU(s)" if torch.cuda.is_available() else "sees no GPU"
    return f"{torch.__version__}, CUDA {torch.version.cuda or 'not built in'}, {sees}"


def _driver() -> str:
    major, minor = _core.cuda_driver()
    return f"for CUDA {major}.{minor}"


def _devices() -> str:
    devices = _core.cuda_devices()
    if not devices:
        raise RuntimeError("none")
    return ", ".join(f"{number}: {name} (sm_{major}{minor})" for number, (name, (major, minor)) in enumerate(devices))


def _nvrtc() -> str:
    from . import _cuda

    _cuda.load_nvrtc()
    (major, minor), architectures, place = _core.cuda_nvrtc()
    names = " ".join(f"sm_{number}" for number in architectures)
    return f"{major}.{minor} from {place}, compiles for {names}"


def _cache() -> str:
    found = _core.cuda_cache()
    if found is None:
        raise RuntimeError("no folder for it: set RAREPIXEL_CACHE_DIR")
    folder, entries, size, problem = found
    text = f"{folder}: {entries} kernels, {size / 1024:.0f} KiB"
    if problem:
        raise RuntimeError(f"{text}; cannot be written, so that each process compiles its kernels: {problem}")
    return text


def _self_test() -> str:
    """Focal + Dice and its gradient on the first GPU, against plain torch in float64."""
    import torch

    from . import functional, reference

    if not torch.cuda.is_available():
        raise RuntimeError("not run: torch sees no GPU")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 64, 64, generator=generator)
    labels = torch.randint(5, (2, 64, 64), generator=generator).cuda()
    input, truth_input = logits.cuda().requires_grad_(), logits.double().cuda().requires_grad_()
    loss, truth = functional.dice_focal_loss(input, labels), reference.dice_focal_loss(truth_input, labels)
    loss.backward()
    truth.backward()
    assert input.grad is not None
    assert truth_input.grad is not None
    error = (input.grad.double() - truth_input.grad).abs().max().item() / truth_input.grad.abs().max().item()
    if not (abs(loss.item() - truth.item()) <= 1e-6 * abs(truth.item()) and error <= 1e-5):
        raise RuntimeError(f"wrong: loss {loss.item()}, expected {truth.item()}; gradient off by {error:.1e}")
    return f"dice_focal_loss is right: loss {loss.item():.7f}, gradient to {error:.1e}"


def report() -> list[Finding]:
    """Everything that matters to CUDA, in the order in which it is needed.

    Example:
        >>> from rarepixel import doctor
        >>> [finding.name for finding in doctor.report()]
        ['rarepixel', 'torch', 'CUDA driver', 'devices', 'NVRTC', 'kernel cache', 'self-test']
    """
    return [
        _found("rarepixel", _versions),
        _found("torch", _torch),
        _found("CUDA driver", _driver),
        _found("devices", _devices),
        _found("NVRTC", _nvrtc),
        _found("kernel cache", _cache),
        _found("self-test", _self_test),
    ]


def command() -> None:
    """Show what the CUDA side finds on this machine, and test it. Fails where CUDA cannot be used."""
    findings = report()
    for finding in findings:
        print(f"{'ok' if finding.ok else 'NO':>2}  {finding.name:<13} {finding.text}")
    # Without its cache CUDA is slow to begin, and works.
    if not all(finding.ok for finding in findings if finding.name != "kernel cache"):
        print("\nLosses on CPU tensors need none of this.")
        raise SystemExit(1)

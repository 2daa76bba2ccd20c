"""The demo from tiles to pictures."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import rarepixel as rp

from . import checkpoint, data, ranks, report
from .interrupt import Interrupt
from .losses import SCALE_NAMES
from .options import Options, resolve
from .training import Training, deterministic

# What a shell reports for a program that SIGINT ended.
INTERRUPTED = 130


def run(given: Mapping[str, Any], resume: bool = False, console: Console | None = None) -> int:
    """Train and report.

    Args:
        given: options by the names of :class:`Options`; None or absent for the default.
        resume: go on from the checkpoint in the output folder.
        console: where to print.

    Returns:
        The exit status: 0, or 130 where Ctrl-C ended the training after a checkpoint was saved.
    """
    with ranks.process_group():
        # Rank 0 alone is heard.
        return _run(given, resume, console or Console(quiet=ranks.rank() > 0))


def _run(given: Mapping[str, Any], resume: bool, console: Console) -> int:
    # With --resume the checkpoint decides what goes with what: until it is read, only its place counts.
    options = resolve({"output": given.get("output")} if resume else given)
    if options.output.exists() and not options.output.is_dir():
        raise NotADirectoryError(f"--output: got {options.output}, which is a file, expected a folder")
    saved = checkpoint.load(options.checkpoint) if resume else None
    if saved is not None:
        with checkpoint.whole(options.checkpoint):
            options = resolve(given, saved["settings"])
    if options.data is not None and not options.data.is_dir():
        raise NotADirectoryError(f"--data: got {options.data}, expected a folder")
    options.output.mkdir(parents=True, exist_ok=True)
    with deterministic(options.seed), _progress(console) as progress:
        training = Training(options, data.load(_tiles(options, progress), options))
        if saved is not None:
            with checkpoint.whole(options.checkpoint):
                training.load_state_dict(saved)
        _print(console, _summary(training))
        if not _train(training, progress, resume):
            where = f"epoch {training.epoch + 1} of {options.epochs}, after {training.batch} batches"
            _print(console, f"stopped in {where}; go on with:\n  {_command(options)}")
            return INTERRUPTED
        if ranks.rank() == 0:
            report.write_pictures(training, options.output)
    _print(console, "wrote " + ", ".join(str(options.output / name) for name in report.FILES))
    return 0


def _tiles(options: Options, progress: Progress) -> Path:
    """The root of the tiles, with a bar while they are made."""
    if options.data is not None:
        return options.data
    if ranks.rank() > 0:
        ranks.barrier()  # after it the tiles are there, on the disk that all processes share
        return data.synthetic_root(options, lambda made: None)
    task = progress.add_task("synthesise tiles", total=options.tiles)
    try:
        root = data.synthetic_root(options, lambda made: progress.advance(task, made))
    finally:
        progress.remove_task(task)
    ranks.barrier()
    return root


def _train(training: Training, progress: Progress, resume: bool) -> bool:
    """Train to the last epoch, saving after each; False where it was interrupted."""
    options = training.options
    steps, tiles = len(training.data.train), len(training.data.validation)
    whole = progress.add_task("training", total=options.epochs, completed=training.epoch)
    part = progress.add_task("", total=steps + tiles)
    # An earlier run gives way when there is something to save: a start that fails leaves the folder as it was.
    keep_earlier = not resume

    def advance() -> None:
        progress.advance(part)

    with Interrupt() as interrupt:

        def requested() -> bool:
            return ranks.on_any(interrupt.requested)

        while not training.finished:
            progress.reset(part, description=f"epoch {training.epoch + 1}", completed=training.batch)
            finished = training.train_epoch(requested, advance) and training.validate(requested, advance)
            if ranks.rank() == 0:
                if keep_earlier and (kept := report.keep_earlier(options.output)) is not None:
                    _print(progress.console, f"kept the earlier run in {kept}")
                keep_earlier = False
                checkpoint.save(options.checkpoint, training.state_dict())
            if finished:
                if ranks.rank() == 0:
                    report.write_history(options.output / "history.csv", training.history)
                progress.console.print(report.epoch_report(training.history[-1], options.epochs))
                progress.advance(whole)
            if requested() and not training.finished:
                return False
    return True


def _summary(training: Training) -> str:
    options, data = training.options, training.data
    parameters = sum(parameter.numel() for parameter in training.model.parameters())
    source = f"{options.tiles} synthetic tiles" if options.data is None else str(options.data)
    loss = "fused focal + macro Dice" if options.losses == "rarepixel" else "focal + macro Dice in plain torch"
    if options.multi_scale:
        loss += f" at scales {', '.join(SCALE_NAMES)}"
    together = (
        f"; {ranks.world_size()} processes share each batch of {options.batch_size}" if ranks.are_several() else ""
    )
    return (
        f"rarepixel {rp.__version__}: {loss}; a Siamese U-Net of {parameters:,} parameters; {source}, "
        f"{len(data.train.indices)} to train on, {len(data.validation)} to validate{together}"
    )


def _command(options: Options) -> str:
    output = [] if options.output == Options().output else ["--output", str(options.output)]
    start = ["torchrun", "--nproc-per-node", str(ranks.world_size()), "-m"] if ranks.are_several() else []
    return shlex.join([*start, "rarepixel", "demo", *output, "--resume"])


def _print(console: Console, text: str) -> None:
    """As it is: a path is not wrapped, and brackets in it are no markup."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )

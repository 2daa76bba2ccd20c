"""Every code block of the README runs, its diff changes no number, and its figures are those of the kept results."""

from __future__ import annotations

import csv
import doctest
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

import rarepixel as rp
from support import PROJECT

README = (PROJECT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_every_python_block_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [block for language, block in BLOCKS if language == "python"]
    assert blocks
    namespace: dict[str, object] = {"__name__": "readme"}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"README.md, Python block {number}", "exec"), namespace)


def test_types_of_the_python_blocks_and_of_the_numpy_examples(tmp_path) -> None:
    pytest.importorskip("mypy")
    pytest.importorskip("torch")
    scripts = {f"readme_{number}": block for number, (language, block) in enumerate(BLOCKS) if language == "python"}
    for documented in (rp.numpy, *(getattr(rp.numpy, name) for name in rp.numpy.__all__)):
        name = documented.__name__.rpartition(".")[2]
        scripts[f"numpy_{name}"] = doctest.script_from_examples(documented.__doc__)
    # What keeps a number or an array apart.
    scripts["numpy_reductions"] = """
import numpy as np
import rarepixel.numpy as rpn
from typing import Any

logits, target = np.zeros((2, 3)), np.zeros(2, int)
reduction: str = "none"
number: float = rpn.cross_entropy(logits, target)[0] + rpn.focal_loss(logits, target, reduction="sum")[0]
array: np.ndarray[Any, Any] = rpn.cross_entropy(logits, target, reduction="none")[0]
either: float | np.ndarray[Any, Any] = rpn.focal_loss(logits, target, reduction=reduction)[0]
"""
    for name, script in scripts.items():
        (tmp_path / f"{name}.py").write_text(script)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def my_losses(torch: ModuleType) -> ModuleType:
    """The module that the diff's script imports: the few lines that most projects carry."""
    F = torch.nn.functional  # noqa: N806
    module = ModuleType("my_losses")

    class FocalLoss:
        def __init__(self, alpha, gamma) -> None:
            self.alpha, self.gamma = alpha, gamma

        def __call__(self, logits, mask):
            ce = F.cross_entropy(logits, mask, self.alpha, reduction="none")
            return ((1 - torch.exp(-ce)) ** self.gamma * ce).mean()

    class DiceLoss:
        def __init__(self, smooth) -> None:
            self.smooth = smooth

        def __call__(self, logits, mask):
            p, y = logits.softmax(1), F.one_hot(mask, logits.shape[1]).movedim(-1, 1)
            return 1 - (2 * (p * y).sum() + self.smooth) / (p.sum() + y.sum() + self.smooth)

    module.FocalLoss, module.DiceLoss = FocalLoss, DiceLoss
    return module


def test_the_swap_changes_four_lines_and_no_number(monkeypatch) -> None:
    """The script before and after the diff: losses and gradients."""
    torch = pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "my_losses", my_losses(torch))
    (diff,) = (block for language, block in BLOCKS if language == "diff")
    assert sum(line.startswith(("-", "+")) for line in diff.splitlines()) == 4
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(5, (2, 32, 32), generator=generator)
    results = []
    for left_out in ("+", "-"):
        script = "\n".join(line[1:] for line in diff.splitlines() if not line.startswith(left_out))
        namespace: dict[str, object] = {"class_weights": torch.tensor([1.0, 5.0, 20.0, 20.0, 20.0])}
        exec(compile(script, f"README.md, diff without {left_out}", "exec"), namespace)
        logits = torch.randn(2, 5, 32, 32, generator=generator.manual_seed(1)).requires_grad_()
        losses = [namespace[name](logits, mask) for name in ("focal_fn", "dice_fn")]
        results.append([*losses, *(torch.autograd.grad(loss, logits)[0] for loss in losses)])
    for before, after in zip(*results, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-8)


def test_shell_blocks_are_make_targets() -> None:
    """CI runs them; here every line is one that the Makefile knows. No other language is left out."""
    assert {language for language, _ in BLOCKS} == {"python", "diff", "sh"}
    lines = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines()]
    assert lines
    assert all(re.match(r"make [\w-]+ +#", line) for line in lines)


def test_make_targets_exist() -> None:
    """Each `make target` that the README names is one of the Makefile's."""
    targets = set(re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([\w-]+)", README, flags=re.MULTILINE))
    assert named
    assert named <= targets


def test_pictures_and_links_are_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (PROJECT / target).exists(), target


class TestFigures:
    @pytest.fixture
    def readme(self):
        pytest.importorskip("torch")
        import readme

        return readme

    @pytest.fixture
    def results(self, readme, tmp_path: Path) -> Path:
        """Made-up measurements, as benches/losses.py writes them."""
        import report

        one = report.Measurement(
            section="libraries",
            case="Dice",
            contender="rarepixel",
            pass_="forward + backward",
            shape="4 x 5 x 512 x 512",
            dtype="float32",
            target_dtype="int64",
            layout="contiguous",
            threads=2,
            rounds=30,
            p20_ms=3.0,
            p50_ms=4.0,
            p80_ms=5.0,
            relative=1.0,
            extra_memory=1.002,
            loss_error=2.4e-8,
            gradient_error=1.6e-7,
        )
        forward = {"pass_": "forward", "p50_ms": 0.456, "extra_memory": -0.001}
        kornia = {"contender": "kornia", "p50_ms": 34.26, "relative": 8.565, "extra_memory": 5.12}
        measurements = [
            one,
            replace(one, **forward),
            replace(one, **kornia),
            replace(one, **(kornia | {"pass_": "forward", "p50_ms": 10.0, "relative": 21.9})),
            replace(one, case="focal", p50_ms=3.0),
            replace(one, case="focal", **forward),
            replace(one, case="copy of the logits", contender="torch", pass_="forward"),
            replace(one, section="metrics", case="confusion matrix", **forward),
            replace(one, section="types", p50_ms=1000.0),
        ]
        path = tmp_path / "2026-01-01-a-processor-losses.csv"
        report.write_csv(measurements, path)
        return path

    @pytest.fixture
    def gpu_results(self, tmp_path: Path) -> Path:
        """The same of benches/gpu.py."""
        about = {"card": "a card", "driver": "1", "cuda": "13.0", "torch": "2.9", "commit": "abc", "copy_gb_s": "1000"}
        batch = {"shape": "2x5x8x8", "dtype": "float32", "labels": "int64"}
        ours = {"both_ms": "0.25", "forward_of_copy": "0.5", "backward_of_copy": "0.875"}
        rows = [
            {"loss": "copy", "implementation": "torch"},
            {"loss": "focal_loss", "implementation": "rarepixel"} | ours,
            {"loss": "focal_loss", "implementation": "torch", "both_ms": "2.5"},
        ]
        path = tmp_path / "2026-01-01-a-card-gpu.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0], *batch, *ours, *about])
            writer.writeheader()
            writer.writerows(row | batch | about for row in rows)
        return path

    def test_they_are_those_of_the_newest_results(self, readme) -> None:
        newest = readme.newest()
        assert readme.filled(README, newest, readme.newest("gpu")) == README, "python benches/readme.py"
        assert (readme.PENDING in README) == (newest is None)
        if newest is not None:
            assert self.left_out(newest, readme.PICTURE) == [], "python benches/readme.py"

    @staticmethod
    def left_out(results: Path, picture: Path) -> list[str]:
        """The machine and the times of a CSV that its picture, an SVG, does not show."""
        import report

        measurements, facts = report.read_csv(results)
        bars = [one for one in measurements if (one.section, one.pass_) == ("libraries", "forward + backward")]
        shown = picture.read_text()
        return [text for text in (facts["cpu"], *(f"{one.p50_ms:.3g}" for one in bars)) if text not in shown]

    def test_the_newest_of_a_day_is_the_last_run(self, readme, monkeypatch, tmp_path: Path) -> None:
        kept = tmp_path / "benches" / "results"
        kept.mkdir(parents=True)
        runs = {
            "2026-01-02-z-losses.csv": "2026-01-02 08:00 UTC",
            "2026-01-02-a-losses.csv": "2026-01-02 20:00 UTC",
            "2026-01-02-old-losses.csv": "2026-01-02",  # before runs told their time
            "2026-01-01-z-losses.csv": "2026-01-01 23:00 UTC",
            "2026-01-03-z-loader.csv": "2026-01-03 08:00 UTC",
        }
        for name, date in runs.items():
            (kept / name).write_text(f"section,date\nlibraries,{date}\n")
        (kept / "2026-01-02-a-gpu.csv").write_text("loss\ncopy\n")  # nor did these
        (kept / "2026-01-03-a-gpu.csv").write_text("loss\ncopy\n")
        monkeypatch.setattr(readme, "PROJECT", tmp_path)
        assert [readme.newest(kind).name for kind in ("losses", "gpu")] == [
            "2026-01-02-a-losses.csv",
            "2026-01-03-a-gpu.csv",
        ]
        assert readme.newest("nothing") is None

    def test_tables_are_made_from_the_csv(self, readme, results: Path, gpu_results: Path) -> None:
        text = readme.filled(README, results, gpu_results)
        assert readme.PENDING not in text
        rows = [line for line in text.splitlines() if line.startswith(("| rarepixel |", "| kornia |"))]
        assert rows == [
            "| rarepixel | 4.0 | 3.0 |",
            "| kornia | 34.3 (8.6 x) | – |",
            "| rarepixel | 0.46 | 0.46 | 0.46 |",
            "| kornia | 10.0 (21.9 x) | – | – |",
            "| rarepixel | 1.0 / 0.0 | 1.0 / 0.0 | – / 0.0 |",
            "| kornia | 5.1 / 5.1 | – | – |",
            "| rarepixel | 2e-08 / 2e-07 | 2e-08 / 2e-07 |",
            "| kornia | 2e-08 / 2e-07 | – |",
        ]
        with results.open(newline="") as file:
            facts = next(csv.DictReader(file))
        for fact in ("cpu", "cpu_count", "commit", "date", "python"):
            assert facts[fact] in text
        assert "(4, 5, 512, 512) float32 and int64 labels, 2 threads" in text
        assert readme.filled(text, results, gpu_results) == text

    def test_the_table_of_a_gpu_is_made_from_its_csv(self, readme, gpu_results: Path) -> None:
        text = readme.filled(README, None, gpu_results)
        assert "a card, driver 1, CUDA 13.0, torch 2.9; commit abc." in text
        assert "| (2, 5, 8, 8) float32, int64 | 0.250 (10 x, –); 50 %, 88 % |" in text

    def test_what_is_not_between_markers_is_kept(self, readme, results: Path) -> None:
        for path in (results, None):
            outside = re.compile(r"(<!-- bench: \w+ -->).*?<!-- end -->", re.DOTALL)
            assert outside.sub(r"\1", readme.filled(README, path, None)) == outside.sub(r"\1", README)

    def test_lost_markers_and_other_tables_are_errors(self, readme, results: Path) -> None:
        with pytest.raises(ValueError, match=r"bench: libraries.*got 0"):
            readme.filled(README.replace("<!-- bench: libraries -->", ""), results, None)
        with pytest.raises(ValueError, match=r"loader\.csv: got no column"):
            readme.filled(README, next((PROJECT / "benches" / "results").glob("*-loader.csv")), None)
        lines = results.read_text().splitlines(keepends=True)
        results.write_text("".join(line for line in lines if "confusion matrix" not in line))
        with pytest.raises(ValueError, match="expected the sections libraries and metrics"):
            readme.filled(README, results, None)

    def test_the_picture_has_the_same_bytes_each_time(self, readme, results: Path, tmp_path: Path) -> None:
        import picture
        import report

        measurements, facts = report.read_csv(results)
        first, second = tmp_path / "first.svg", tmp_path / "second.svg"
        for path in (first, second):
            picture.draw(measurements, facts["cpu"], path)
        assert first.read_bytes() == second.read_bytes()
        assert self.left_out(results, first) == []
        first.write_text(first.read_text().replace("34.3", "3.43"))
        assert self.left_out(results, first) == ["34.3"]

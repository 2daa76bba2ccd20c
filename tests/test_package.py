"""The package itself: its names, and that it does without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rarepixel as rp

# Python as if torch were not installed.
WITHOUT_TORCH = """
import importlib.abc, sys

class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Nothing())
"""


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("hidden", [WITHOUT_TORCH, "import sys; sys.modules['torch'] = None\n"], ids=["finder", "None"])
def test_names_without_torch(hidden: str) -> None:
    code = """
import inspect, pydoc, rarepixel

assert "class_weights" in dir(rarepixel) and "xbd" in dir(rarepixel)
assert not {"FocalLoss", "focal_loss", "losses", "multi_scale", "ops"} & {*dir(rarepixel)}, dir(rarepixel)
assert dict(inspect.getmembers(rarepixel))["xbd"] is rarepixel.xbd
assert "class_weights" in pydoc.render_doc(rarepixel)
from rarepixel import *
assert class_weights is rarepixel.class_weights and numpy is rarepixel.numpy
"""
    run(hidden + code)


@pytest.mark.parametrize("name", ["FocalLoss", "focal_loss", "Stage", "losses", "multi_scale"])
def test_a_name_that_needs_torch_says_so(name: str) -> None:
    code = f"""
import rarepixel
for statement in ("rarepixel.{name}", "from rarepixel import {name}"):
    try:
        exec(statement)
    except ImportError as error:
        assert str(error) == 'rarepixel.{name} needs torch: pip install "rarepixel[torch]"', error
    else:
        raise AssertionError(statement)
"""
    run(WITHOUT_TORCH + code)


def test_dir_has_the_public_names_alone() -> None:
    assert dir(rp) == sorted(rp.__all__)
    pytest.importorskip("torch")
    assert {"FocalLoss", "focal_loss", "losses", "multi_scale", "ops"} < {*dir(rp)}
    assert all(hasattr(rp, name) for name in dir(rp))


@pytest.mark.parametrize("look", ["dir(rarepixel)", "rarepixel.__all__", "hasattr(rarepixel, 'no_such_name')"])
def test_looking_does_not_import_torch(look: str) -> None:
    run(f"import sys, rarepixel; {look}; assert 'torch' not in sys.modules")


def test_a_module_is_reached_before_its_names() -> None:
    pytest.importorskip("torch")
    run("import rarepixel as rp; assert rp.multi_scale.Stage is rp.Stage")


def test_star_import_with_torch() -> None:
    pytest.importorskip("torch")
    run("from rarepixel import *; assert FocalLoss and multi_scale and focal_loss and xbd")

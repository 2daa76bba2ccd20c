"""Pictures, by what is drawn in them."""

from __future__ import annotations

import builtins
import subprocess
import sys

import numpy as np
import pytest

import rarepixel as rp

pytest.importorskip("matplotlib")


def sample(rows=None, height=12, width=16):
    """A pre and a post image and a mask with every class and one ignored pixel."""
    shape = (height, width) if rows is None else (rows, height, width)
    random = np.random.default_rng(0)
    pre, post = (random.integers(0, 256, (*shape, 3), dtype=np.uint8) for _ in range(2))
    mask = np.zeros(shape, dtype=np.uint8)
    mask[..., 0, :6] = [0, 1, 2, 3, 4, 255]
    return pre, post, mask


def drawn(axes):
    return np.asarray(axes.get_images()[0].get_array())


def legend(figure):
    return {text.get_text(): patch.get_facecolor() for text, patch in
            zip(figure.legends[0].get_texts(), figure.legends[0].get_patches(), strict=True)}  # fmt: skip


def test_damage_panel_draws_images_and_colours():
    pre, post, mask = sample()
    prediction = np.full_like(mask, 4)
    figure = rp.plot.damage_panel(pre, post, mask, prediction)
    assert [axes.get_title() for axes in figure.axes] == ["pre", "post", "truth", "prediction"]
    np.testing.assert_array_equal(drawn(figure.axes[0]), pre)
    np.testing.assert_array_equal(drawn(figure.axes[1]), post)
    truth = drawn(figure.axes[2])
    np.testing.assert_array_equal(truth[0, :5], rp.xbd.CLASS_COLORS)
    np.testing.assert_array_equal(truth[0, 5], rp.plot.IGNORED_COLOR)
    np.testing.assert_array_equal(truth[1:], 0)
    assert (drawn(figure.axes[3]) == rp.xbd.CLASS_COLORS[4]).all()
    colors = legend(figure)
    assert list(colors) == [*rp.xbd.CLASS_NAMES, "un-classified (ignored)"]
    np.testing.assert_allclose(colors["destroyed"][:3], np.array(rp.xbd.CLASS_COLORS[4]) / 255)


def test_damage_panel_takes_batches_channels_first_floats_and_torch(tmp_path):
    torch = pytest.importorskip("torch")
    pre, post, mask = sample(rows=3)
    mask[mask == 255] = 0
    first = torch.from_numpy(np.moveaxis(pre, -1, 1) / 255).requires_grad_()
    figure = rp.plot.damage_panel(first, post, torch.from_numpy(mask), titles=["a", "b", "c"])
    assert len(figure.axes) == 9
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == ["a", "b", "c"]
    np.testing.assert_allclose(drawn(figure.axes[3]), pre[1] / 255)
    assert "un-classified (ignored)" not in legend(figure)
    figure.savefig(tmp_path / "panel.png")
    assert (tmp_path / "panel.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"post": np.zeros((5, 16, 3), np.uint8)}, r"post: got 1 of 5 x 16, expected 1 of 12 x 16, as truth"),
        ({"pre": np.zeros((12, 16), np.uint8)}, r"pre: got shape \(12, 16\), expected \(3, H, W\)"),
        ({"pre": np.full((12, 16, 3), -2.0)}, r"pre: got float64 from -2.0 to -2.0, expected uint8 or floats"),
        ({"prediction": np.full((12, 16), 5)}, r"prediction: got class 5, expected 0 to 4 or 255"),
        ({"truth": np.zeros((12, 16))}, r"truth: got shape \(12, 16\) of float64, expected"),
        ({"titles": ["a", "b"]}, r"titles: got 2, expected 1"),
        ({"truth": np.zeros((0, 12, 16), np.uint8)}, r"truth: got shape \(0, 12, 16\), expected at least one element"),
        ({"pre": np.zeros((3, 0, 16), np.uint8)}, r"pre: got shape \(3, 0, 16\), expected at least one element"),
    ],
)
def test_damage_panel_names_bad_input(change, message):
    pre, post, truth = sample()
    with pytest.raises(ValueError, match=message):
        rp.plot.damage_panel(**{"pre": pre, "post": post, "truth": truth} | change)


def test_damage_panel_takes_no_single_text_for_the_titles_of_several_samples():
    pre, post, truth = sample(rows=4)
    with pytest.raises(TypeError, match=r"titles: got 'tile', expected a sequence of 4 texts, one for each sample"):
        rp.plot.damage_panel(pre, post, truth, titles="tile")


def narrow_figures():
    """The narrowest that the functions draw, with the longest legend."""
    pre, post, mask = sample(height=16)
    gradients, truth = gradients_of_one_building()
    return {
        "damage_panel": rp.plot.damage_panel(pre, post, mask),
        "gradient_map": rp.plot.gradient_map({"flat": gradients["flat"]}, truth),
    }


@pytest.mark.parametrize("name", ["damage_panel", "gradient_map"])
def test_the_legend_lies_inside_a_narrow_figure_and_below_the_panels(name):
    figure = narrow_figures()[name]
    figure.draw_without_rendering()
    extent = figure.legends[0].get_window_extent()
    assert len(figure.legends[0].get_texts()) == 6
    assert figure.bbox.x0 <= extent.x0 < extent.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= extent.y0
    assert extent.y1 <= min(axes.get_tightbbox().y0 for axes in figure.axes)


def test_the_legend_of_a_wide_figure_is_one_row():
    pre, post, mask = sample()
    mask[mask == 255] = 0
    assert rp.plot.damage_panel(pre, post, mask, mask).legends[0]._ncols == 5


def test_class_mix_draws_the_counts():
    figure = rp.plot.class_mix(np.array([96_000, 2_700, 100, 100, 0]))
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [96_000, 2_700, 100, 100, 0]
    np.testing.assert_allclose(axes.patches[3].get_facecolor()[:3], np.array(rp.xbd.CLASS_COLORS[3]) / 255)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(rp.xbd.CLASS_NAMES)
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "pixels (logarithmic)"
    assert axes.texts[0].get_text() == "97.07 %"
    figure.canvas.draw()
    with pytest.raises(ValueError, match=r"counts: got shape \(2,\), expected \(5,\)"):
        rp.plot.class_mix([1, 2])


@pytest.mark.parametrize("counts", [[0] * 5, [96_000, 1, 0, 0, 10**12], [0.5, 0.25, 0, 0, 0.25]])
def test_class_mix_labels_bars_of_any_length(counts):
    figure = rp.plot.class_mix(counts)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert len(axes.texts) == 5
    for text in axes.texts:
        extent = text.get_window_extent()
        assert axes.bbox.x0 < extent.x0 < extent.x1 <= axes.bbox.x1


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), "many"])
def test_class_mix_names_a_bad_count(wrong):
    with pytest.raises(ValueError, match=rf"counts: got \[.*{wrong}.*\], expected finite numbers of at least 0"):
        rp.plot.class_mix([1, 2, 3, 4, wrong])


def test_loss_curves_draw_the_history():
    history = [
        {"epoch": epoch, "train_loss": 1 / epoch, "validation_loss": 2 / epoch, "dice_destroyed": 0.1 * epoch}
        for epoch in range(1, 6)
    ]
    as_text = [{name: str(value) for name, value in row.items()} for row in history]  # as csv.DictReader gives them
    for rows in (history, as_text):
        losses, scores = rp.plot.loss_curves(rows).axes
        assert [line.get_label() for line in losses.lines] == ["train loss", "validation loss"]
        np.testing.assert_allclose(losses.lines[1].get_ydata(), [2 / epoch for epoch in range(1, 6)])
        np.testing.assert_allclose(losses.lines[1].get_xdata(), range(1, 6))
        assert (losses.get_xlabel(), losses.get_ylabel()) == ("epoch", "loss")
        assert [line.get_label() for line in scores.lines] == ["Dice destroyed"]
        np.testing.assert_allclose(scores.lines[0].get_ydata(), [0.1 * epoch for epoch in range(1, 6)])
        assert losses.lines[0].get_color() != losses.lines[1].get_color()
        assert losses.lines[0].get_marker() != losses.lines[1].get_marker()


def test_loss_curves_draw_the_parts_of_a_loss_too():
    history = [{"epoch": 1, "train_loss": 3.0, "train_loss_1/8": 1.0, "train_loss_1": 2.0, "loss_seconds": 9.0}]
    (axes,) = rp.plot.loss_curves(history).axes
    assert [line.get_label() for line in axes.lines] == ["train loss", "train loss 1/8", "train loss 1"]
    np.testing.assert_allclose([line.get_ydata()[0] for line in axes.lines], [3, 1, 2])


def test_loss_curves_name_a_bad_history():
    for history in ([], [{"train_loss": 1.0}], [{"epoch": 1}]):
        with pytest.raises(ValueError, match=r"history: got columns .*, expected epoch and train_loss"):
            rp.plot.loss_curves(history)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"epoch": 2}, r"history: got row 1 without train_loss, which row 0 has"),
        ({"epoch": 2, "train_loss": "low"}, r"history: got train_loss 'low' in row 1, expected a number"),
        ({"epoch": 2, "train_loss": None}, r"history: got train_loss None in row 1, expected a number"),
    ],
)
def test_loss_curves_name_a_bad_row(row, message):
    with pytest.raises(ValueError, match=message):
        rp.plot.loss_curves([{"epoch": 1, "train_loss": 1.0}, row])


def test_without_matplotlib_the_error_says_how_to_get_it(monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments, **keywords):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="matplotlib")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r'rarepixel.plot needs matplotlib: pip install "rarepixel\[demo\]"'):
        rp.plot.class_mix([1, 1, 1, 1, 1])


def test_import_rarepixel_imports_neither_matplotlib_nor_torch():
    code = "import sys, rarepixel.plot; print(sorted({'torch', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def gradients_of_one_building():
    """Two losses over 4 x 5 pixels: one has all its gradient on the building, one the same everywhere."""
    mask = np.zeros((4, 5), dtype=np.uint8)
    mask[1, 2], mask[3, 4] = 4, 255
    focused, flat = np.zeros((3, 4, 5)), np.ones((1, 3, 4, 5), dtype=np.float32)
    focused[:, 1, 2] = [1e-3, -2e-3, 1e-3]
    return {"focused": focused, "flat": flat}, mask


def test_gradient_map_draws_multiples_of_the_mean():
    gradients, mask = gradients_of_one_building()
    figure = rp.plot.gradient_map(gradients, mask)
    truth, focused, flat = figure.axes[:3]
    assert [axes.get_title() for axes in figure.axes[:3]] == ["truth", "focused", "flat"]
    np.testing.assert_array_equal(drawn(truth)[1, 2], rp.xbd.CLASS_COLORS[4])
    np.testing.assert_allclose(drawn(focused), np.where(mask == 4, 20.0, 0.0))  # all of it on 1 of 20 pixels
    np.testing.assert_allclose(drawn(flat), 1.0)
    assert [axes.get_xlabel() for axes in (focused, flat)] == ["100 % on buildings", "5 % on buildings"]
    limits = {axes.get_images()[0].get_clim() for axes in (focused, flat)}
    assert limits == {(0.01, 20.0)}, "one scale for all losses"
    assert "un-classified (ignored)" in legend(figure)
    figure.canvas.draw()


def test_gradient_map_takes_torch_and_a_gradient_of_zero():
    torch = pytest.importorskip("torch")
    figure = rp.plot.gradient_map({"none": torch.zeros(1, 5, 4, 5)}, torch.zeros(1, 4, 5, dtype=torch.uint8))
    np.testing.assert_array_equal(drawn(figure.axes[1]), 0)
    assert figure.axes[1].get_xlabel() == "0 % on buildings"
    figure.canvas.draw()


@pytest.mark.parametrize(
    ("gradients", "message"),
    [
        ({}, r"gradients: got 0 for 1 masks, expected some, for one mask"),
        ({"ce": np.zeros((5, 4))}, r"gradients\['ce'\]: got shape \(5, 4\), expected \(C, 4, 5\), as truth"),
        ({"ce": np.zeros((2, 5, 4, 5))}, r"gradients\['ce'\]: got shape \(2, 5, 4, 5\), expected"),
        ({"ce": np.full((5, 4, 5), np.nan)}, r"gradients\['ce'\]: got nan or inf, expected finite"),
    ],
)
def test_gradient_map_names_bad_input(gradients, message):
    with pytest.raises(ValueError, match=message):
        rp.plot.gradient_map(gradients, np.zeros((4, 5), np.uint8))


def test_gradient_map_takes_every_dense_tensor():
    torch = pytest.importorskip("torch")
    truth = np.zeros((16, 16), np.uint8)
    gradient = torch.randn(5, 16, 16, generator=torch.Generator().manual_seed(0))
    negative = torch.complex(torch.zeros_like(gradient), gradient).conj().imag
    rp.plot.gradient_map({"bfloat16": gradient.bfloat16(), "negative": negative}, truth)
    for wrong in (gradient.to_sparse(), gradient.to("meta")):
        with pytest.raises(TypeError, match=r"gradients\['wrong'\]: got a torch.s.* tensor on .*, expected a dense"):
            rp.plot.gradient_map({"wrong": wrong}, truth)
    with pytest.raises(TypeError, match="truth: got MaskedArray, expected an array without a mask"):
        rp.plot.gradient_map({"one": gradient}, np.ma.masked_array(truth))


def test_loss_curves_of_negative_losses_stand_upright():
    history = [{"epoch": epoch, "train_loss": -float(epoch)} for epoch in range(3)]
    bottom, top = rp.plot.loss_curves(history).axes[0].get_ylim()
    assert bottom < -2 < top


def test_gradient_map_takes_no_gradients_without_names():
    with pytest.raises(TypeError, match=r"gradients: got list, expected a mapping from the name of each loss"):
        rp.plot.gradient_map([np.ones((5, 4, 5))], np.zeros((4, 5), np.uint8))

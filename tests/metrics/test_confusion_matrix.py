"""The confusion matrix against a brute-force count, hand-worked tables and bad input."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rarepixel as rp

torch = pytest.importorskip("torch")

LOGIT_DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LABEL_DTYPES = [torch.uint8, torch.int16, torch.int32, torch.int64]


def brute_force(prediction, target, num_classes, ignore_index):
    """One pixel at a time."""
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    for p, t in zip(np.asarray(prediction).ravel(), np.asarray(target).ravel(), strict=True):
        if t != ignore_index:
            counts[t, p] += 1
    return counts


@st.composite
def batches(draw):
    """Logits with ties and nan, a target with ignored pixels, and how they lie in memory."""
    num_classes = draw(st.sampled_from([2, 3, 5, 16, 17, 40]))
    spatial = draw(st.sampled_from([(), (1,), (7,), (300,), (5, 9), (33, 17), (3, 4, 5), (0,)]))
    samples = draw(st.integers(0, 3))
    ignore_index = draw(st.sampled_from([255, -100, 0, 1]))
    label_dtype = draw(st.sampled_from(LABEL_DTYPES))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    # Small whole numbers: exact in every dtype, with many ties.
    logits = random.integers(-4, 5, (samples, num_classes, *spatial)).astype(np.float32)
    logits[random.random(logits.shape) < draw(st.sampled_from([0.0, 0.1]))] = np.nan
    target = random.integers(0, num_classes, (samples, *spatial))
    if not (ignore_index < 0 and label_dtype == torch.uint8):
        target[random.random(target.shape) < 0.2] = ignore_index
    logits = torch.from_numpy(logits).to(draw(st.sampled_from(LOGIT_DTYPES)))
    return logits, torch.from_numpy(target).to(label_dtype), num_classes, ignore_index


def rearranged(tensor, layout):
    """The same values, lying in memory in another way."""
    if layout == "contiguous":
        return tensor
    if layout == "channels_last":
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1) if tensor.ndim > 1 else tensor
    if layout == "reversed dimensions":
        return tensor.permute(*reversed(range(tensor.ndim))).contiguous().permute(*reversed(range(tensor.ndim)))
    padded = torch.full([size + 3 for size in tensor.shape], 99, dtype=tensor.dtype, device=tensor.device)
    crop = padded[tuple(slice(1, size + 1) for size in tensor.shape)]
    crop.copy_(tensor)
    return crop


layouts = st.sampled_from(["contiguous", "channels_last", "reversed dimensions", "crop"])


@given(batch=batches(), input_layout=layouts, target_layout=layouts)
@settings(max_examples=150, deadline=None)
def test_logits_and_labels_equal_brute_force(batch, input_layout, target_layout):
    logits, target, num_classes, ignore_index = batch
    prediction = logits.float().argmax(1)
    expected = brute_force(prediction, target, num_classes, ignore_index)
    logits, target = rearranged(logits, input_layout), rearranged(target, target_layout)

    from_logits = rp.metrics.ConfusionMatrix(num_classes, ignore_index)
    from_logits.update(logits, target)
    np.testing.assert_array_equal(from_logits.matrix, expected)

    from_labels = rp.metrics.ConfusionMatrix(num_classes, ignore_index)
    from_labels.update(prediction, target)
    np.testing.assert_array_equal(from_labels.matrix, expected)


def test_many_pixels_and_classes():
    generator = torch.Generator().manual_seed(0)
    for num_classes, shape in [(5, (2, 400, 500)), (1024, (1, 60, 50))]:
        logits = torch.randn(shape[0], num_classes, *shape[1:], generator=generator)
        target = torch.randint(num_classes, shape, generator=generator)
        matrix = rp.metrics.ConfusionMatrix(num_classes, ignore_index=-100)
        matrix.update(logits, target)
        expected = torch.bincount((target * num_classes + logits.argmax(1)).ravel(), minlength=num_classes**2)
        np.testing.assert_array_equal(matrix.matrix.ravel(), expected.numpy())


@pytest.mark.parametrize("dtype", LOGIT_DTYPES, ids=str)
def test_nan_is_the_largest_and_the_first_wins(dtype):
    nan, inf = float("nan"), float("inf")
    columns = [([1, 1, 0], 0), ([inf, nan, nan], 1), ([nan, inf, nan], 0), ([-inf, -inf, -inf], 0), ([0, 1, inf], 2)]
    logits = torch.tensor([values for values, _ in columns], dtype=dtype)
    expected = [largest for _, largest in columns]
    assert logits.float().argmax(1).tolist() == expected  # torch's own rule
    for index, largest in enumerate(expected):
        matrix = rp.metrics.ConfusionMatrix(3)
        matrix.update(logits[index : index + 1], torch.tensor([2]))
        assert matrix.matrix[2].argmax() == largest


def test_numpy_arrays_of_any_kind():
    """Logits and labels that are reversed, big-endian, unaligned, a field of a packed struct, or bool."""
    random = np.random.default_rng(0)
    logits = random.standard_normal((2, 3, 4, 5)).astype(np.float32)
    target = random.integers(0, 2, (2, 4, 5)).astype(np.int32)
    expected = brute_force(logits.argmax(1), target, 3, 255)
    packed = np.zeros(target.shape, dtype=[("flag", "u1"), ("label", "i4")])
    packed["label"] = target
    unaligned = np.frombuffer(b"x" + target.tobytes(), dtype=np.int32, offset=1).reshape(target.shape)
    for same in (
        target,
        target.astype(">i4"),
        packed["label"],
        unaligned,
        target.astype(bool),
        np.ascontiguousarray(target[:, ::-1])[:, ::-1],
        np.asfortranarray(target),
    ):
        matrix = rp.metrics.ConfusionMatrix(3)
        matrix.update(logits, same)
        np.testing.assert_array_equal(matrix.matrix, expected)
    read_only = target.copy()
    read_only.flags.writeable = False
    matrix = rp.metrics.ConfusionMatrix(3)
    matrix.update(logits.astype(np.float64)[..., ::-1][..., ::-1], read_only)
    np.testing.assert_array_equal(matrix.matrix, expected)


def test_tensors_that_carry_a_gradient_or_are_bool_or_expanded():
    matrix = rp.metrics.ConfusionMatrix(2)
    matrix.update(torch.tensor([[0.0, 1.0]], requires_grad=True), torch.tensor([True]))
    matrix.update(
        torch.tensor([[[1.0]], [[0.0]]]).movedim(1, 0).expand(1, 2, 1000), torch.zeros(1, 1).expand(1, 1000).int()
    )
    np.testing.assert_array_equal(matrix.matrix, [[1000, 0], [0, 1]])


def test_metrics_by_hand():
    """Rows: 8 + 2 background, 3 + 1 of class 1, none of class 2; class 3 is in nothing."""
    matrix = rp.metrics.ConfusionMatrix(4)
    matrix.load_state_dict(
        {"num_classes": 4, "ignore_index": 255, "matrix": [[8, 1, 1, 0], [1, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]}
    )
    nan = np.nan
    np.testing.assert_allclose(matrix.dice(), [16 / 19, 6 / 8, 0, nan])
    np.testing.assert_allclose(matrix.iou(), [8 / 11, 3 / 5, 0, nan])
    np.testing.assert_allclose(matrix.precision(), [8 / 9, 3 / 4, 0, nan])
    np.testing.assert_allclose(matrix.recall(), [8 / 10, 3 / 4, nan, nan])
    np.testing.assert_array_equal(matrix.support(), [10, 4, 0, 0])
    assert matrix.accuracy() == pytest.approx(11 / 14)
    assert matrix.dice(average="macro") == pytest.approx((16 / 19 + 6 / 8 + 0) / 3)
    assert matrix.recall(average="macro") == pytest.approx((8 / 10 + 3 / 4) / 2)


def test_the_accuracy_trap():
    """The course's example: all background is 97 % right and finds nothing."""
    target = np.repeat([0, 1, 2, 3, 4], [96_000, 2_700, 100, 100, 100])[None]
    matrix = rp.metrics.ConfusionMatrix(5)
    matrix.update(np.zeros_like(target), target)
    assert matrix.accuracy() == pytest.approx(96_000 / 99_000)
    np.testing.assert_array_equal(matrix.recall(), [1, 0, 0, 0, 0])


def test_nothing_counted_gives_nan():
    matrix = rp.metrics.ConfusionMatrix(2)
    matrix.update(np.zeros((1, 3), dtype=np.uint8), np.full((1, 3), 255, dtype=np.uint8))
    assert np.isnan(matrix.accuracy())
    assert np.isnan(matrix.iou()).all()
    assert np.isnan(matrix.iou(average="macro"))


def test_ignored_pixels_may_hold_anything():
    matrix = rp.metrics.ConfusionMatrix(2)
    matrix.update(np.array([[99, -7, 1]]), np.array([[255, 255, 1]]))
    np.testing.assert_array_equal(matrix.matrix, [[0, 0], [0, 1]])


def some_matrix(seed=0):
    matrix = rp.metrics.ConfusionMatrix(5)
    random = np.random.default_rng(seed)
    matrix.update(random.integers(0, 5, (1, 100)), random.integers(0, 5, (1, 100)))
    return matrix


def test_merge_add_reset_and_copy():
    first, second = some_matrix(1), some_matrix(2)
    total = first + second
    np.testing.assert_array_equal(total.matrix, first.matrix + second.matrix)
    first.merge(second)
    np.testing.assert_array_equal(first.matrix, total.matrix)
    total.matrix[:] = 7  # a copy: the counts stay
    np.testing.assert_array_equal(first.matrix, total.matrix)
    first.reset()
    assert first.matrix.sum() == 0


def test_state_survives_pickle_json_and_a_checkpoint(tmp_path):
    matrix = some_matrix()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(matrix)).matrix, matrix.matrix)
    torch.save(matrix.state_dict(), tmp_path / "state.pt")
    for state in (json.loads(json.dumps(matrix.state_dict())), torch.load(tmp_path / "state.pt", weights_only=True)):
        other = rp.metrics.ConfusionMatrix(5)
        other.load_state_dict(state)
        np.testing.assert_array_equal(other.matrix, matrix.matrix)


@pytest.mark.parametrize(
    ("input", "target", "error", "message"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 4).int(), ValueError, r"input: got shape \[2, 3, 4\], .* 5, 4\]"),
        (torch.zeros(2, 5, 4), torch.zeros(2, 5).int(), ValueError, r"expected shape \[2, 5, 5\]"),
        (torch.zeros(2, 5), torch.zeros(3).int(), ValueError, r"input: got shape \[2, 5\], expected shape \[3, 5\]"),
        (torch.zeros(2, 4).int(), torch.zeros(2, 5).int(), ValueError, r"the shape of target, as input holds labels"),
        (torch.tensor(1), torch.tensor(1), ValueError, r"target: got shape \[\], expected shape \(N, \*spatial\)"),
        (torch.zeros(2, 5), torch.zeros(2), TypeError, "target: got float32, expected class indices in uint8"),
        (torch.zeros(2).to(torch.int8), torch.zeros(2).int(), TypeError, "input: got int8, expected logits in float16"),
        (torch.zeros(2, 5), torch.zeros(2).to(torch.uint16), TypeError, "target: got uint16, expected class indices"),
        (torch.zeros(2, 5).to_sparse(), torch.zeros(2).int(), TypeError, "input: got a torch.sparse_coo tensor on cpu"),
        (torch.zeros(2, 5, device="meta"), torch.zeros(2).int(), TypeError, "a torch.strided tensor on meta"),
        ([[0.0] * 5], np.zeros(1, int), TypeError, "input: got list, expected a torch tensor or a NumPy array"),
        (np.zeros((1, 5)), "label", TypeError, "target: got str, expected"),
    ],
)  # fmt: skip
def test_bad_input_is_named(input, target, error, message):
    with pytest.raises(error, match=message):
        rp.metrics.ConfusionMatrix(5).update(input, target)


@pytest.mark.parametrize("dtype", LABEL_DTYPES, ids=str)
def test_a_wrong_label_is_named_with_its_position_and_nothing_is_counted(dtype):
    target = torch.zeros(2, 20, 30, dtype=dtype)
    target[1, 17, 4] = 5
    target[1, 18, 0] = 9
    matrix = rp.metrics.ConfusionMatrix(5)
    with pytest.raises(
        ValueError,
        match=r"target: got label 5 at position \[1, 17, 4\], expected 0 to 4 or ignore_index \(255\)",
    ):
        matrix.update(torch.zeros(2, 5, 20, 30), target)
    with pytest.raises(ValueError, match=r"input: got label 5 at position \[1, 17, 4\], expected 0 to 4 where"):
        matrix.update(target, torch.zeros(2, 20, 30, dtype=torch.uint8))
    assert matrix.matrix.sum() == 0


@pytest.mark.parametrize("label", [-1, 2**32, -(2**63), 2**63 - 1])
def test_labels_of_64_bits_are_not_cut_off(label):
    with pytest.raises(ValueError, match=rf"target: got label {label} at position \[0\]"):
        rp.metrics.ConfusionMatrix(5).update(np.zeros((1, 5)), np.array([label]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 5.0}, TypeError, "num_classes: got 5.0, expected a whole number"),
        ({"num_classes": "5"}, TypeError, "num_classes: got '5', expected a whole number"),
        ({"ignore_index": None}, TypeError, "ignore_index: got None, expected a whole number"),
        ({"ignore_index": 255.0}, TypeError, "ignore_index: got 255.0, expected a whole number"),
        (
            {"ignore_index": 2**63},
            ValueError,
            "ignore_index: got 9223372036854775808, expected -9223372036854775808 to",
        ),
    ],
)
def test_arguments_are_checked_when_it_is_made(arguments, error, message):
    with pytest.raises(error, match=message):
        rp.metrics.ConfusionMatrix(**{"num_classes": 5} | arguments)
    matrix = rp.metrics.ConfusionMatrix(np.int64(5), np.uint8(255))
    assert repr(matrix) == "ConfusionMatrix(num_classes=5, ignore_index=255)"


@pytest.mark.parametrize("other", [3, rp.metrics.XView2Metric()])
def test_another_type_is_not_merged(other):
    with pytest.raises(TypeError, match=f"other: got {type(other).__name__}, expected a ConfusionMatrix"):
        some_matrix().merge(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"matrix": [[1, 2], [3]]}, r"state: got a matrix whose rows differ in length, expected shape \(2, 2\)"),
        ({"matrix": [[1, 2], [3, 4.5]]}, r"state: got the matrix .*4.5.*, expected whole numbers of at least 0"),
        ({"matrix": [[1, 2], [3, -4]]}, r"state: got the matrix .*-4.*, expected whole numbers of at least 0"),
        ({"matrix": [[1, 2], [3, 2**63]]}, r"state: got the matrix .*, expected whole numbers of at least 0"),
        ({"ignore_index": 0}, "state: got ignore_index 0, expected 255"),
    ],
)
def test_a_state_that_holds_no_counts_is_refused(change, message):
    matrix = rp.metrics.ConfusionMatrix(2)
    matrix.update(np.array([[0, 1]]), np.array([[1, 1]]))
    before = matrix.state_dict()
    with pytest.raises(ValueError, match=message):
        matrix.load_state_dict(before | change)
    assert matrix.state_dict() == before


def test_a_state_that_lacks_a_key_or_is_none_is_refused():
    with pytest.raises(ValueError, match=r"state: got keys \['num_classes'\], expected ignore_index and matrix too"):
        some_matrix().load_state_dict({"num_classes": 5})
    with pytest.raises(TypeError, match=r"state: got list, expected the dict of state_dict\(\)"):
        some_matrix().load_state_dict([])


def test_bad_arguments_of_the_class():
    with pytest.raises(ValueError, match="num_classes: got 1, expected at least 2"):
        rp.metrics.ConfusionMatrix(1)
    with pytest.raises(ValueError, match="average: got 'micro', expected None or \"macro\""):
        some_matrix().dice(average="micro")
    with pytest.raises(ValueError, match="other: got ConfusionMatrix"):
        some_matrix().merge(rp.metrics.ConfusionMatrix(5, ignore_index=0))
    with pytest.raises(TypeError):
        some_matrix() + 1
    with pytest.raises(ValueError, match="state: got num_classes 4, expected 5"):
        some_matrix().load_state_dict(rp.metrics.ConfusionMatrix(4).state_dict())
    with pytest.raises(ValueError, match=r"state: got a matrix of shape \(0,\), expected \(5, 5\)"):
        some_matrix().load_state_dict({"num_classes": 5, "ignore_index": 255, "matrix": []})


def test_an_interrupt_in_the_first_call_of_a_process_is_one() -> None:
    """NumPy's own interface, loaded then, would make a panic of it."""
    code = """if True:
        import os, signal, threading
        import numpy as np, rarepixel as rp
        logits, target = np.zeros((8, 5, 1024, 1024), np.float32), np.zeros((8, 1024, 1024), np.uint8)
        matrix = rp.metrics.ConfusionMatrix(5)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background
        threading.Timer(0.002, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            for _ in range(1000):
                matrix.update(logits, target)
        except KeyboardInterrupt:
            print("interrupted")
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_a_child_forked_before_any_loss_counts_on_threads_of_its_own() -> None:
    """torch's are those of the parent."""
    code = """if True:
        import os
        import torch, rarepixel as rp
        torch.set_num_threads(2)
        logits, target = torch.randn(2, 5, 512, 512), torch.zeros(2, 512, 512, dtype=torch.uint8)
        logits.softmax(1)
        matrix = rp.metrics.ConfusionMatrix(5)
        child = os.fork()
        matrix.update(logits, target)
        if child == 0:
            os._exit(int(matrix.matrix.sum()) != 2 * 512 * 512)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_more_classes_than_there_is_memory_for() -> None:
    code = """if True:
        import resource
        import numpy as np, rarepixel as rp
        matrix = rp.metrics.ConfusionMatrix(30000)
        resource.setrlimit(resource.RLIMIT_AS, (10 << 30, 10 << 30))
        labels = np.zeros((1, 4), int)
        try:
            matrix.update(labels, labels)
        except ValueError as error:
            print(error)
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == (
        "num_classes: got 30000, expected fewer classes: there is no memory for a count of each pair of them\n"
    )


def test_masked_arrays_are_refused() -> None:
    target = np.ma.masked_array([[1, 1, 0, 0]], mask=[[0, 0, 1, 1]])
    matrix = rp.metrics.ConfusionMatrix(2)
    with pytest.raises(TypeError, match=r"target: got MaskedArray, expected .* \(use ignore_index to mask\)"):
        matrix.update(np.array([[1, 1, 1, 1]]), target)

"""What runs after the network gives the same for arrays and for tensors, and needs neither torch nor Detectron2."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dvis_d2.modeling.arrays import floats, like, on_host, to_host, zeros
from dvis_d2.modeling.detections import detect
from dvis_d2.modeling.grouping import group_label_map
from dvis_d2.modeling.masks import mask_boxes, mask_iou, mask_nms, matrix_nms, proposal_boxes

ROOT = Path(__file__).parents[2]
WITHOUT_TORCH = """
import sys
sys.modules |= dict.fromkeys(["torch", "torchvision", "detectron2"])
import numpy as np
from dvis_d2.modeling import detections, grouping, mask_pasting, masks
label_map = np.zeros((1, 12, 16), np.float32)
label_map[0, 2:8, 1:6], label_map[0, 3:7, 9:12] = 3, 5
(found,) = grouping.group_label_map(label_map)
boxes, _ = masks.proposal_boxes(found.masks, 4, (48, 64))
probs = np.ones((len(found), 1))
rows, _, _ = detections.detect(
    found.masks, probs[:, 0], probs, alpha=0.5, score_threshold=0.1, nms_threshold=0.5, max_detections=2
)
drawn = mask_pasting.upsample_soft_masks(found.soft[rows], stride=4, image_size=(48, 64))
print(sorted(drawn.areas().tolist()), boxes[rows].tolist())
"""


def random_masks(seed=0):
    rng = np.random.default_rng(seed)
    masks = rng.random((7, 9, 11)) < rng.random((7, 1, 1))
    masks[3] = False
    return masks


@pytest.mark.parametrize("function", [mask_boxes, lambda m: proposal_boxes(m, 4, (34, 40)), lambda m: mask_iou(m, m)])
def test_masks_of_either_type(function):
    masks = random_masks()
    found, of_tensors = function(masks), function(torch.from_numpy(masks))
    for own, other in zip(*((x if isinstance(x, tuple) else (x,)) for x in (found, of_tensors)), strict=True):
        assert isinstance(own, np.ndarray) and own.dtype == np.float32 and other.dtype == torch.float32
        np.testing.assert_array_equal(own, other.numpy())


def test_suppression_and_detections_of_either_type():
    masks, rng = random_masks(), np.random.default_rng(1)
    scores, probs = rng.random(7).astype(np.float32), rng.random((7, 3)).astype(np.float32)
    options = dict(alpha=0.5, score_threshold=0.1, nms_threshold=0.5, max_detections=5, nms="matrix")
    for call in (
        lambda t: mask_nms(t(masks), t(scores), 0.5),
        lambda t: matrix_nms(t(masks), t(scores)),
        lambda t: detect(t(masks), t(scores), t(probs), **options)[0],
    ):
        own, other = call(np.asarray), call(torch.from_numpy)
        assert isinstance(own, np.ndarray) and isinstance(other, torch.Tensor)
        np.testing.assert_array_equal(own, other.numpy())


def test_groupings_of_either_type():
    rng = np.random.default_rng(0)
    label_map = np.kron(rng.integers(0, 4, (2, 3, 4)), np.ones((1, 5, 5))) + rng.normal(0, 0.1, (2, 15, 20))
    label_map = label_map.astype(np.float32)
    before = label_map.copy()
    for own, other in zip(group_label_map(label_map), group_label_map(torch.from_numpy(label_map)), strict=True):
        for name in ("masks", "values", "scores", "soft", "levels"):
            np.testing.assert_array_equal(getattr(own, name), getattr(other, name).numpy())
            assert isinstance(getattr(own, name), np.ndarray)
    assert (label_map == before).all(), "an argument was changed"


def test_helpers_keep_type_and_device():
    half = torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True)
    assert to_host(half).dtype == np.float32 and to_host("x") == "x"
    assert like(half, np.zeros(1)) is half
    assert like(np.arange(3)[::-1], half).tolist() == [2, 1, 0]
    assert floats(np.ones(1, bool)).dtype == np.float32 and floats(half).dtype == torch.float32
    assert zeros((2, 2), half).dtype == torch.bfloat16 and zeros((2,), np.ones(1, bool)).dtype == bool
    assert isinstance(on_host(lambda a, *, b: (a, b))(half.detach(), b=np.ones(1))[1], torch.Tensor)


def test_without_torch_and_detectron2():
    run = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    areas, boxes = run.stdout.split("] ", 1)
    assert boxes.strip() == "[[4.0, 8.0, 24.0, 32.0], [36.0, 12.0, 48.0, 28.0]]"
    assert areas == "[188, 476"


def test_large_zeros_are_zeros_of_their_own():
    large, other = (zeros((3, 1024, 1024), np.ones(1, np.float32)) for _ in range(2))
    large[1] = 2
    copy = torch.from_numpy(large)
    del large  # the memory lives as long as anything of it
    assert copy.shape == (3, 1024, 1024) and copy.sum() == 2 * 1024**2 and not other.any()

"""evaluate_invariance by hand, and on an untrained model."""

import torch

from experiments import evaluate_invariance
from experiments.evaluate_invariance import agreement, resize_masks


def found(*columns, scores=None, classes=None):
    """Detections that cover the columns up to the given one of a picture of 1 x 20."""
    masks = torch.stack([torch.arange(20)[None] < column for column in columns])
    number = len(columns)
    return masks, torch.tensor(scores or [0.9] * number), torch.tensor(classes or [0] * number)


def test_agreement_counts_both_views():
    # 10 / 11 agree, 10 / 12 do not; of a detection below the score only the others ask
    assert agreement([found(10)], [found(11)], 0.5) == 100
    assert agreement([found(10)], [found(12)], 0.5) == 0
    assert agreement([found(10, 20)], [found(10)], 0.5) == 100 * 2 / 3
    assert agreement([found(10, 20)], [found(10, 20, scores=[0.9, 0.1])], 0.5) == 100
    assert agreement([found(10, 20, scores=[0.9, 0.1])], [found(10)], 0.5) == 100
    assert agreement([found(10)], [found(10, classes=[1])], 0.5) == 0


def test_masks_are_resized():
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[:, :4, 2:6] = True
    assert resize_masks(masks, (4, 4)).sum() == 4 and resize_masks(masks[:0], (4, 4)).shape == (0, 4, 4)


def test_a_view_is_told_in_the_frame_of_the_image(trained, last_json):
    options = ["MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD", "-1.0", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    evaluate_invariance.main(["--num-images", "3", "--batch-size", "2", "--score", "0.0", *trained, *options])
    rows = {row["view"]: row for row in last_json()["views"]}
    assert list(rows) == ["alone", "batch", "mirror", "corner", "moved"]
    assert rows["alone"]["detections"] == rows["batch"]["detections"] > 0
    assert rows["batch"]["agreement"] == rows["alone"]["agreement"] == 100
    assert rows["batch"]["AP"] == rows["alone"]["AP"]

import numpy as np

from dvis_d2.data.cropped_masks import CroppedMasks
from experiments.evaluate_tiled import Score, main, side_by_side


def test_masks_lie_side_by_side_as_the_images_do():
    masks = np.random.default_rng(0).random((6, 2, 3, 4)) < 0.5
    found = side_by_side([CroppedMasks.from_masks(cell) for cell in masks], 3).numpy()
    picture = np.concatenate([np.concatenate(list(masks[k : k + 3, 1]), axis=1) for k in (0, 3)])
    np.testing.assert_array_equal(found[1], np.pad(masks[0, 1], ((0, 3), (0, 8))))
    np.testing.assert_array_equal(found[1::2].any(axis=0), picture)


def test_score_counts_every_detection():
    masks = CroppedMasks.from_masks(np.eye(200, dtype=bool)[:, None])
    score = Score()
    score.add((masks, [0] * 200), [{"segmentation": rle, "category_id": 0, "score": 0.5} for rle in masks.to_rle()])
    assert score.value() > 99.9


def test_a_row_a_grid_and_json(trained, last_json):
    main(["--grids", "1", "2", "--max-images", "4", *trained])
    rows = last_json()["rows"]
    assert [(row["grid"], row["objects"]) for row in rows] == [(1, 8), (2, 8)]
    assert rows[0]["AP"] == rows[0]["single_AP"] == rows[1]["single_AP"]

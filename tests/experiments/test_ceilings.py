"""evaluate_ceiling, evaluate_proposals and evaluate_capacity."""

import numpy as np
import pytest

from experiments import evaluate_capacity, evaluate_ceiling, evaluate_proposals


def test_ceiling_of_separate_squares(tiny_coco, last_json):
    json_file, folder = tiny_coco
    evaluate_ceiling.main(["--json", str(json_file), "--images", str(folder), "--strides", "2", "4"])
    result = last_json()
    for figures in result["figures"].values():
        assert figures["grouping"]["recall50"] == figures["grid"]["recall50"] == 1
        assert figures["grouping"]["recall75"] == figures["grid"]["recall75"]
        assert figures["grouping"]["by_iou"]["AP"] <= figures["grid"]["by_iou"]["AP"] + 0.01
        assert figures["coverage"]["by_iou"]["AP"] >= figures["grid"]["by_iou"]["AP"]
    assert result["figures"]["2"]["grid"]["by_iou"]["AP"] > result["figures"]["4"]["grid"]["by_iou"]["AP"]


def test_proposals_and_capacity_of_a_network(trained, last_json, tmp_path):
    plot = tmp_path / "plot.png"
    evaluate_proposals.main(["--plot", str(plot), "--num-images", "3", *trained])
    result = last_json()
    assert result["all"]["images"] == 3 and result["by_objects"][0]["objects"] == 2 and plot.is_file()
    plot = tmp_path / "capacity.png"
    evaluate_capacity.main(["--max-objects", "2", "--images-per-count", "2", "--plot", str(plot), *trained])
    assert [row["objects"] for row in last_json()["by_objects"]] == [1, 2] and plot.is_file()


def test_capacity_pictures_hold_what_they_should(monkeypatch):
    canvas_side, draw = evaluate_capacity.canvas_side, evaluate_capacity.draw
    assert [canvas_side(n) for n in (1, 8, 20, 30)] == [48, 128, 208, 256]
    look = {"preset": "shapes_easy", "object_size": (20.5, 53.8), "seed": 0}
    image, annotations = draw(9, 0, **look)
    assert image.shape == (144, 144, 3) and len(annotations) == 9
    assert np.array_equal(image, draw(9, 0, **look)[0]) and not np.array_equal(image, draw(9, 1, **look)[0])
    monkeypatch.setattr(evaluate_capacity, "TRIES", 2)
    with pytest.raises(ValueError, match="--object-size"):
        draw(8, 0, **look | {"object_size": (120, 120)})

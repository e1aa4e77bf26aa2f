"""The programs of docs/ceilings.md as a user starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))


def run(program, *args):
    """The JSON object in the last line that the program prints."""
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tools" / program), *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_ceiling_of_separate_squares(tiny_coco):
    json_file, folder = tiny_coco
    result = run("evaluate_ceiling.py", "--json", json_file, "--images", folder, "--strides", 2, 4)
    for figures in result["figures"].values():
        assert figures["grouping"]["recall50"] == figures["grid"]["recall50"] == 1
        cost = figures["grid"]["by_iou"]["AP"] - figures["grouping"]["by_iou"]["AP"]
        assert -0.01 < cost < 0.5  # two squares that share a label may be offered as one
        assert figures["coverage"]["by_iou"]["AP"] >= figures["grid"]["by_iou"]["AP"]
    assert result["figures"]["2"]["grid"]["by_iou"]["AP"] > result["figures"]["4"]["grid"]["by_iou"]["AP"]


@pytest.mark.slow
def test_proposals_and_capacity_of_a_network(tiny_args, tiny_cfg, tmp_path):
    from detectron2.checkpoint import Checkpointer

    from dvis_d2.engine import Trainer

    Checkpointer(Trainer.build_model(tiny_cfg), str(tmp_path)).save("model")
    config = tmp_path / "config.yaml"
    config.write_text(tiny_cfg.dump())
    plot, weights = tmp_path / "plot.png", ["MODEL.WEIGHTS", tmp_path / "model.pth"]
    result = run("evaluate_proposals.py", "--config-file", config, "--plot", plot, "--num-images", 3, *weights)
    assert result["all"]["images"] == 3 and result["by_objects"][0]["objects"] == 2 and plot.is_file()
    options = ["--max-objects", 2, "--images-per-count", 2, "--plot", tmp_path / "capacity.png"]
    result = run("evaluate_capacity.py", "--config-file", config, *options, *weights)
    assert [row["objects"] for row in result["by_objects"]] == [1, 2] and (tmp_path / "capacity.png").is_file()


def test_capacity_pictures_hold_what_they_should():
    from evaluate_capacity import canvas_side, draw

    assert [canvas_side(n) for n in (1, 8, 20, 30)] == [48, 128, 208, 256]
    look = {"preset": "shapes_easy", "object_size": (20.5, 53.8), "seed": 0}
    image, annotations = draw(9, 0, **look)
    assert image.shape == (144, 144, 3) and len(annotations) == 9
    assert np.array_equal(image, draw(9, 0, **look)[0]) and not np.array_equal(image, draw(9, 1, **look)[0])
    with pytest.raises(ValueError, match="--object-size"):
        draw(8, 0, **look | {"object_size": (120, 120)})

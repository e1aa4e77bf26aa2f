"""train_net.py and demo/demo.py as a user starts them."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances

ROOT = Path(__file__).parents[1]
# ends a program where it imports torch, with how the threads that torch then makes will wait
AT_TORCH = """
import os, runpy, sys
class Finder:
    def find_spec(name, *_):
        if name == "torch":
            sys.exit(f"wait: {os.environ.get('OMP_WAIT_POLICY')}")
sys.meta_path.insert(0, Finder)
sys.argv = sys.argv[1:]
name = sys.argv[0]
runpy.run_path(name, run_name="__main__") if name.endswith(".py") else runpy.run_module(name, run_name="__main__")
"""


def run(program, *args, fails=False):
    """The output of a program started in the checkout, without any GPU."""
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / program), *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert (done.returncode != 0) == fails, done.stdout
    return done.stdout


def weights(folder):
    return torch.load(folder / "model_final.pth", weights_only=False)["model"]


def test_two_gloo_processes_train_evaluate_and_resume(tiny_args, tmp_path):
    out = tmp_path / "two"
    url = f"file://{tmp_path}/rendezvous"
    args = [*tiny_args, "OUTPUT_DIR", out]
    output = run("train_net.py", "--num-gpus", 2, "--dist-url", url, *args)
    assert "in 2 processes" in output
    metrics = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert any("segm/AP" in line for line in metrics)
    before = weights(out)
    url = f"file://{tmp_path}/rendezvous2"
    output = run("train_net.py", "--num-gpus", 2, "--dist-url", url, "--resume", *args, "SOLVER.MAX_ITER", 6)
    assert "Starting training from iteration 4" in output
    assert not torch.equal(
        before["proposal_generator.label_head.predictor.weight"],
        weights(out)["proposal_generator.label_head.predictor.weight"],
    )


def test_eval_only_reads_the_weights_and_the_demo_draws(tiny_args, tmp_path, tiny_coco):
    out = tmp_path / "out"
    run("train_net.py", *tiny_args, "OUTPUT_DIR", out)
    output = run("train_net.py", "--eval-only", *tiny_args, "OUTPUT_DIR", out, "MODEL.WEIGHTS", out / "model_final.pth")
    assert "copypaste: AP,AP50" in output and "Task: segm" in output

    # the saved config alone is enough to draw: it names the classes
    demo = ["--config-file", out / "config.yaml", "--confidence-threshold", 0.0, "--opts"]
    opts = ["MODEL.WEIGHTS", out / "model_final.pth", "MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD", "-1.0"]
    one = tmp_path / "one.jpg"
    run("demo/demo.py", "--input", tiny_coco[1] / "0.png", "--output", one, *demo, *opts)
    picture = cv2.imread(str(one))
    assert picture.shape[1] > 3.5 * picture.shape[0]  # image, label map, proposals, result
    video = cv2.VideoWriter(str(tmp_path / "film.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 5.0, (64, 64))
    for name in ("0.png", "1.png"):
        video.write(cv2.imread(str(tiny_coco[1] / name)))
    video.release()
    run("demo/demo.py", "--video-input", tmp_path / "film.mp4", "--output", tmp_path / "film", *demo, *opts)
    assert cv2.VideoCapture(str(tmp_path / "film/overlay/film.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 2


def test_the_demo_leaves_holes_in_masks():
    demo = SimpleNamespace(**runpy.run_path(str(ROOT / "demo/demo.py")))
    image, masks = np.full((60, 60, 3), 100, np.uint8), torch.zeros(1, 60, 60, dtype=torch.bool)
    masks[0, 10:50, 10:50], masks[0, 20:40, 20:40] = True, False
    found = Instances((60, 60), pred_boxes=Boxes(torch.tensor([[10.0, 10, 50, 50]])), pred_masks=masks)
    found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
    drawn = demo.draw_as_detectron2(image, found, Metadata(thing_classes=["frame"]), 2.0)
    assert drawn.shape == (120, 120, 3)
    assert (drawn[50:70, 50:70] == 100).all() and (drawn[60, 90] != 100).any()


def test_demo_names_an_input_that_is_not_there(tmp_path):
    config = ["--config-file", "configs/shapes/shapes_easy.yaml", "--output", tmp_path]
    output = run("demo/demo.py", *config, "--input", "nowhere/*.png", fails=True)
    assert "nowhere/*.png" in output and "Traceback" not in output


def test_train_net_alone_says_what_is_missing():
    lines = run("train_net.py", fails=True).splitlines()
    assert len(lines) == 3 and "--data FOLDER" in lines[1] and "--help" in lines[2]


@pytest.mark.parametrize("program", ["train_net.py", "demo/demo.py", "dvis_d2", "experiments.soak"])
def test_threads_are_told_how_to_wait_before_torch_is_there(program):
    env = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"} | {"PYTHONPATH": str(ROOT)}
    for choice in ({}, {"OMP_WAIT_POLICY": "ACTIVE"}):
        command = [sys.executable, "-c", AT_TORCH, program, "--help"]
        done = subprocess.run(command, cwd=ROOT, env=env | choice, capture_output=True, text=True, timeout=300)
        expected = f"wait: {choice.get('OMP_WAIT_POLICY', 'PASSIVE')}"
        assert done.stderr.strip().splitlines()[-1] == expected, done.stderr


@pytest.mark.parametrize("program", ["train_net.py", "demo/demo.py"])
def test_every_program_explains_itself(program):
    assert "usage" in run(program, "--help")

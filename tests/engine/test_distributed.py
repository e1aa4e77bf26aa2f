"""Two processes (gloo) against one."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer

from dvis_d2.engine import Trainer, argument_parser, setup_cfg

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("several_runs.py")
ENV = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

# The normalization of a layer must not depend on the other images; SGD, since AdamW's first steps are the signs of
# gradients, and rounding decides the sign of those that are 0.
COMMON = "SOLVER.OPTIMIZER SGD SOLVER.BASE_LR 0.01 SOLVER.MAX_ITER 3 SOLVER.IMS_PER_BATCH 4".split()
NORMS = "MODEL.RESNETS.NORM {0} MODEL.FPN.NORM {0} MODEL.LABEL_MAP_HEAD.NORM {0} MODEL.ROI_MASK_HEAD.NORM {0}"


def norms(name):
    return NORMS.format(name).split()


def run_here(argv):
    return runpy.run_path(str(SCRIPT))["losses_of_run"](argv)


@pytest.fixture
def alike(tmp_path):
    """Images with equally many pixels of everything: one square of 20 x 20 and one of 16 x 16, at even places."""
    rng = np.random.default_rng(1)
    folder = tmp_path / "alike"
    folder.mkdir()
    images, annotations = [], []
    for i in range(8):
        image = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        for side, left in ((20, 4), (16, 36)):
            x, y = left + 2 * int(rng.integers(5)), 2 * int(rng.integers(1, 20))
            image[y : y + side, x : x + side] = rng.integers(100, 255, 3)
            box, polygon = [x, y, side, side], [x, y, x + side, y, x + side, y + side, x, y + side]
            annotation = {"id": len(annotations) + 1, "image_id": i + 1, "category_id": 3 if side == 20 else 7}
            annotations.append(annotation | {"bbox": box, "area": side * side, "segmentation": [polygon], "iscrowd": 0})
        cv2.imwrite(str(folder / f"{i}.png"), image)
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": 64, "width": 64})
    path = folder / "annotations.json"
    categories = [{"id": 3, "name": "green"}, {"id": 7, "name": "pink"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return ["--train-json", str(path), "--train-images", str(folder)]


@pytest.fixture
def runs(tiny_args, alike, tmp_path):
    """Command lines by name, without OUTPUT_DIR; a later option wins."""
    variational = "MODEL.DVIS_ROI_HEADS.START 1.0 MODEL.VARIATIONAL_LOSS.QUANT_WEIGHT 0.0".split()
    train, val, options = (tiny_args.index(name) for name in ("--train-json", "--val-json", "MODEL.DEVICE"))
    config, data, options = tiny_args[:train], tiny_args[train:val], tiny_args[options:]
    # an untrained network with steep label maps, so that there are detections to compare
    model = Trainer.build_model(setup_cfg(argument_parser().parse_args(tiny_args)))
    model.proposal_generator.label_head.predictor.weight.data.abs_().mul_(100)
    torch.save({"model": model.state_dict()}, tmp_path / "steep.pth")
    steep = ["MODEL.WEIGHTS", str(tmp_path / "steep.pth"), "SOLVER.BASE_LR", "1e-7"]
    return {
        "parts": [*config, *data, *options, *COMMON, *norms("LN")],
        "sync": [*config, *alike, *options, *COMMON, *norms("naiveSyncBN"), *variational],
        "evaluated": [*tiny_args, *COMMON, *norms("BN"), *steep],
    }


def assert_same_losses(one, two, tolerance):
    assert len(one) == len(two) == 3
    for step, (a, b) in enumerate(zip(one, two, strict=True)):
        assert a == pytest.approx(b, rel=tolerance, abs=1e-7), f"step {step}"


def test_two_processes_equal_one(runs, tmp_path):
    two = {name: [*argv, "OUTPUT_DIR", str(tmp_path / f"{name}2")] for name, argv in runs.items()}
    (tmp_path / "runs.json").write_text(json.dumps(two))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
    command += [str(tmp_path / "runs.json"), str(tmp_path / "results.json")]
    done = subprocess.run(command, cwd=ROOT, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["world_size"] == 2
    losses = results["losses"]

    # the batch in two parts: every loss, every random draw, the weights
    one = run_here([*runs["parts"], "SOLVER.ACCUMULATE_STEPS", "2", "OUTPUT_DIR", str(tmp_path / "parts1")])
    assert len(one[0]) == 7
    assert_same_losses(one, losses["parts"], 1e-5)
    stored = [torch.load(tmp_path / name / "model_final.pth", weights_only=False) for name in ("parts1", "parts2")]
    a, b = (checkpoint["model"] for checkpoint in stored)
    assert a.keys() == b.keys() and all(torch.allclose(a[k], b[k], atol=1e-6) for k in a)

    # the batch as a whole, where all images have as many pixels of everything, with synchronized statistics
    whole = run_here([*runs["sync"], "OUTPUT_DIR", str(tmp_path / "sync1")])
    assert_same_losses(whole, losses["sync"], 1e-4)
    assert abs(whole[0]["loss_pi"] / whole[1]["loss_pi"] - 1) > 1e-3

    # evaluation after training in two processes, with statistics of their own: that of the stored weights in one
    args = argument_parser().parse_args([*runs["evaluated"], "OUTPUT_DIR", str(tmp_path / "evaluated1")])
    cfg = setup_cfg(args)
    model = Trainer.build_model(cfg)
    DetectionCheckpointer(model).load(str(tmp_path / "evaluated2" / "model_final.pth"))
    Trainer.test(cfg, model)
    detections = []
    for folder in ("evaluated1", "evaluated2"):
        found = json.loads((tmp_path / folder / "inference" / "coco_instances_results.json").read_text())
        detections.append(sorted(found, key=lambda d: (d["image_id"], -d["score"])))
    assert len(detections[0]) > 12 and {d["image_id"] for d in detections[0]} == set(range(1, 7))
    assert detections[0] == detections[1]


@pytest.mark.slow
def test_two_machines_of_one_process(tiny_args, tmp_path):
    """As two machines: each starts its own process and is told the address of the first."""
    args = [*tiny_args, "SOLVER.MAX_ITER", "2", "OUTPUT_DIR", str(tmp_path / "out")]
    command = [sys.executable, "train_net.py", "--num-machines", "2", "--num-gpus", "1"]
    command += ["--dist-url", f"file://{tmp_path}/rendezvous"]
    machines = [
        subprocess.Popen(
            [*command, "--machine-rank", str(rank), *args],
            cwd=ROOT,
            env=ENV,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [machine.communicate()[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], "\n".join(outputs)
    assert "in 2 processes" in outputs[0] and (tmp_path / "out" / "model_final.pth").is_file()

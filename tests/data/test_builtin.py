import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from filelock import FileLock, Timeout

from dvis_d2.data.builtin import (
    BUILTIN_SPLITS,
    PRESETS,
    ShapesSplit,
    register_builtin,
    register_shapes,
    write_shapes,
)
from dvis_d2.data.shapes import draw_image
from dvis_d2.data.validation import check_coco_json
from dvis_d2.safe_io import locked


def write(directory, num_images=3, seed=5, **options):
    return write_shapes(directory, num_images=num_images, seed=seed, progress=False, **options)


@pytest.fixture
def registered(tmp_path):
    """A small data set registered under its own name, taken out again afterwards."""
    name = "shapes_of_a_test"
    register_shapes(tmp_path, {name: ShapesSplit("shapes_easy", 4, 9)})
    yield name
    DatasetCatalog.pop(name)
    MetadataCatalog.pop(name)


def test_files_hold_what_was_drawn(tmp_path):
    data = json.loads(write(tmp_path / "set").read_text())
    assert len(data["images"]) == 3
    for index, image in enumerate(data["images"]):
        rng = np.random.default_rng(np.random.SeedSequence([5, index]))
        pixels, masks, classes, attributes = draw_image(rng)
        stored = cv2.imread(str(tmp_path / "set" / "images" / image["file_name"]))[..., ::-1]
        assert np.array_equal(stored, pixels)
        assert image["copies"] == attributes["has_copies"]
        assert image["bar"] == attributes["has_bar"]
        annotations = [a for a in data["annotations"] if a["image_id"] == image["id"]]
        assert [a["category_id"] - 1 for a in annotations] == classes
        assert [a["split"] for a in annotations] == attributes["split_instances"]
        for annotation, mask in zip(annotations, masks, strict=True):
            assert np.array_equal(mask_util.decode(annotation["segmentation"]), mask)
            rows, cols = np.nonzero(mask)
            box = [cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1]
            assert annotation["bbox"] == box
            assert annotation["area"] == mask.sum()


def test_an_image_does_not_depend_on_the_number_of_images(tmp_path):
    write(tmp_path / "few", num_images=2)
    write(tmp_path / "many", num_images=4)
    for name in ("000000.png", "000001.png"):
        few, many = (tmp_path / folder / "images" / name for folder in ("few", "many"))
        assert few.read_bytes() == many.read_bytes()


def test_written_sets_pass_the_check(tmp_path):
    for preset, options in PRESETS.items():
        report = check_coco_json(write(tmp_path / preset, num_images=30, **options))
        assert not report.errors, str(report)
        assert not report.warnings, str(report)


def test_existing_set_is_kept_and_another_one_is_refused(tmp_path):
    annotations = write(tmp_path / "set")
    before = annotations.stat().st_mtime_ns
    assert write(tmp_path / "set") == annotations
    assert annotations.stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match="other shapes"):
        write(tmp_path / "set", seed=6)


def test_foreign_folder_is_refused_and_untouched(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"annotations\.json"):
        write(tmp_path / "set")
    assert [p.name for p in (tmp_path / "set").iterdir()] == ["thesis.txt"]


def test_failure_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="too small"):
        write(tmp_path / "set", height=3)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []


def test_remains_of_a_dead_run_are_removed(tmp_path):
    (tmp_path / ".set.partial" / "images").mkdir(parents=True)
    write(tmp_path / "set")
    assert not (tmp_path / ".set.partial").exists()


@pytest.mark.slow
def test_a_killed_run_leaves_no_half_set(tmp_path):
    code = f"from dvis_d2.data.builtin import write_shapes; write_shapes({str(tmp_path / 'set')!r}, "
    process = subprocess.Popen(
        [sys.executable, "-c", code + "num_images=100000, seed=5, progress=False)"], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob(".set.partial/images/*.png")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "set").exists()
    data = json.loads(write(tmp_path / "set").read_text())
    assert len(data["images"]) == 3
    assert not list(tmp_path.glob(".set.partial"))


def test_a_held_lock_says_what_it_waits_for_and_does_not_wait_for_ever(tmp_path, caplog):
    path = tmp_path / ".set.lock"
    with (
        FileLock(path),
        pytest.raises(TimeoutError, match=r"another process to draw x; end the process that holds .*\.set\.lock"),
        locked(path, "another process to draw x", patience=0.01, limit=0.01),
    ):
        pass
    assert "waiting for another process to draw x" in caplog.text
    with locked(path, "nobody"), pytest.raises(Timeout):
        FileLock(path).acquire(timeout=0)
    with FileLock(path, timeout=0):  # released
        pass


@pytest.mark.slow
def test_processes_that_start_together_write_one_set(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write, args=(tmp_path / "set", 20)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list((tmp_path / "set" / "images").iterdir())) == 20
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["set"]


def test_registering_draws_nothing_and_metadata_are_complete(registered, tmp_path):
    metadata = MetadataCatalog.get(registered)
    assert metadata.thing_classes == ["disc", "square", "triangle", "ring", "star"]
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 3: 2, 4: 3, 5: 4}
    assert metadata.evaluator_type == "coco"
    assert not os.path.exists(metadata.json_file)
    assert list(tmp_path.iterdir()) == []


def test_first_use_draws_and_second_use_reads(registered):
    dicts = DatasetCatalog.get(registered)
    metadata = MetadataCatalog.get(registered)
    assert len(dicts) == 4
    before = os.stat(metadata.json_file).st_mtime_ns
    assert DatasetCatalog.get(registered) == dicts
    assert os.stat(metadata.json_file).st_mtime_ns == before
    assert all(os.path.dirname(d["file_name"]) == metadata.image_root for d in dicts)


def test_registering_twice_keeps_the_first(registered, tmp_path):
    json_file = MetadataCatalog.get(registered).json_file
    register_shapes(tmp_path / "elsewhere", {registered: ShapesSplit("shapes", 1, 1)})
    assert MetadataCatalog.get(registered).json_file == json_file


def test_builtin_sets_are_registered_once():
    register_builtin()
    register_builtin()
    assert set(BUILTIN_SPLITS) <= set(DatasetCatalog.list())
    assert BUILTIN_SPLITS["shapes_easy_val"].num_images == 200
    assert len({split.seed for split in BUILTIN_SPLITS.values()}) == len(
        BUILTIN_SPLITS
    )  # no training image in a validation set

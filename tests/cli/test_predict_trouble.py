"""What `dvis predict` does about wrong arguments, unreadable files, and an end before the end."""

import os
import shutil

import cv2
import numpy as np
import pytest
import tifffile

from dvis_d2.inference.writers import STATE

from .bright import TWO, files, picture, run


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["IN", "--confidence-threshold", "1.5"], "1.5"),
        (["IN", "--save", "what"], "what"),
        (["IN", "--scale", "0"], "scale"),
        (["IN", "SEED"], "SEED"),
        (["IN", "--config-file", "x.yaml"], "--model or --config-file"),
        ([], "INPUT"),
        (["IN/nowhere*.png"], "nowhere*.png"),
    ],
)
def test_wrong_arguments_end_before_anything_is_written(images, model, tmp_path, arguments, says):
    out = tmp_path / "out"
    output = run(*(a.replace("IN", str(images)) for a in arguments), "-o", out, code=2)
    assert says in output and "Traceback" not in output and not out.exists() and model.seen == 0


def test_an_output_that_is_a_file_or_holds_other_things_is_refused(images, model, tmp_path):
    before = {path: path.read_bytes() for path in images.iterdir()}
    full = tmp_path / "full"
    shutil.copytree(images, full)
    for out, says in ((images / "a.png", "is a file"), (images, "holds an input"), (full, "not empty")):
        assert says in run(images, "-o", out, code=2)
    assert "not a run's folder" in run(images, "-o", full, "--resume", code=2)
    link = tmp_path / "link"
    link.symlink_to(images)
    assert "holds an input" in run(images / "a.png", "-o", link, "--resume", code=2)
    assert {path: path.read_bytes() for path in images.iterdir()} == before and files(full) == files(images)


def test_two_inputs_of_one_name_get_two_outputs(images, model, tmp_path):
    other = tmp_path / "more"
    shutil.copytree(images, other)
    cv2.imwrite(str(other / "a.png"), picture(TWO[1:]))
    run(images / "a.png", other / "a.png", "-o", tmp_path / "out")
    assert files(tmp_path / "out") == ["labels/in_a_png.tif", "labels/more_a_png.tif"]
    assert (tifffile.imread(tmp_path / "out/labels/more_a_png.tif") > 0).sum() == 400


def test_one_unreadable_file_is_named_and_the_others_are_done(images, model, tmp_path):
    (images / "b.png").write_bytes((images / "b.png").read_bytes()[:50])
    output = run(images, "-o", tmp_path / "out", "--save", "labels", "--save", "csv", code=1)
    assert "b.png" in output and "1 of 3 inputs could not be read" in output and "2 objects in 2 images" in output
    assert files(tmp_path / "out") == ["labels/a.tif", "labels/none.tif", "measurements.csv"]


def test_ctrl_c_names_the_command_that_goes_on(images, model, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = [str(images), "-o", str(out), "--save", "csv", "--save", "labels"]
    monkeypatch.setattr("sys.argv", ["dvis", "predict", *arguments])
    found = model.detect

    def interrupted(*args, **options):
        if model.seen == 1:
            raise KeyboardInterrupt
        return found(*args, **options)

    model.detect = interrupted
    output = run(*arguments, code=130)
    assert f"dvis predict {' '.join(arguments)} --resume" in output
    assert files(out) == ["labels/a.tif"]  # nothing that is not whole

    model.detect, model.seen = found, 0
    (images / "c.png").write_bytes((images / "b.png").read_bytes())
    assert "1 inputs were complete" in run(*arguments, "--resume")
    assert model.seen == 3 and len((out / "measurements.csv").read_text().splitlines()) == 5
    assert run(*arguments, "--resume") and model.seen == 3


def test_what_is_incomplete_is_done_again(images, model, tmp_path):
    out = tmp_path / "out"
    run(images, "-o", out)
    (out / STATE / "a.jsonl").unlink()  # killed before the record was in its place
    (out / STATE / "0.part.tif").write_bytes(b"half")
    model.seen = 0
    run(images, "-o", out, "--resume")
    assert model.seen == 1 and tifffile.imread(out / "labels/a.tif").max() == 2
    assert not list((out / STATE).glob("*.part*"))


def test_another_run_does_not_mix_with_this_one(images, model, tmp_path):
    out = tmp_path / "out"
    run(images, "-o", out)
    for options in (["--save", "csv"], ["--confidence-threshold", "0.7"], ["--scale", "2"]):
        assert "is of a run with" in run(images, "-o", out, "--resume", *options, code=2)
    other = tmp_path / "more"
    shutil.copytree(images, other)
    assert "is of a run with input" in run(other, "-o", out, "--resume", code=2)
    assert files(out) == ["labels/a.tif", "labels/b.tif", "labels/none.tif"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_named(images, model, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "closed" in run(images, "-o", tmp_path / "closed" / "out", code=2)


def test_more_objects_than_16_bits_are_refused_as_png(images, model, tmp_path, monkeypatch):
    found = model.detect

    def many(*args, **options):
        result = found(*args, **options)
        return result[np.zeros(2**16, int)]

    model.detect = many
    assert "save labels" in run(images / "b.png", "-o", tmp_path / "png", "--save", "png", code=2)
    run(images / "b.png", "-o", tmp_path / "labels")
    labels = tifffile.imread(tmp_path / "labels/labels/b.tif")
    assert labels.dtype == np.uint32 and labels.max() == 2**16

"""What `dvis predict` does about wrong arguments, unreadable files, and an end before the end."""

import errno
import os
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tifffile

from dvis_d2.inference.writers import STATE

from .bright import TWO, files, picture, run, write_video


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["IN", "--confidence-threshold", "1.5"], "1.5"),
        (["IN", "--save", "what"], "what"),
        (["IN", "--scale", "0"], "scale"),
        (["IN", "--scale", "1e9"], "not in the range 0.01<=x<=100"),
        (["IN", "--confidence-threshold", "nan"], "nan is no finite number"),
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
    assert "'' is no folder" in run(images, "-o", "", code=2)
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


def test_pages_and_files_of_one_name_get_each_their_own(images, model, tmp_path):
    tifffile.imwrite(images / "none.tif", np.stack([picture(TWO), picture(TWO[:1])]), photometric="rgb")
    (images / "none.png").rename(images / "none_000001.png")
    run(images, "-o", tmp_path / "out", "--save", "png")
    assert files(tmp_path / "out/png") == [f"{n}.png" for n in ("a", "b", "none_000001", "none_000001_", "none_000002")]
    assert cv2.imread(str(tmp_path / "out/png/none_000001.png"), cv2.IMREAD_UNCHANGED).max() == 2


def test_names_of_any_bytes_are_kept_and_tables_are_text(images, model, tmp_path):
    name = b"x\xff $HOME {a}\n.png"
    shutil.copy(os.fsencode(images / "a.png"), os.path.join(os.fsencode(images), name))
    run(images, "-o", tmp_path / "out", "--save", "csv", "--save", "labels")
    assert os.fsdecode(name[:-4] + b".tif") in os.listdir(tmp_path / "out/labels")
    assert "x\\udcff $HOME {a}\n.png" in (tmp_path / "out/measurements.csv").read_text()


def test_two_runs_do_not_write_into_one_folder(images, model, tmp_path):
    out, found = tmp_path / "out", model.detect

    def meanwhile(*args, **options):
        model.detect = found
        assert "another run" in run(images, "-o", out, "--resume", code=2)
        return found(*args, **options)

    model.detect = meanwhile
    run(images, "-o", out)
    assert run(images, "-o", out, "--resume")


def test_a_full_disk_is_named_and_nothing_is_left_half(images, model, tmp_path, monkeypatch):
    def full(self, *args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    output = run(images, "-o", tmp_path / "out", code=2)
    assert "No space left" in output and "make room" in output and files(tmp_path / "out") == []


def test_a_video_that_lacks_frames_is_no_result(model, tmp_path, monkeypatch):
    film = write_video(tmp_path / "film.mp4")  # OpenCV says nothing where it cannot write a frame
    video, frames = cv2.VideoWriter, iter(range(9))

    def full(*arguments):
        own = video(*arguments)
        write = lambda frame: own.write(frame) if next(frames) else None  # noqa: E731
        return SimpleNamespace(isOpened=own.isOpened, release=own.release, write=write)

    full.fourcc = video.fourcc
    monkeypatch.setattr(cv2, "VideoWriter", full)
    output = run(film, "-o", tmp_path / "out", "--save", "overlay", code=2)
    assert "film.mp4 could not be written" in output and files(tmp_path / "out") == []


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


def test_a_damaged_record_is_named(images, model, tmp_path):
    out = tmp_path / "out"
    run(images, "-o", out, "--save", "csv")
    (out / STATE / "a.jsonl").write_text("{")
    output = run(images, "-o", out, "--save", "csv", "--resume", code=2)
    assert "a.jsonl is damaged\nTo do: remove it" in output
    (out / STATE / "a.jsonl").unlink()
    run(images, "-o", out, "--save", "csv", "--resume")


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_description_of_the_run_is_named(images, model, tmp_path, content):
    run(images, "-o", tmp_path / "out")
    (tmp_path / "out" / STATE / "run.json").write_text(content)
    before = files(tmp_path / "out")
    output = run(images, "-o", tmp_path / "out", "--resume", code=2)
    assert "run.json is damaged" in output and "Traceback" not in output and files(tmp_path / "out") == before


def test_another_run_does_not_mix_with_this_one(images, model, tmp_path):
    out = tmp_path / "out"
    run(images, "-o", out)
    for options in (["--save", "csv"], ["--confidence-threshold", "0.7"], ["--scale", "2"], ["SEED", "7"]):
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

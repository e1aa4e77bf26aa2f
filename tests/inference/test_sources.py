import json
import re

import cv2
import numpy as np
import pytest
from PIL import Image

from dvis_d2.inference.sources import Source, Unreadable, find_sources


def write(path, value=0, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))
    return str(path)


def write_video(path, frames=5):
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for k in range(frames):
        video.write(np.full((48, 64, 3), (0, 0, 40 * k), np.uint8))
    video.release()
    return str(path)


def names(*inputs):
    return [source.name for source in find_sources([str(given) for given in inputs])[0]]


def test_files_folders_and_patterns_each_file_once(tmp_path):
    for name in ("b.png", "a.jpg", "c.tif", ".hidden.png", "sub/d.png"):
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    assert names(tmp_path) == ["a", "b", "c"]
    assert names(tmp_path / "b.png", tmp_path / "*.png", tmp_path / "." / "b.png") == ["b"]
    assert names(tmp_path / "**/*.png") == ["b", "d"]
    for nothing in ("nowhere.png", "x*.png"):
        with pytest.raises(FileNotFoundError, match=re.escape(nothing)):
            find_sources([str(tmp_path / "b.png"), str(tmp_path / nothing)])


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path} holds no image")):
        find_sources([str(tmp_path)])
    write(tmp_path / "sub" / "deep" / "a.png")
    with pytest.raises(FileNotFoundError, match=re.escape(f"in it 1\ngive '{tmp_path}/**/*.png'")):
        find_sources([str(tmp_path)])


def test_images_below_a_folder_are_left_out_in_words(tmp_path, caplog):
    for name in ("a.png", "sub/b.png", "sub/deep/c.png", ".hidden/d.png", "found/png/a.png"):
        write(tmp_path / name)
    (tmp_path / "found" / ".predict").mkdir()  # an earlier run's output, and no input
    assert names(tmp_path) == ["a"]
    (message,) = caplog.messages
    assert message.startswith(f"2 images in folders below {tmp_path} are left out") and "**/*.png" in message
    caplog.clear()
    assert names(tmp_path / "sub" / "deep") == ["c"] and not caplog.messages


def test_brackets_in_a_name_are_no_pattern(tmp_path):
    write(tmp_path / "[1]" / "a[2].png")
    assert names(tmp_path / "[1]") == names(tmp_path / "[1]" / "a[2].png") == ["a[2]"]


def test_files_of_one_name_get_names_of_their_own(tmp_path):
    files = [write(tmp_path / name) for name in ("one/a.png", "two/a.png", "two/A.jpg", "two/b.png")]
    found = names(*files)
    assert found == ["one_a_png", "two_a_png", "two_A_jpg", "b"]
    again = names(write(tmp_path / "x_y/a.png"), write(tmp_path / "x/y_a.png"), write(tmp_path / "x/y/a.png"))
    assert len({name.casefold() for name in again}) == 3


def test_every_page_of_a_stack(tmp_path):
    pages = [Image.fromarray(np.full((6, 8), k, np.uint8)) for k in (10, 20, 30)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    (source,), _ = find_sources([str(tmp_path / "stack.tif")])
    frames = list(source.frames())
    assert [frame.image[0, 0].tolist() for frame in frames] == [[10] * 3, [20] * 3, [30] * 3]
    assert [frame.total for frame in frames] == [3, 3, 3] and not source.is_video


def test_frames_of_a_video_in_rgb(tmp_path):
    (source,), _ = find_sources([write_video(tmp_path / "film.mp4")])
    frames = list(source.frames())
    assert source.is_video and len(frames) == 5 and frames[0].fps == 10 and frames[0].total == 5
    red, green, blue = frames[4].image.reshape(-1, 3).mean(axis=0)
    assert red > 120 and green < 40 and blue < 40


@pytest.mark.parametrize("name", ["broken.png", "broken.mp4"])
def test_what_cannot_be_read_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"no image, no video")
    (source,), _ = find_sources([str(tmp_path / name)])
    with pytest.raises(Unreadable, match=name):
        list(source.frames())


def test_a_video_that_breaks_off_is_no_whole_one(tmp_path, monkeypatch):
    path = write_video(tmp_path / "film.mp4")
    get = {cv2.CAP_PROP_FRAME_COUNT: 50.0, cv2.CAP_PROP_FPS: 0.0}

    class Capture:
        def __init__(self, path):
            self.frames = [np.zeros((4, 4, 3), np.uint8)] * 5

        def get(self, key):
            return get[key]

        def read(self):
            return (True, self.frames.pop()) if self.frames else (False, None)

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    with pytest.raises(Unreadable, match="after 5 of 50"):
        list(Source(path, "film").frames())
    assert len(list(Source("webcam", "webcam", camera=0).frames())) == 5  # a camera has no length


def write_coco(path, images, categories=((3, "a"), (7, "b"))):
    data = {"images": images, "categories": [{"id": k, "name": name} for k, name in categories]}
    path.write_text(json.dumps(data), encoding="utf-8-sig")
    return str(path)


def test_a_coco_file_lists_images_that_nobody_annotated(tmp_path):
    write(tmp_path / "images" / "x" / "a.png")
    images = [{"id": 12, "file_name": "x/a.png"}, {"id": 5, "file_name": "gone.png"}]
    sources, categories = find_sources([write_coco(tmp_path / "test.json", images)])
    assert [(s.image_id, s.name) for s in sources] == [(12, "a"), (5, "gone")] and categories == {"a": 3, "b": 7}
    assert next(sources[0].frames()).image.shape == (8, 6, 3)
    with pytest.raises(ValueError, match="alone"):
        find_sources([str(tmp_path / "test.json"), str(tmp_path / "images/x/a.png")])


def test_ids_of_a_coco_file_in_other_forms(tmp_path):
    write(tmp_path / "a.png")
    images = [{"id": "12", "file_name": "a.png"}]
    (source,), categories = find_sources([write_coco(tmp_path / "test.json", images, [(3.0, "a")])])
    assert source.image_id == 12 and categories == {"a": 3}
    with pytest.raises(ValueError, match="two categories of one name"):
        find_sources([write_coco(tmp_path / "test.json", images, [(3, "a"), (4, "a")])])


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png"])
def test_a_coco_file_cannot_name_files_elsewhere(tmp_path, name):
    with pytest.raises(ValueError, match="outside"):
        find_sources([write_coco(tmp_path / "test.json", [{"id": 1, "file_name": name}])])


def test_another_json_is_refused(tmp_path):
    image, kind = '{"id": %s, "file_name": %s}', '{"id": %s, "name": "a"}'
    entries = [(image % (id_, '"a"'), kind % 1) for id_ in ("Infinity", "1.5", "true", '"x"', "[1]")]
    entries += [(image % (1, name), kind % 1) for name in ("5", "null", '"a\\u0000"', '["a"]')]
    entries += [(image % (1, '"a"'), kind % "Infinity")]
    texts = [f'{{"images": [{i}], "categories": [{c}]}}' for i, c in entries]
    for text in ("[]", "{", '{"images": []}', "[" * 100_000, *texts):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match="no COCO file"):
            find_sources([str(tmp_path / "x.json")])

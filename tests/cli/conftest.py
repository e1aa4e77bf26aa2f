import cv2
import pytest

from dvis_d2 import api

from .bright import TWO, Bright, picture


@pytest.fixture
def model(monkeypatch):
    bright = Bright()
    monkeypatch.setattr(api, "load", lambda source, opts: bright)
    return bright


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, boxes in (("a", TWO), ("b", TWO[:1]), ("none", [])):
        cv2.imwrite(str(folder / f"{name}.png"), picture(boxes))
    return folder

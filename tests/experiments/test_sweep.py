"""sweep on an untrained model with stand-in detections."""

import pytest

from dvis_d2.tuning import StoredPredictions
from experiments import sweep

ALPHA, NMS = "MODEL.DVIS_ROI_HEADS.ALPHA", "MODEL.DVIS_ROI_HEADS.NMS"


@pytest.fixture
def perfect_where(perfect, monkeypatch):
    """A function: detections are perfect from now on for thresholds of some kind, and absent otherwise."""

    def patch(good):
        def detections(self, thresholds):
            return [perfect[image.image_id] if good(thresholds) else [] for image in self.images]

        monkeypatch.setattr(StoredPredictions, "detections", detections)

    return patch


def test_every_alpha_is_scored_and_drawn(trained, perfect_where, last_json, tmp_path):
    perfect_where(lambda thresholds: thresholds[ALPHA] > 0.5)
    picture = tmp_path / "alpha.png"
    sweep.main(["--alpha", "--plot", str(picture), *trained])
    rows = last_json()["alpha"]
    assert [row["alpha"] for row in rows] == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    assert [round(row["AP90"]) for row in rows] == [0] * 6 + [100] * 5
    assert [row["detections"] for row in rows] == [0] * 6 + [2] * 5
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "thresholds.yaml").exists()


def test_every_kind_of_suppression_is_scored(trained, perfect_where, last_json):
    perfect_where(lambda thresholds: thresholds[NMS] == "matrix")
    sweep.main(["--nms", *trained])
    assert [(row["nms"], round(row["AP"])) for row in last_json()["nms"]] == [("hard", 0), ("matrix", 100)]


def test_alpha_of_class_agnostic_heads_is_refused(trained):
    with pytest.raises(SystemExit, match="class-agnostic"):
        sweep.main(["--alpha", *trained, "MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC", "True"])

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import BitMasks, Boxes, Instances

from dvis_d2.inference.overlay import write_picture
from dvis_d2.inference.visualization import (
    colorize_label_map,
    colorize_levels,
    draw_instances,
    draw_panel,
    draw_proposals,
    draw_sheet,
)

METADATA = Metadata(thing_classes=["ring", "disc"])


def image(height=40, width=60):
    return np.full((height, width, 3), 128, np.uint8)


def ring_mask():
    mask = torch.zeros(1, 40, 60, dtype=torch.bool)
    mask[0, 8:32, 8:32] = True
    mask[0, 14:26, 14:26] = False
    return mask


def detections(masks):
    return Instances(
        masks.shape[1:],
        pred_masks=masks,
        pred_boxes=BitMasks(masks).get_bounding_boxes(),
        pred_classes=torch.zeros(len(masks), dtype=torch.int64),
        scores=torch.ones(len(masks)),
    )


def proposals(masks, image_size):
    boxes = Boxes(torch.zeros(len(masks), 4))
    return Instances(image_size, proposal_masks=masks, proposal_boxes=boxes)


def test_background_is_black_and_labels_differ():
    colors = colorize_label_map(torch.tensor([[0.0, 2.0], [3.0, 4.0]])).astype(int)
    assert (colors[0, 0] == 0).all()
    found = [colors[0, 1], colors[1, 0], colors[1, 1]]
    assert all(np.abs(a - b).sum() > 60 for i, a in enumerate(found) for b in found[:i])


def test_maps_of_nothing_and_of_nan_are_drawn():
    assert (colorize_label_map(torch.zeros(3, 4)) == 0).all()
    assert colorize_label_map(torch.full((3, 4), float("nan"))).shape == (3, 4, 3)
    assert colorize_label_map(torch.zeros(0, 0)).shape == (0, 0, 3)


def test_levels_have_colors_of_their_own():
    colors = colorize_levels(torch.tensor([[-1, 0], [1, 2]])).astype(int)
    assert (colors[0, 0] == 0).all()
    found = [colors[0, 1], colors[1, 0], colors[1, 1]]
    assert all(np.abs(a - b).sum() > 60 for i, a in enumerate(found) for b in found[:i])
    assert (colorize_levels(torch.full((2, 3), -1)) == 0).all()


def test_holes_stay_open():
    drawn = draw_instances(image(), detections(ring_mask()), METADATA)
    assert np.abs(drawn[20, 20].astype(int) - 128).max() < 3  # inside the hole
    assert np.abs(drawn[11, 20].astype(int) - 128).max() > 20  # on the ring


def test_labels_are_left_out_of_crowds():
    masks = torch.zeros(20, 40, 60, dtype=torch.bool)
    masks[:, 20, 30] = True
    drawn = draw_instances(image(), detections(masks), METADATA, scale=2)
    far = np.ones((80, 120), dtype=bool)
    far[36:46, 56:66] = False
    assert (drawn[far] == 128).all()


def test_proposals_lie_where_their_cells_are():
    masks = torch.zeros(1, 10, 15, dtype=torch.bool)
    masks[0, 2:5, 3:6] = True
    drawn = draw_proposals(image(), proposals(masks, (40, 60)))
    changed = np.abs(drawn.astype(int) - 51).sum(axis=2) > 0
    assert changed[8:20, 12:24].all() and changed.sum() == 12 * 12


def test_panel_has_five_tiles_and_six_with_ground_truth():
    output = {
        "instances": detections(ring_mask()),
        "label_map": torch.rand(10, 15),
        "levels": torch.zeros(10, 15, dtype=torch.int64),
        "proposals": proposals(torch.zeros(0, 10, 15, dtype=torch.bool), (40, 60)),
    }
    truth = Instances((40, 60), gt_masks=BitMasks(ring_mask()), gt_classes=torch.tensor([1]))
    five = draw_panel(image(), output, METADATA)
    six = draw_panel(image(), output, METADATA, ground_truth=truth)
    assert five.dtype == np.uint8 and five.shape[1] * 6 == six.shape[1] * 5
    assert five.shape[0] >= 300


def test_panel_of_an_image_without_anything():
    nothing = torch.zeros(0, 40, 60, dtype=torch.bool)
    output = {
        "instances": detections(nothing),
        "label_map": torch.zeros(10, 15),
        "levels": torch.full((10, 15), -1),
        "proposals": proposals(torch.zeros(0, 10, 15, dtype=torch.bool), (40, 60)),
    }
    truth = Instances((40, 60), gt_masks=BitMasks(nothing), gt_classes=torch.zeros(0, dtype=torch.int64))
    assert draw_panel(image(), output, METADATA, ground_truth=truth).shape[2] == 3


@pytest.fixture
def files(tiny_coco):
    return [str(tiny_coco[1] / f"{i}.png") for i in range(6)]


def test_a_picture_that_cannot_be_written_is_named(tmp_path):
    for name in ("a.pdf.what", "nowhere/a.png"):
        with pytest.raises(OSError, match=name):
            write_picture(str(tmp_path / name), np.zeros((4, 4, 3), np.uint8))


def test_pictures_keep_their_colors(tmp_path):
    write_picture(str(tmp_path / "red.png"), np.full((2, 2, 3), (255, 0, 0), np.uint8))
    assert cv2.imread(str(tmp_path / "red.png"))[0, 0].tolist() == [0, 0, 255]


def test_sheet_of_a_data_set_with_ground_truth(untrained_cfg):
    one, three = (draw_sheet(untrained_cfg, num_images) for num_images in (1, 3))
    assert three.shape[0] == 2 * one.shape[0] and three.shape[1] == one.shape[1]
    width = one.shape[1] // 2  # the second place is empty
    assert (one[:, width:] == 255).all() and not (three[: one.shape[0], width:] == 255).all()
    assert (three[one.shape[0] :, width:] == 255).all()


def test_sheet_without_ground_truth_has_one_tile_less(untrained_cfg, files):
    annotated = draw_sheet(untrained_cfg, 1)
    name = "tiny_without_annotations"
    DatasetCatalog.register(name, lambda: [{"file_name": files[0], "height": 64, "width": 64, "image_id": 1}])
    MetadataCatalog.get(name).thing_classes = ["green", "pink"]
    try:
        untrained_cfg.DATASETS.TEST = (name,)
        assert draw_sheet(untrained_cfg, 12).shape[1] * 6 == annotated.shape[1] * 5
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import BitMasks, Boxes, Instances

from dvis_d2.data.cropped_masks import CroppedMasks
from dvis_d2.inference.colors import LastingColors, label_colors, neighbor_colors
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
    scores = torch.linspace(1, 0.5, len(masks))
    return Instances(image_size, proposal_masks=masks, proposal_boxes=boxes, objectness_logits=scores)


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


def test_labels_are_left_out_where_objects_are_small_and_many():
    masks = torch.zeros(20, 40, 60, dtype=torch.bool)
    masks[:, 20, 30] = True
    drawn = draw_instances(image(), detections(masks), METADATA, scale=2)
    far = np.ones((80, 120), dtype=bool)
    far[36:46, 56:66] = False
    assert (drawn[far] == 128).all()


def test_captions_cover_no_other_object():
    """Each has room above or below, but not where the other object is."""
    masks = torch.zeros(2, 200, 200, dtype=torch.bool)
    masks[0, 100:150, 20:180] = True
    masks[1, 60:96, 20:180] = True
    drawn = draw_instances(np.full((200, 200, 3), 128, np.uint8), detections(masks), METADATA)
    black = (drawn == 0).all(axis=2)
    assert black[150:170].any() and black[40:60].any()
    assert not black[60:150].any()


def test_neighbors_differ_in_color():
    grid = [(10 * x, 10 * y, 10 * x + 9, 10 * y + 9) for y in range(10) for x in range(10)]
    colors = neighbor_colors(np.array(grid), (100, 100)).reshape(10, 10, 3)
    assert np.abs(np.diff(colors, axis=0)).sum(axis=2).min() > 0
    assert np.abs(np.diff(colors, axis=1)).sum(axis=2).min() > 0


def moving(*corners):
    masks = np.zeros((len(corners), 40, 60), bool)
    for mask, (x, y) in zip(masks, corners, strict=True):
        mask[y : y + 8, x : x + 8] = True
    return CroppedMasks.from_masks(masks)


def test_colors_of_a_film_stay_with_their_objects():
    colors = LastingColors()
    first = colors(moving((2, 2), (12, 2), (40, 20)))
    later = colors(moving((41, 22), (22, 3), (3, 2), (13, 3)))  # in another order, and one is new
    assert np.array_equal(later[[2, 3, 0]], first)
    assert (later[1] != later[3]).any()  # the new one differs from its neighbor
    assert len(colors(moving())) == 0 and len(colors(moving((2, 2)))) == 1


def test_label_colors_grow_brighter_and_mean_the_same_in_all_maps():
    values = np.linspace(1, 5, 50)
    lightness = cv2.cvtColor(label_colors(values, 5)[None].astype(np.uint8), cv2.COLOR_RGB2LAB)[0, :, 0].astype(int)
    assert (np.diff(lightness) >= 0).all() and lightness[0] > 40
    small, large = torch.tensor([[2.0]]), torch.tensor([[2.0, 6.0]])
    assert (colorize_label_map(small, 6)[0, 0] == colorize_label_map(large)[0, 0]).all()
    assert (colorize_label_map(small) != colorize_label_map(large)[:, :1]).any()


def test_proposals_are_shown_by_rank_with_only_their_masks_bright():
    masks = torch.zeros(3, 10, 15, dtype=torch.bool)
    masks[0, 2:5, 3:6] = masks[1, 5:9, 8:12] = masks[2, 0:2, 0:2] = True
    drawn = draw_proposals(image(400, 600), proposals(masks, (400, 600)))
    assert drawn.shape == (400, 600, 3)
    for y, x in ((100, 150), (100, 450), (260, 50)):  # in the first three places
        assert (drawn[y, x] == 128).all()
    assert (drawn[210:, 310:] == 255).all()  # the fourth is empty
    dark = (drawn == 38).all(axis=2)
    assert all(dark[y : y + 200, x : x + 300].mean() > 0.2 for y, x in ((0, 0), (0, 300), (200, 0)))


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

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from dvis_d2.data import DVISDatasetMapper
from dvis_d2.engine import Trainer
from dvis_d2.inference.test_time_augmentation import DVISWithTTA, match_detections, merge_views

STRIDE = 2
OPTIONS = dict(stride=STRIDE, iou_threshold=0.5, score_threshold=0.0, max_detections=10)


def make_view(*detections, size=(24, 32), grid=(12, 16), probs=None):
    """Detections (score, class, (y0, y1, x0, x1) in map cells), their boxes tight, their soft masks 0 or 1."""
    soft = torch.zeros(len(detections), *grid)
    for mask, (_, _, (y0, y1, x0, x1)) in zip(soft, detections, strict=True):
        mask[y0:y1, x0:x1] = 1
    boxes = [[float(STRIDE * v) for v in (x0, y0, x1, y1)] for _, _, (y0, y1, x0, x1) in detections]
    return Instances(
        size,
        pred_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)),
        scores=torch.tensor([float(score) for score, _, _ in detections]),
        pred_classes=torch.tensor([k for _, k, _ in detections], dtype=torch.int64),
        soft_masks=soft,
        mask_probs=torch.ones(len(detections), 4, 4) if probs is None else probs,
    )


def mirrored(view):
    """What a network that does not mind mirroring finds in the mirrored image; the width fills the grid."""
    width = view.image_size[1]
    x0, y0, x1, y1 = view.pred_boxes.tensor.unbind(dim=1)
    other = Instances(view.image_size, **view.get_fields())
    other.pred_boxes = Boxes(torch.stack([width - x1, y0, width - x0, y1], dim=1))
    other.soft_masks, other.mask_probs = view.soft_masks.flip(2), view.mask_probs.flip(2)
    return other


def assert_same(a, b, atol=0.0):
    assert a.image_size == b.image_size and len(a) == len(b)
    assert torch.equal(a.pred_classes, b.pred_classes)
    for x, y in (
        (a.pred_boxes.tensor, b.pred_boxes.tensor),
        (a.scores, b.scores),
        (a.soft_masks, b.soft_masks),
        (a.mask_probs, b.mask_probs),
    ):
        torch.testing.assert_close(x, y, atol=atol, rtol=0)


def random_view():
    generator = torch.Generator().manual_seed(0)
    view = make_view((0.9, 1, (2, 7, 1, 6)), (0.8, 0, (1, 9, 8, 15)), (0.3, 1, (8, 12, 3, 7)))
    view.soft_masks = view.soft_masks * (0.5 + torch.rand(3, 12, 16, generator=generator) / 2)
    view.mask_probs = torch.rand(3, 4, 4, generator=generator)
    return view


def test_one_view_comes_out_as_it_went_in():
    assert_same(merge_views([random_view()], [False], **OPTIONS), random_view())


def test_a_network_that_does_not_mind_mirroring_gains_nothing():
    view = random_view()
    assert_same(merge_views([view, mirrored(view)], [False, True], **OPTIONS), view, atol=1e-5)
    assert_same(merge_views([mirrored(view), view], [True, False], **OPTIONS), view, atol=1e-5)


def test_mirroring_is_about_the_image_not_about_the_padded_grid():
    # 20 of the grid's 32 pixels are image: cells 1-2 of ten are mirrored to 7-8
    view = make_view((0.9, 0, (2, 6, 1, 3)), size=(24, 20))
    image = make_view((0.8, 0, (2, 6, 7, 9)), size=(24, 20))
    merged = merge_views([image, view], [False, True], **OPTIONS)
    assert len(merged) == 1 and merged.scores.tolist() == pytest.approx([0.85])
    torch.testing.assert_close(merged.soft_masks, image.soft_masks)


def test_sizes_meet_in_the_frame_of_the_largest():
    small = make_view((0.6, 0, (2, 5, 1, 4)))
    large = make_view((0.4, 0, (4, 10, 2, 8)), size=(48, 64), grid=(24, 32))
    merged = merge_views([small, large], [False, False], **OPTIONS)
    assert merged.image_size == (48, 64) and merged.scores.tolist() == pytest.approx([0.5])
    assert merged.pred_boxes.tensor.tolist() == [[4, 8, 16, 20]]
    # bilinear: the small mask loses its corners, where the mean is then below 1 but not below 1/2
    assert torch.equal(merged.soft_masks >= 0.5, large.soft_masks >= 0.5)
    assert torch.equal(merged.mask_probs, torch.ones(1, 4, 4))


def test_what_a_view_misses_counts_zero_and_thresholds_hold():
    seen_twice, seen_once = (0.6, 0, (0, 4, 0, 4)), (0.8, 0, (6, 10, 8, 12))
    first, second = make_view(seen_once, seen_twice), make_view((0.7, 0, (0, 4, 0, 4)))
    merged = merge_views([first, second], [False, False], **OPTIONS)
    assert merged.scores.tolist() == pytest.approx([0.65, 0.4])
    assert len(merge_views([first, second], [False, False], **OPTIONS | {"score_threshold": 0.41})) == 1
    assert len(merge_views([first, second], [False, False], **OPTIONS | {"max_detections": 1})) == 1


def test_mask_probabilities_are_averaged_in_the_box_of_the_best():
    ramp = torch.tensor([0.0, 0.2, 0.4, 0.6]).expand(1, 4, 4).clone()
    best = make_view((0.9, 0, (0, 8, 0, 8)), probs=ramp)
    # a box twice as wide, to the right: of the best box it covers the left half of its own
    wide = make_view((0.5, 0, (0, 8, 0, 8)), probs=ramp)
    wide.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, 32.0, 16.0]]))
    merged = merge_views([best, wide], [False, False], **OPTIONS)
    assert merged.pred_boxes.tensor.tolist() == [[0, 0, 16, 16]]
    # where the centers of the best box's columns lie on the wide box's ramp; left of its first center is 0 anyway
    inside = torch.tensor([-0.05, 0.05, 0.15, 0.25]).clamp(0)
    torch.testing.assert_close(merged.mask_probs[0, 1], (ramp[0, 1] + inside) / 2, atol=1e-5, rtol=0)


def test_matching_by_hand():
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    classes = torch.tensor([0, 0, 1, 0, 0])
    views = torch.tensor([0, 1, 1, 1, 0])
    iou = torch.eye(5)
    for i, j, value in ((0, 1, 0.6), (0, 2, 0.9), (0, 3, 0.8), (0, 4, 0.9), (1, 4, 0.7), (3, 4, 0.75)):
        iou[i, j] = iou[j, i] = value
    # 1 joins 0; 2 is another class; view 1 has spoken for 0, so 3 stands alone; 4 is of the view of 0 and overlaps
    # 3 more than the others
    assert match_detections(iou, scores, classes, views, 0.5).tolist() == [0, 0, 2, 3, 3]
    assert match_detections(iou, scores, classes, views, 0.65).tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("counts", [(0, 0), (0, 1), (1, 0)])
def test_views_without_detections(counts):
    views = [make_view(*[(0.8, 0, (0, 4, 0, 4))] * count) for count in counts]
    merged = merge_views(views, [False, True], **OPTIONS)
    assert len(merged) == sum(counts) and merged.soft_masks.shape[1:] == (12, 16)


@pytest.fixture
def cfg(tiny_cfg):
    tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    tiny_cfg.INPUT.MIN_SIZE_TEST = 80
    tiny_cfg.TEST.AUG.MIN_SIZES = (80,)
    tiny_cfg.TEST.AUG.FLIP = False
    return tiny_cfg


@pytest.mark.parametrize("source", ["head", "label_map"])
def test_a_single_augmentation_that_changes_nothing_equals_none(cfg, tiny_coco, source):
    cfg.MODEL.DVIS_ROI_HEADS.MASK_SOURCE = source
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    # so that an untrained network finds something
    model.proposal_generator.label_head.predictor.weight.data.abs_().mul_(100)
    stored = {"file_name": str(tiny_coco[1] / "0.png"), "height": 64, "width": 64}
    plain = model([DVISDatasetMapper(cfg, is_train=False)(stored)])[0]["instances"]
    as_stored = DVISDatasetMapper(is_train=False, augmentations=[], image_format="BGR")
    augmented = DVISWithTTA(cfg, model)([as_stored(stored)])[0]["instances"]
    assert len(plain) > 3
    assert torch.equal(plain.pred_masks, augmented.pred_masks) and torch.equal(plain.scores, augmented.scores)
    assert torch.equal(plain.pred_boxes.tensor, augmented.pred_boxes.tensor)


def test_trainer_evaluates_with_and_without(cfg):
    cfg.TEST.AUG.ENABLED = True
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.FLIP = (64, 96), True
    cfg.SOLVER.MAX_ITER = 1
    results = Trainer(cfg).train()
    assert {"bbox", "segm", "bbox_TTA", "segm_TTA"} == set(results)
    assert results["segm"].keys() == results["segm_TTA"].keys()

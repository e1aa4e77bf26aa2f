import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, ImageList, Instances
from detectron2.utils.events import EventStorage

from dvis_d2.modeling import MeanShiftProposer
from dvis_d2.modeling.grouping import group_label_map
from dvis_d2.modeling.meta_arch import instance_masks
from dvis_d2.modeling.proposal_generator import perturb_masks
from dvis_d2.modeling.proposal_generator import training_proposals as sample_training_proposals

GROUPING = dict(max_proposals=100, bandwidths=(0.9, 0.4), candidates=("levels", "regions"), min_area=2)


class FixedHead(torch.nn.Module):
    """A label head that has learnt everything."""

    common_stride = 4

    def __init__(self, label_map):
        super().__init__()
        self.label_map = label_map

    def forward(self, features):
        return self.label_map


def make_proposer(label_map, num_perturbed=0):
    criterion = lambda logits, ids, iteration: {"loss_binary": logits.sum() * 0}  # noqa: E731
    return MeanShiftProposer(
        label_head=FixedHead(label_map), criterion=criterion, grouping=GROUPING, num_perturbed=num_perturbed
    )


def two_objects():
    ids = torch.zeros(1, 8, 10, dtype=torch.int64)
    ids[0, 1:4, 1:5] = 1
    ids[0, 5:8, 4:9] = 2
    return ids


def test_proposals_are_in_image_pixels_and_clipped_to_the_image():
    label_map = two_objects().float() * 2
    images = ImageList(torch.zeros(1, 3, 32, 40), [(30, 40)])
    proposer = make_proposer(label_map).eval()
    (proposals,), losses = proposer(images, {})
    assert losses == {}
    assert proposals.image_size == (30, 40)
    boxes = sorted(proposals.proposal_boxes.tensor.tolist())
    assert boxes == [[4.0, 4.0, 20.0, 16.0], [16.0, 20.0, 36.0, 30.0]]
    assert proposals.proposal_masks.shape == proposals.soft_masks.shape == (2, 8, 10)


def test_cells_in_the_padding_are_no_proposals():
    label_map = torch.full((1, 8, 10), 3.0)
    images = ImageList(torch.zeros(1, 3, 32, 40), [(14, 21)])
    (proposals,), _ = make_proposer(label_map).eval()(images, {})
    assert proposals.proposal_masks[0].nonzero().amax(dim=0).tolist() == [3, 5]


def training_proposals(ids, label_map, num_perturbed):
    num = int(ids.max().clamp(min=0))
    truth = Instances((32, 40), gt_classes=torch.zeros(num), gt_masks=BitMasks(torch.zeros(num, 32, 40)))
    truth.gt_map_masks = instance_masks(ids[0], num)
    images = ImageList(torch.zeros(1, 3, 32, 40), [(32, 40)])
    with EventStorage(0):
        (proposals,), _ = make_proposer(label_map, num_perturbed).train()(images, {}, [truth], ids)
    return proposals


def test_training_adds_perturbed_ground_truth_that_the_network_did_not_find():
    ids = two_objects()
    blind = torch.zeros(1, 8, 10)  # a network that finds nothing
    assert len(training_proposals(ids, blind, 0)) == 0
    torch.manual_seed(0)
    proposals = training_proposals(ids, blind, 3)
    assert 3 <= len(proposals) <= 6
    assert proposals.proposal_masks.flatten(1).any(dim=1).all()  # none is empty


def test_training_drops_proposals_on_ignored_ground():
    ids = two_objects()
    label_map = ids.float() * 2
    ids[ids == 2] = -1
    proposals = training_proposals(ids, label_map, 0)
    assert len(proposals) == 1 and proposals.proposal_masks[0, 2, 2]


def test_options_of_the_loss_reach_the_criterion(tiny_cfg):
    assert build_model(tiny_cfg).proposal_generator.criterion.pi_options["background_as_instance"] is False
    tiny_cfg.MODEL.VARIATIONAL_LOSS.PI_BACKGROUND = True
    assert build_model(tiny_cfg).proposal_generator.criterion.pi_options["background_as_instance"] is True


@pytest.fixture
def objects_and_void():
    ids = torch.zeros(40, 40, dtype=torch.int64)
    ids[5:15, 5:15] = 1
    ids[20:36, 22:38] = 2
    ids[5:15, 15:20] = -1
    return ids, instance_masks(ids, 2)


def test_perturbed_masks_cover_the_whole_range_of_iou(objects_and_void):
    ids, masks = objects_and_void
    torch.manual_seed(0)
    ious = []
    for _ in range(200):
        perturbed = perturb_masks(masks, ids)
        assert not (perturbed & (ids < 0)).any()
        union = (perturbed | masks).sum(dim=(1, 2))
        ious.append((perturbed & masks).sum(dim=(1, 2)) / union)
    ious = torch.stack(ious).flatten()
    counts = torch.histc(ious, bins=5, min=0, max=1)
    assert (counts[1:] > 10).all(), counts  # every IoU from 0.2 up
    assert (ious == 1).float().mean() > 0.1


def test_perturbed_masks_do_not_wrap_around_the_border():
    ids = torch.zeros(20, 20, dtype=torch.int64)
    ids[0:10, 0:10] = 1
    masks = instance_masks(ids, 1)
    torch.manual_seed(0)
    for _ in range(100):
        perturbed = perturb_masks(masks, ids)[0]
        assert not perturbed[16:].any() and not perturbed[:, 16:].any()


@pytest.mark.parametrize("num", [0, 1])
def test_perturbing_few_or_empty_masks_works(num):
    masks = torch.zeros(num, 6, 6, dtype=torch.bool)
    assert not perturb_masks(masks, torch.zeros(6, 6, dtype=torch.int64)).any()


def test_soft_masks_of_perturbed_ground_truth_follow_the_mean_label(objects_and_void):
    ids, masks = objects_and_void
    label_map = torch.zeros(40, 40)
    label_map[ids == 1], label_map[ids == 2] = 0.4, 0.9  # below the threshold: nothing of the network's own
    own = group_label_map(label_map[None])[0]
    torch.manual_seed(0)
    found, soft = sample_training_proposals(own, label_map, ids, masks, 1)
    for mask, membership in zip(found, soft, strict=True):
        value = label_map[mask].mean()
        expected = (1 - (label_map - value).abs()).clamp(0, 1)
        torch.testing.assert_close(membership[mask], expected[mask])

import pytest
import torch

from dvis_d2.modeling.grouping import group_label_map
from dvis_d2.modeling.proposal_sampling import perturb_masks, training_proposals
from dvis_d2.modeling.targets import instance_masks


@pytest.fixture
def two_objects():
    ids = torch.zeros(40, 40, dtype=torch.int64)
    ids[5:15, 5:15] = 1
    ids[20:36, 22:38] = 2
    ids[5:15, 15:20] = -1
    return ids, instance_masks(ids, 2)


def test_perturbed_masks_cover_the_whole_range_of_iou(two_objects):
    ids, masks = two_objects
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


def test_soft_masks_of_perturbed_ground_truth_follow_the_mean_label(two_objects):
    ids, masks = two_objects
    label_map = torch.zeros(40, 40)
    label_map[ids == 1], label_map[ids == 2] = 0.4, 0.9  # below the threshold: nothing of the network's own
    own = group_label_map(label_map[None])[0]
    torch.manual_seed(0)
    found, soft = training_proposals(own, label_map, ids, masks, 1)
    for mask, membership in zip(found, soft, strict=True):
        value = label_map[mask].mean()
        expected = (1 - (label_map - value).abs()).clamp(0, 1)
        torch.testing.assert_close(membership[mask], expected[mask])

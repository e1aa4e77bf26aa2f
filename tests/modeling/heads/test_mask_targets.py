import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from dvis_d2.modeling.heads.mask_targets import crop_masks, mask_targets, refined_iou


def square(y0, y1, x0, x1, size=16):
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_crops_are_the_masks_inside_the_boxes():
    masks = BitMasks(torch.stack([square(0, 16, 0, 8), square(4, 8, 4, 8)]))
    boxes = torch.tensor([[4.0, 4, 12, 12], [4, 4, 12, 12]])
    crops = crop_masks(masks, torch.tensor([1, 0]), boxes, 4)
    expected = torch.zeros(2, 4, 4)
    expected[0, :2, :2] = 1  # the small square fills a quarter of the box
    expected[1, :, :2] = 1
    assert torch.equal(crops, expected)


def test_targets_of_a_batch_in_which_an_image_has_nothing():
    def image(*masks):
        masks = torch.stack(masks) if masks else torch.zeros(0, 16, 16, dtype=torch.bool)
        return Instances((16, 16), gt_masks=BitMasks(masks))

    proposals = [
        Instances((16, 16), proposal_boxes=Boxes(torch.zeros(n, 4)), gt_index=torch.tensor(index, dtype=torch.int64))
        for n, index in ((0, []), (2, [1, 0]))
    ]
    boxes = [torch.zeros(0, 4), torch.tensor([[0.0, 0, 16, 16]] * 2)]
    crops, areas = mask_targets(proposals, boxes, [image(), image(square(0, 4, 0, 4), square(0, 8, 0, 8))], size=4)
    assert areas.tolist() == [64, 16]
    assert crops.sum(dim=(1, 2)).tolist() == [4, 1]


def logits(mask):
    return torch.where(mask, 3.0, -3.0)[None]


def test_refined_iou_by_hand():
    box = torch.tensor([[0.0, 0, 8, 16]])  # cells of 2 x 4 pixels
    truth, predicted = square(0, 4, 0, 2, size=4), square(0, 2, 0, 4, size=4)
    inside = 4 * 2 * 8.0
    # 4 of 12 cells are in both; the instance ends where the box does
    iou = refined_iou(logits(predicted), truth[None].float(), box, torch.tensor([inside]))
    assert iou.tolist() == pytest.approx([4 / 12])
    # 96 pixels of it lie outside the box, where the mask never is: as 12 more cells
    iou = refined_iou(logits(predicted), truth[None].float(), box, torch.tensor([inside + 96]))
    assert iou.tolist() == pytest.approx([4 / 24])
    # the mask is the instance, the crop a little larger than what it shows: no more than 1
    assert refined_iou(logits(truth), truth[None].float(), box, torch.tensor([inside - 5])).tolist() == [1]


def test_refined_iou_of_empty_masks_and_boxes_is_finite():
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    boxes = torch.tensor([[0.0, 0, 8, 8], [3, 3, 3, 3], [0, 0, 8, 8]])
    masks = torch.cat([logits(nothing), logits(~nothing), logits(nothing)])
    truth = torch.stack([~nothing, ~nothing, nothing]).float()
    assert refined_iou(masks, truth, boxes, torch.tensor([64, 64, 0])).tolist() == [0, 0, 0]
    assert refined_iou(masks[:0], truth[:0], boxes[:0], torch.zeros(0)).shape == (0,)


@pytest.mark.parametrize("seed", range(5))
def test_refined_iou_is_the_pixels_iou_where_cells_are_pixels(seed):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(16, 16, generator=generator) < 0.5
    head = torch.rand(8, 8, generator=generator) < 0.5
    box = torch.tensor([[4.0, 2, 12, 10]])
    predicted = torch.zeros(16, 16, dtype=torch.bool)
    predicted[2:10, 4:12] = head
    crop = crop_masks(BitMasks(truth[None]), torch.tensor([0]), box, 8)
    expected = (truth & predicted).sum() / (truth | predicted).sum()
    found = refined_iou(logits(head), crop, box, truth.sum()[None])
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


def test_no_gradient_reaches_the_mask_head():
    mask_logits = torch.zeros(1, 4, 4, requires_grad=True)
    iou = refined_iou(mask_logits, torch.ones(1, 4, 4), torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([16]))
    assert not iou.requires_grad and iou.item() == 1

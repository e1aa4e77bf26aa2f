"""The heads with refinement, and without classes."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from tests.modeling.roi_head_cases import (
    OBJECT,
    STRIDE,
    build,
    features,
    make_proposals,
    make_targets,
    say,
)


def test_refinement_verifies_the_masks_of_the_mask_head_as_well():
    proposals = [make_proposals((2, 8, 4, 14), (2, 4, 2, 4), (10, 14, 10, 14)), make_proposals()]
    big = 100.0
    unlikely = [0.0, 0.0, 0.0, 1.2]  # 3 / (3 + exp 1.2) = 0.47
    logits = [[-big, 0.1, -big, 0.0], [0.0, -big, -big, -big], unlikely], [[-big, 5.0, -big, 2.0]]
    # the left half of the first box, which grows from 4..14 by one cell a side; of the second one nothing is left
    left = torch.full((2, 8, 8), -9.0)
    left[0, :, :4] = 9.0
    heads = say(build(refine_proposals=True).eval(), [[0.5, 0.25, 0.9], [0.7]], logits, [left])
    first, second = heads.verify([features(2)["p2"]], proposals)
    assert heads.iou_pred.heard == [3, 1]  # the third is plainly background, and there is nothing of the second to draw
    assert len(first) == 4 and len(second) == 0
    columns = first.proposal_masks[3].any(dim=0).nonzero()
    assert columns.min() == 3 and columns.max() == 8
    assert torch.equal(first.soft_masks[3], first.proposal_masks[3].float())
    x0, _, x1, _ = first.proposal_boxes.tensor[3].tolist()
    assert (x0, x1) == (STRIDE * 3, STRIDE * 9)
    assert first.ious.tolist() == pytest.approx([0.5, 0.25, 0.9, 0.7]) and second.ious.shape == (0,)
    assert first.class_probs.shape == (4, 3) and second.class_probs.shape == (0, 3)
    assert first.class_probs[3, 1] > 0.95

    heads = say(build().eval(), [[0.5, 0.25, 0.9]], logits[:1])
    first, _ = heads.verify([features(2)["p2"]], proposals)
    assert torch.equal(first.proposal_masks, proposals[0].proposal_masks)


def test_refinement_without_classes_is_of_what_has_the_iou():
    heads = build(refine_proposals=True, class_agnostic=True).eval()
    say(heads, [[0.49, 0.51], [0.3]], masks=[torch.full((2, 8, 8), 9.0)])
    (both,) = heads.verify([features()["p2"]], [make_proposals((10, 14, 10, 14), OBJECT)])
    assert len(both) == 3 and heads.iou_pred.heard == [2, 1]
    assert (both.proposal_masks[2] & both.proposal_masks[1]).equal(both.proposal_masks[1])
    assert both.ious.tolist() == pytest.approx([0.49, 0.51, 0.3])
    assert torch.equal(both.class_probs, both.ious[:, None])


def test_class_agnostic_heads_have_no_class_layer_and_no_class_loss():
    heads = build(class_agnostic=True)
    assert heads.cls_score is None and not any("cls_score" in name for name in heads.state_dict())
    # classes beyond num_classes do not matter, ground truth of two classes is foreground all the same
    targets = [make_targets(OBJECT, (10, 14, 10, 14), classes=[7, 2]), make_targets(classes=[])]
    proposals = [make_proposals(OBJECT, (10, 14, 10, 14), (0, 2, 12, 16)), make_proposals((1, 5, 1, 5))]
    with EventStorage():
        sampled, losses = heads(None, features(2), proposals, targets)
    assert sorted(sampled[0].gt_classes.tolist()) == [0, 0, 1] and sampled[1].gt_classes.tolist() == [1]
    assert set(losses) == set(heads.zero_losses()) == {"loss_iou", "loss_mask"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in heads.parameters())


def test_class_agnostic_score_is_the_iou_whatever_alpha_and_duplicates_are_of_one_class():
    heads = say(build(class_agnostic=True, alpha=0.0).eval(), [[0.6, 0.9, 0.7]], masks=[torch.full((2, 8, 8), 50.0)])
    proposals = [make_proposals(OBJECT, (2, 8, 2, 9)), make_proposals((10, 14, 10, 14))]
    results, _ = heads(None, features(2), proposals)
    assert [r.scores.tolist() for r in results] == [pytest.approx([0.9]), pytest.approx([0.7])]
    assert all(r.pred_classes.tolist() == [0] for r in results)


def test_class_agnostic_heads_without_any_proposal():
    heads = build(class_agnostic=True)
    with EventStorage():
        _, losses = heads(None, features(), [make_proposals()], [make_targets(OBJECT, classes=[1])])
    assert all(value == 0 for value in losses.values())
    results, _ = heads.eval()(None, features(), [make_proposals()])
    assert len(results[0]) == 0 and results[0].pred_classes.dtype == torch.int64

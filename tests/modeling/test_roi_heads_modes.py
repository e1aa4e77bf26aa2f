"""The heads without classes."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from tests.modeling.roi_head_cases import (
    OBJECT,
    build,
    features,
    make_proposals,
    make_targets,
    say,
)


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

import torch

from dvis_d2.modeling.targets import downsample_instance_ids, instance_masks


def test_downsample_takes_the_majority_of_every_cell():
    ids = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 2], [2, 2, -1, -1], [2, 1, -1, 3]]])
    assert downsample_instance_ids(ids, 2).tolist() == [[[1, 0], [2, -1]]]


def test_downsample_invents_no_id_where_no_id_has_a_majority():
    # 1 and 5 share the cell; an average would say 3
    ids = torch.tensor([[[1, 5], [5, 1]]])
    assert downsample_instance_ids(ids, 2).item() in (1, 5)


def test_downsample_does_not_shift_objects():
    ids = torch.zeros(1, 32, 32, dtype=torch.int64)
    ids[0, 8:24, 8:24] = 1
    small = downsample_instance_ids(ids, 4)[0]
    assert small.nonzero().float().mean(dim=0).tolist() == [3.5, 3.5]
    assert small.sum() == 16


def test_downsample_at_stride_1_is_the_identity():
    ids = torch.randint(-1, 4, (2, 5, 7))
    assert torch.equal(downsample_instance_ids(ids, 1), ids)


def test_instance_masks_are_in_the_order_of_the_instances():
    ids = torch.tensor([[0, 2, 2], [-1, 1, 3]])
    masks = instance_masks(ids, 4)
    assert masks.shape == (4, 2, 3)
    assert masks.sum(dim=(1, 2)).tolist() == [1, 2, 1, 0]
    assert masks[1, 0].tolist() == [False, True, True]

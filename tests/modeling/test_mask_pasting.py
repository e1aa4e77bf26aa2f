import pytest
import torch

from dvis_d2.modeling.mask_pasting import final_masks


def square(size, y0, y1, x0, x1):
    mask = torch.zeros(1, *size)
    mask[:, y0:y1, x0:x1] = 1
    return mask


def make(source, soft, probs, box, **kwargs):
    args = dict(stride=4, image_size=(32, 48), output_size=(32, 48))
    return final_masks(soft, probs, torch.tensor([box]), source=source, **(args | kwargs))


@pytest.mark.parametrize("source", ["label_map", "head"])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_every_source_puts_the_object_where_it_is(source, factor):
    # cells 2..6 x 3..7 of stride 4; the head's 12 x 12 grid says the same inside a box that is larger by one cell
    soft = square((8, 12), 2, 6, 3, 7)
    probs = square((12, 12), 2, 10, 2, 10)
    masks = make(source, soft, probs, [8.0, 4.0, 32.0, 28.0], output_size=(32 * factor, 48 * factor))
    expected = square((32 * factor, 48 * factor), 8 * factor, 24 * factor, 12 * factor, 28 * factor).bool()
    # bilinear interpolation rounds the four corners off
    assert (masks ^ expected).sum() <= 4 * (2 * factor) ** 2
    assert masks.dtype == torch.bool


def test_a_box_that_leaves_the_image_or_is_empty():
    soft, probs = torch.ones(1, 8, 12), torch.ones(1, 12, 12)
    assert make("head", soft, probs, [-8.0, -8.0, 8.0, 8.0]).sum() == 8 * 8
    assert not make("head", soft, probs, [5.0, 5.0, 5.0, 9.0]).any()


@pytest.mark.parametrize("source", ["label_map", "head"])
def test_no_detections(source):
    empty = final_masks(
        torch.zeros(0, 8, 12),
        torch.zeros(0, 14, 14),
        torch.zeros(0, 4),
        source=source,
        stride=4,
        image_size=(32, 48),
        output_size=(64, 96),
    )
    assert empty.shape == (0, 64, 96) and empty.dtype == torch.bool

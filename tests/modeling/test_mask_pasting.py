import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import paste_masks_in_image
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_d2.modeling import mask_pasting
from dvis_d2.modeling.mask_pasting import final_masks, paste_masks


def upsample_soft_masks(soft, **options):
    return torch.from_numpy(mask_pasting.upsample_soft_masks(soft, **options).numpy())


def square(size, y0, y1, x0, x1):
    mask = torch.zeros(1, *size)
    mask[:, y0:y1, x0:x1] = 1
    return mask


def make(source, soft, probs, box, **kwargs):
    args = dict(stride=4, image_size=(32, 48), output_size=(32, 48))
    return torch.from_numpy(final_masks(soft, probs, torch.tensor([box]), source=source, **(args | kwargs)).numpy())


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
    masks = final_masks(
        torch.zeros(0, 8, 12),
        torch.zeros(0, 14, 14),
        torch.zeros(0, 4),
        source=source,
        stride=4,
        image_size=(32, 48),
        output_size=(64, 96),
    )
    empty = masks.numpy()
    assert empty.shape == (0, 64, 96) and empty.dtype == bool


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1.0, 0.5, 1.9]))
def test_pasting_is_detectron2s(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    probs = F.avg_pool2d(torch.rand(4, 14, 14, generator=generator) + 0.1, 3, stride=1, padding=1)
    low, extent = torch.rand(2, 4, 2, generator=generator)
    low = low * 28 - 8
    boxes, size = torch.cat([low, low + 10 + extent * 30], dim=1), (round(30 * scale), round(41 * scale))
    drawn = paste_masks(probs, boxes, image_size=(30, 41), output_size=size)
    zoom = torch.tensor([size[1] / 41, size[0] / 30]).repeat(2)
    expected = paste_masks_in_image(probs, boxes * zoom, size)
    nearly = paste_masks_in_image(probs, boxes * zoom, size, threshold=-1).float() / 255
    clear = (nearly - 0.5).abs() > 0.01
    assert (torch.from_numpy(drawn.numpy()) == expected)[clear].all()


def test_a_cell_covers_its_pixels():
    soft = torch.zeros(1, 4, 5)
    soft[0, 1:3, 2:4] = 1
    masks = upsample_soft_masks(soft, stride=4, image_size=(16, 20))
    # Between a full and an empty cell the membership is one half at the border of their pixels.
    expected = F.interpolate(soft[None], scale_factor=4, mode="bilinear", align_corners=False)[0] >= 0.5
    assert torch.equal(masks, expected)
    assert masks[0, 6, 8:16].all() and not masks[0, 6, :8].any() and not masks[0, 6, 16:].any()
    assert not masks[0, :4].any() and not masks[0, 12:].any()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    cells=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    stride=st.sampled_from([1, 2, 4, 8]),
    cut=st.tuples(st.integers(-5, 7), st.integers(-5, 7)),
    scale=st.sampled_from([1.0, 0.5, 0.37, 1.9]),
)
def test_crops_match_interpolating_the_whole_map(seed, cells, stride, cut, scale):
    generator = torch.Generator().manual_seed(seed)
    soft = torch.rand(3, *cells, generator=generator)
    soft[0] *= torch.rand(cells, generator=generator) > 0.7
    soft[1, :, cells[1] // 2 :] = 0
    image_size = (max(1, cells[0] * stride - cut[0]), max(1, cells[1] * stride - cut[1]))
    output_size = (max(1, round(image_size[0] * scale)), max(1, round(image_size[1] * scale)))
    found = upsample_soft_masks(soft, stride=stride, image_size=image_size, output_size=output_size)

    # grid_sample over the whole map, its coordinates normalized to [-1, 1] from edge to edge of the map.
    axes = [
        (torch.arange(out, dtype=torch.float64) + 0.5) * image / out / (stride * n) * 2 - 1
        for out, image, n in zip(output_size, image_size, cells, strict=True)
    ]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)[None].expand(3, -1, -1, -1)
    value = F.grid_sample(soft[:, None].double(), grid, padding_mode="border", align_corners=False)[:, 0]
    clear = (value - 0.5).abs() > 1e-4
    assert torch.equal(found[clear], (value >= 0.5)[clear])


def test_neighboring_values_give_no_false_ring():
    # Label 5 beside background: interpolated labels would pass 2 and 3 and give rings to the objects of these
    # values.
    label_map = torch.zeros(8, 8)
    label_map[2:6, 2:6] = 5
    soft = (1 - (label_map - torch.tensor([5.0, 2.0])[:, None, None]).abs()).clamp(0, 1)
    masks = upsample_soft_masks(soft, stride=4, image_size=(32, 32))
    assert masks[0, 8:24, 8:24].sum() == masks[0].sum() > 230
    assert not masks[1].any()


def test_instances_without_membership_or_in_the_padding():
    soft = torch.zeros(3, 8, 8)
    soft[1, 6:8, 6:8] = 1  # the image ends before
    soft[2, 1:3, 1:3] = 1
    options = {"stride": 4, "image_size": (20, 20)}
    assert upsample_soft_masks(soft, **options).flatten(1).any(1).tolist() == [False, False, True]


def test_no_instances():
    assert upsample_soft_masks(torch.zeros(0, 8, 8), stride=4, image_size=(30, 31)).shape == (0, 30, 31)


def test_half_precision():
    soft = torch.zeros(1, 4, 4, dtype=torch.bfloat16)
    soft[0, 1:3, 1:3] = 1
    expected = upsample_soft_masks(soft.float(), stride=4, image_size=(16, 16))
    assert torch.equal(upsample_soft_masks(soft, stride=4, image_size=(16, 16)), expected)


def test_large_outputs_are_sampled_in_chunks_of_rows(monkeypatch):
    soft = torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(0))
    options = {"stride": 4, "image_size": (35, 42), "output_size": (70, 90)}
    whole = upsample_soft_masks(soft, **options)
    monkeypatch.setattr(mask_pasting, "_CHUNK", 200)
    assert torch.equal(upsample_soft_masks(soft, **options), whole)

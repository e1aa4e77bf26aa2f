import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError
from PIL import Image

from dvis_d2.config import add_dvis_config
from dvis_d2.data import DVISDatasetMapper

H, W = 24, 36


def rle(mask):
    return mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))


def block(top, left, bottom, right, shape=(H, W)):
    mask = np.zeros(shape, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def box_polygon(top, left, bottom, right):
    return [[left, top, right, top, right, bottom, left, bottom]]


def annotation(segmentation, category_id=0, **more):
    return {"segmentation": segmentation, "category_id": category_id, **more}


@pytest.fixture
def image_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def dataset_dict(file_name, annotations, **more):
    return {
        "file_name": file_name,
        "height": H,
        "width": W,
        "image_id": 7,
        "annotations": annotations,
        **more,
    }


def mapper(augmentations=(), **options):
    options = {"is_train": True, "image_format": "RGB", "num_classes": 5, **options}
    return DVISDatasetMapper(augmentations=list(augmentations), **options)


def test_polygon_and_rle_of_one_region_give_the_same_ground_truth(image_file):
    polygons = [annotation(box_polygon(3, 4, 10, 20), 2), annotation(box_polygon(12, 1, 20, 9), 1)]
    rles = [annotation(rle(block(3, 4, 10, 20)), 2), annotation(rle(block(12, 1, 20, 9)), 1)]
    mixed = [polygons[0], rles[1]]
    arrays = [annotation(block(3, 4, 10, 20), 2), annotation(block(12, 1, 20, 9), 1)]
    expected = block(3, 4, 10, 20) + 2 * block(12, 1, 20, 9)
    for annotations in (polygons, rles, mixed, arrays):
        result = mapper()(dataset_dict(image_file, annotations))
        assert np.array_equal(result["instance_ids"], expected)
        instances = result["instances"]
        assert instances.gt_classes.tolist() == [2, 1]
        assert instances.gt_boxes.tensor.tolist() == [[4, 3, 20, 10], [1, 12, 9, 20]]
        assert np.array_equal(instances.gt_masks.tensor[0], block(3, 4, 10, 20))


def test_types_and_kept_keys(image_file):
    result = mapper()(dataset_dict(image_file, [annotation(box_polygon(0, 0, 5, 5))]))
    assert result["image"].dtype == torch.uint8
    assert result["image"].shape == (3, H, W)
    assert result["instance_ids"].dtype == torch.int64
    assert result["instances"].image_size == (H, W)
    assert result["instances"].gt_masks.tensor.dtype == torch.bool
    assert (result["height"], result["width"], result["image_id"]) == (H, W, 7)
    assert "annotations" not in result


def test_the_dataset_dict_is_not_changed(image_file):
    given_dict = dataset_dict(image_file, [annotation(box_polygon(0, 0, 5, 5))], ignore_mask=block(0, 0, 2, 2))
    before = str(given_dict)
    mapper([T.HFlipTransform(W)])(given_dict)
    assert str(given_dict) == before


def test_image_channels_follow_the_format(image_file):
    rgb = mapper()(dataset_dict(image_file, []))["image"]
    bgr = mapper(image_format="BGR")(dataset_dict(image_file, []))["image"]
    gray = mapper(image_format="L")(dataset_dict(image_file, []))["image"]
    assert torch.equal(rgb.flip(0), bgr)
    assert gray.shape == (1, H, W)
    assert np.array_equal(rgb.permute(1, 2, 0), Image.open(image_file))


def test_images_are_normalized_as_the_config_says(tmp_path):
    dark = np.linspace(100, 500, H * W).reshape(H, W).astype(np.uint16)
    Image.fromarray(dark).save(tmp_path / "a.png")
    for normalize, most in (("auto", 255), ("none", 2)):
        image = mapper(normalize=normalize)(dataset_dict(str(tmp_path / "a.png"), []))["image"]
        assert image.max() == most
    cfg = get_cfg()
    add_dvis_config(cfg)
    assert DVISDatasetMapper.from_config(cfg)["normalize"] == "auto"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_small_objects_are_painted_over_large_ones(image_file, order):
    masks = [block(2, 2, 20, 30), block(5, 5, 8, 8)]
    annotations = [annotation(rle(masks[i])) for i in order]
    ids = mapper()(dataset_dict(image_file, annotations))["instance_ids"].numpy()
    assert np.array_equal(ids == order.index(1) + 1, masks[1])
    assert np.array_equal(ids == order.index(0) + 1, masks[0] & ~masks[1])


def test_crowds_are_ignored_only_where_no_instance_is(image_file):
    crowd, thing = block(0, 0, 10, 10), block(5, 5, 15, 15)
    annotations = [annotation(rle(crowd), iscrowd=1), annotation(rle(thing), 3, iscrowd=0)]
    result = mapper()(dataset_dict(image_file, annotations))
    expected = np.where(thing, 1, np.where(crowd, -1, 0))
    assert np.array_equal(result["instance_ids"], expected)
    assert result["instances"].gt_classes.tolist() == [3]


def test_crowds_alone(image_file):
    result = mapper()(dataset_dict(image_file, [annotation(rle(block(0, 0, H, W)), iscrowd=1)]))
    assert len(result["instances"]) == 0
    assert (result["instance_ids"] == -1).all()


@pytest.mark.parametrize("annotations", [[], None])
def test_nothing_on_the_image(image_file, annotations):
    given_dict = dataset_dict(image_file, annotations)
    if annotations is None:
        del given_dict["annotations"]
    result = mapper([T.Resize((10, 12))])(given_dict)
    assert result["instances"].gt_boxes.tensor.shape == (0, 4)
    assert result["instances"].gt_masks.tensor.shape == (0, 10, 12)
    assert (result["instance_ids"] == 0).all()
    assert result["instance_ids"].shape == (10, 12)


def test_ids_skip_what_a_crop_cut_away(image_file):
    annotations = [annotation(box_polygon(0, 0, 5, 5), 4), annotation(box_polygon(8, 8, 20, 20), 1)]
    result = mapper([T.CropTransform(6, 6, 20, 12)])(dataset_dict(image_file, annotations))
    assert result["instances"].gt_classes.tolist() == [1]
    assert np.array_equal(result["instance_ids"], block(2, 2, 12, 14, shape=(12, 20)))
    assert result["instances"].gt_boxes.tensor.tolist() == [[2, 2, 14, 12]]


def test_empty_masks_are_dropped(image_file):
    outside = [[50, 50, 60, 50, 60, 60]]
    annotations = [
        annotation(rle(block(0, 0, 0, 0))),
        annotation(outside),
        annotation(rle(block(1, 1, 3, 3)), 2),
    ]
    result = mapper()(dataset_dict(image_file, annotations))
    assert result["instances"].gt_classes.tolist() == [2]
    assert result["instance_ids"].max() == 1


AUGMENTATIONS = [
    [T.HFlipTransform(W)],
    [T.VFlipTransform(H)],
    [T.Resize((48, 72))],
    [T.CropTransform(5, 3, 20, 15), T.HFlipTransform(20), T.Resize((45, 60))],
]


@pytest.mark.parametrize("augmentations", AUGMENTATIONS)
@pytest.mark.parametrize("kind", ["polygon", "rle"])
def test_augmentations_act_on_image_and_masks_alike(tmp_path, augmentations, kind):
    """The picture shows its own ground truth (the object is white), so both must still agree afterwards."""
    mask = block(4, 7, 17, 21) & ~block(4, 7, 10, 12)
    outline = [[12, 4, 21, 4, 21, 17, 7, 17, 7, 10, 12, 10]]
    Image.fromarray((mask * 255).astype(np.uint8)).save(tmp_path / "a.png")
    segmentation = outline if kind == "polygon" else rle(mask)
    result = mapper(augmentations)(dataset_dict(str(tmp_path / "a.png"), [annotation(segmentation)]))
    white = result["image"][0].numpy() > 127
    ids = result["instance_ids"].numpy()
    assert ids.shape == white.shape
    assert ((ids == 1) != white).sum() <= 0.02 * white.size  # interpolated edges may differ by half a pixel
    assert np.array_equal(ids == 1, result["instances"].gt_masks.tensor[0])


def test_ignore_mask_in_its_three_forms(image_file, tmp_path):
    void = block(0, 0, 4, 6)
    Image.fromarray((void * 255).astype(np.uint8)).save(tmp_path / "void.png")
    things = [annotation(rle(block(2, 2, 9, 9)))]
    expected = np.where(void, -1, block(2, 2, 9, 9))
    for ignore_mask in (void, rle(void), str(tmp_path / "void.png")):
        result = mapper()(dataset_dict(image_file, things, ignore_mask=ignore_mask))
        assert np.array_equal(result["instance_ids"], expected)
        assert "ignore_mask" not in result
    flipped = mapper([T.HFlipTransform(W)])(dataset_dict(image_file, things, ignore_mask=void))
    assert np.array_equal(flipped["instance_ids"], expected[:, ::-1])


def test_ignore_mask_of_another_size(image_file):
    with pytest.raises(ValueError, match=r"a\.png.*\(3, 3\)"):
        mapper()(dataset_dict(image_file, [], ignore_mask=np.ones((3, 3))))


@pytest.mark.parametrize("pad_value", [0, 255])
def test_padding_is_ignored_and_belongs_to_no_instance(image_file, pad_value):
    pad = T.PadTransform(0, 0, 4, 2, orig_w=W, orig_h=H, seg_pad_value=pad_value)
    annotations = [annotation(rle(block(20, 30, H, W))), annotation(box_polygon(20, 0, H, 3))]
    result = mapper([pad])(dataset_dict(image_file, annotations))
    assert (result["instance_ids"][H:] == -1).all()
    assert (result["instance_ids"][:, W:] == -1).all()
    assert result["instances"].gt_masks.tensor.sum(dim=(1, 2)).tolist() == [24, 12]


def test_no_ground_truth_at_test_time(image_file):
    annotations = [annotation(box_polygon(0, 0, 12, 12))]
    result = mapper(is_train=False)(dataset_dict(image_file, annotations, ignore_mask=block(0, 0, 1, 1)))
    assert set(result) == {"file_name", "height", "width", "image_id", "image"}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (annotation(box_polygon(0, 0, 5, 5), 5), r"a\.png, annotation 1: class id 5 is out of range 0\.\.4"),
        (annotation(box_polygon(0, 0, 5, 5), -1), "class id -1"),
        (annotation(None), "annotation 1: it has no segmentation"),
        ({"category_id": 0}, "it has no segmentation"),
        (annotation([]), "it has no segmentation"),
        (annotation([[1, 2, 3, 4]]), "at least 3 points"),
        (annotation([[1, 2, 3, 4, float("nan"), 3]]), "all finite"),
        (annotation(rle(np.ones((W, H)))), r"shape \(36, 24\)"),
        (annotation({"size": [H, W], "counts": b"not an rle"}), "RLE cannot be decoded"),
        (annotation({"size": [H, W]}), "RLE cannot be decoded"),
    ],
)
def test_bad_annotations_are_named(image_file, bad, message):
    with pytest.raises(ValueError, match=message):
        mapper()(dataset_dict(image_file, [annotation(box_polygon(0, 0, 5, 5)), bad]))


def test_image_of_another_size(image_file):
    with pytest.raises(SizeMismatchError, match=r"a\.png"):
        mapper()({**dataset_dict(image_file, []), "width": 99})


def test_one_pixel_image(tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    given_dict = {"file_name": str(tmp_path / "dot.png"), "annotations": [annotation(rle(np.ones((1, 1))))]}
    result = mapper([T.ResizeShortestEdge(32, 64)])(given_dict)
    assert (result["height"], result["width"]) == (1, 1)
    assert result["instance_ids"].shape == (32, 32)
    assert (result["instance_ids"] == 1).all()


def test_from_config():
    cfg = get_cfg()
    add_dvis_config(cfg)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.INPUT.CROP.ENABLED = True
    train, test = DVISDatasetMapper(cfg, is_train=True), DVISDatasetMapper(cfg, is_train=False)
    kinds = [type(a) for a in train.augmentations.augs]
    assert kinds == [T.RandomCrop, T.ResizeShortestEdge, T.RandomFlip]
    assert [type(a) for a in test.augmentations.augs] == [T.ResizeShortestEdge]
    assert train.num_classes == 3
    assert train.image_format == cfg.INPUT.FORMAT
    assert train.is_train and not test.is_train


def test_right_angles_turn_image_and_masks_alike(image_file, tiny_cfg):
    """The object is the image's bright pixels: it must stay so however the image is turned."""
    mask = block(3, 5, 9, 30) | block(3, 5, 20, 9)
    Image.fromarray(np.repeat(np.uint8(mask)[..., None] * 255, 3, axis=2)).save(image_file)
    tiny_cfg.INPUT.RANDOM_RIGHT_ANGLES, tiny_cfg.INPUT.MIN_SIZE_TRAIN = True, (0,)
    turned, seen = DVISDatasetMapper(tiny_cfg, is_train=True), set()
    for seed in range(12):
        np.random.seed(seed)
        out = turned(dataset_dict(image_file, [annotation(rle(mask))]))
        assert torch.equal(out["image"][0] > 127, out["instance_ids"] == 1)
        assert torch.equal(out["instances"].gt_masks.tensor[0], out["instance_ids"] == 1)
        seen.add(out["image"].numpy().tobytes())
    assert len(seen) > 4  # flips and turns


def test_color_jitter_changes_pixels_and_no_mask(image_file, tiny_cfg):
    tiny_cfg.INPUT.COLOR_JITTER, tiny_cfg.INPUT.MIN_SIZE_TRAIN, tiny_cfg.INPUT.RANDOM_FLIP = 0.4, (0,), "none"
    record = dataset_dict(image_file, [annotation(rle(block(2, 2, 9, 9)))])
    a, b = (DVISDatasetMapper(tiny_cfg, is_train=True)(record) for _ in range(2))
    assert not torch.equal(a["image"], b["image"])
    assert torch.equal(a["instance_ids"], b["instance_ids"])
    tested = DVISDatasetMapper(tiny_cfg, is_train=False)
    assert torch.equal(tested(record)["image"], tested(record)["image"])


def test_color_jitter_out_of_range_is_refused(tiny_cfg):
    tiny_cfg.INPUT.COLOR_JITTER = 1.0
    with pytest.raises(ValueError, match="INPUT.COLOR_JITTER is 1.0"):
        DVISDatasetMapper(tiny_cfg, is_train=True)

"""Small files of VOC and SBD, in their formats."""

import numpy as np
from PIL import Image
from scipy.io import savemat

H, W = 20, 30
PALETTE = [(37 * i * (c + 1)) % 256 for i in range(256) for c in range(3)]  # nothing like the indices
# image -> instance id -> (rows, columns, class id from 1)
OBJECTS = {
    "2007_000001": {1: (slice(2, 8), slice(3, 9), 15), 2: (slice(2, 8), slice(11, 20), 7)},
    "2007_000002": {1: (slice(5, 15), slice(5, 25), 20)},
    "2008_000003": {1: (slice(1, 4), slice(1, 4), 1), 2: (slice(10, 18), slice(10, 28), 1)},
    "2008_000004": {1: (slice(4, 9), slice(4, 9), 3)},
    "2008_000005": {1: (slice(4, 9), slice(14, 19), 12)},
}
BORDER = (slice(2, 8), slice(9, 11))  # void, in 2007_000001


def label_maps(image, void=True):
    instance_ids, class_ids = np.zeros((H, W), np.uint8), np.zeros((H, W), np.uint8)
    for k, (rows, cols, class_id) in OBJECTS[image].items():
        instance_ids[rows, cols], class_ids[rows, cols] = k, class_id
    if void and image == "2007_000001":
        instance_ids[BORDER] = class_ids[BORDER] = 255
    return instance_ids, class_ids


def save_png(path, labels):
    image = Image.fromarray(labels)
    image.putpalette(PALETTE)
    assert image.mode == "P"
    image.save(path)


def save_mat(path, labels, categories):
    boundaries = np.empty((20, 1), dtype=object)
    boundaries[:] = [[labels > 0]] * 20
    inst = {"Segmentation": labels, "Categories": np.array(categories, np.uint8)[:, None], "Boundaries": boundaries}
    savemat(path, {"GTinst": inst}, do_compression=True)


def save_jpeg(path):
    Image.fromarray(np.full((H, W, 3), 90, np.uint8)).save(path)


def write_lists(folder, lists):
    folder.mkdir(parents=True, exist_ok=True)
    for name, images in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{image}\n" for image in images))

"""The mapper: from a dataset dict to what the model takes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils
from detectron2.data import transforms as T

from .annotations import read_annotations
from .ground_truth import build_ground_truth
from .image_io import read_image
from .scaling import size_for_test


class ResizeForTest(T.Augmentation):
    """Of whole images, by ``INPUT.SCALE`` or to ``MIN_SIZE_TEST``."""

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg

    def get_transform(self, image: np.ndarray) -> T.Transform:
        size = image.shape[:2]
        return T.ResizeTransform(*size, *size_for_test(self.cfg, size))


class DVISDatasetMapper:
    """Like Detectron2's `DatasetMapper`, with bitmap masks and a map of instance ids.

    A dataset dict (see :func:`.annotations.read_annotations`) comes back without "annotations" and "ignore_mask", and
    with "image", uint8 (C, H, W), augmented; in training also with "instances" and
    "instance_ids" (see :func:`.ground_truth.build_ground_truth`). "height" and "width" are those of the stored image.
    For a test that reads images by `scale_of`, one that it gives a factor comes as stored, with the factor as "scale".

    Errors of :mod:`.image_io` where the image is missing, broken or of no use, SizeMismatchError where its size is not
    that of the annotations; ValueError, naming file and annotation, where an annotation is unusable.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: list[T.Augmentation | T.Transform],
        image_format: str,
        normalize: str = "auto",
        num_classes: int = 0,
        scale_of: Callable[[tuple[int, int]], float | None] | None = None,
    ):
        """`image_format`, `normalize`: see :mod:`.image_io`; `num_classes`: 0, class ids are not checked; `scale_of`:
        of an image's (height, width), see :func:`.scaling.inference_scale`."""
        self.augmentations, self.is_train, self.scale_of = T.AugmentationList(augmentations), is_train, scale_of
        self.image_format, self.normalize, self.num_classes = image_format, normalize, num_classes

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True, **options: Any) -> dict[str, Any]:
        augmentations = detection_utils.build_augmentation(cfg, is_train)
        if cfg.INPUT.SCALE:
            augmentations[0] = ResizeForTest(cfg)
        if is_train:
            if not 0 <= (jitter := cfg.INPUT.COLOR_JITTER) < 1:
                raise ValueError(f"INPUT.COLOR_JITTER is {jitter}; give a number in [0, 1), 0 for none")
            if cfg.INPUT.RANDOM_RIGHT_ANGLES:
                augmentations.append(T.RandomRotation([0, 90, 180, 270], expand=True, sample_style="choice"))
            kinds = (T.RandomBrightness, T.RandomContrast, T.RandomSaturation) if jitter else ()
            augmentations += [kind(1 - jitter, 1 + jitter) for kind in kinds]
            if cfg.INPUT.CROP.ENABLED:
                augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        pixels = {"image_format": cfg.INPUT.FORMAT, "normalize": cfg.INPUT.NORMALIZE}
        own = {"is_train": is_train, "augmentations": augmentations, "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES}
        return own | pixels | options

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        dataset_dict, name = dict(dataset_dict), dataset_dict["file_name"]
        image = read_image(name, self.image_format, normalize=self.normalize)
        detection_utils.check_image_size(dataset_dict, image)  # sets "height" and "width" where they are missing
        result = {key: value for key, value in dataset_dict.items() if key not in ("annotations", "ignore_mask")}
        if self.scale_of and (scale := self.scale_of(image.shape[:2])):
            return result | {"image": torch.from_numpy(image.transpose(2, 0, 1).copy()), "scale": scale}
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        result["image"] = torch.from_numpy(augmented.image.transpose(2, 0, 1).copy())
        if self.is_train:
            annotations, ignored = read_annotations(dataset_dict)
            options = {"num_classes": self.num_classes, "file_name": name, "ignore_mask": ignored}
            truth = build_ground_truth(annotations, transforms, image.shape[:2], **options)
            result["instances"], result["instance_ids"] = truth
        return result

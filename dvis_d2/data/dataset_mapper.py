"""The mapper: from a dataset dict to what the model takes."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils
from detectron2.data import transforms as T

from .ground_truth import build_ground_truth
from .image_io import read_ignore_mask, read_image
from .label_files import read_instance_labels


class DVISDatasetMapper:
    """Like Detectron2's `DatasetMapper`, with bitmap masks and a map of instance ids.

    Called with a dataset dict, it returns the dict without "annotations" and "ignore_mask", and with

    - "image": uint8 (C, H, W), channels as `image_format` says, after augmentation;
    - "instances", "instance_ids" (in training, and with `keep_ground_truth`): see
      :func:`dvis_d2.data.ground_truth.build_ground_truth`. An image without annotations is all background.

    "height" and "width" stay those of the stored image. The optional key "ignore_mask" (an array (h, w), a
    COCO RLE, or the path of an image file) marks pixels to be ignored by values other than 0. A dict with the key
    "instance_label_file" has its annotations and its ignored pixels in files, see :mod:`dvis_d2.data.label_files`.

    Raises, when called:
        FileNotFoundError, OSError: the image is missing, or cannot be read.
        detectron2.data.detection_utils.SizeMismatchError: its size is not that of the annotations.
        ValueError: an annotation is unusable. The message names file and annotation.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: list[T.Augmentation | T.Transform],
        image_format: str,
        num_classes: int = 0,
        class_agnostic: bool = False,
        keep_ground_truth: bool = False,
    ):
        """
        Args:
            is_train: whether ground truth is wanted.
            augmentations: applied to the image and to all masks alike.
            image_format: of `detection_utils.read_image`, e.g. "BGR".
            num_classes: greater class ids are an error; 0: not checked.
            class_agnostic: `gt_classes` are 0, whatever the annotations say.
            keep_ground_truth: give ground truth although `is_train` is False.
        """
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.num_classes = num_classes
        self.class_agnostic = class_agnostic
        self.with_ground_truth = is_train or keep_ground_truth

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True, keep_ground_truth: bool = False) -> dict[str, Any]:
        augmentations = detection_utils.build_augmentation(cfg, is_train)
        if is_train:
            augmentations += _extra_augmentations(cfg)
        if is_train and cfg.INPUT.CROP.ENABLED:
            augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        class_agnostic, num_classes = cfg.DATASETS.CLASS_AGNOSTIC, cfg.MODEL.ROI_HEADS.NUM_CLASSES
        if class_agnostic and num_classes != 1:
            raise ValueError(
                f"DATASETS.CLASS_AGNOSTIC is True and MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}: set the one to "
                "False or the other to 1"
            )
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "num_classes": 0 if class_agnostic else num_classes,  # the data set has more than the model
            "class_agnostic": class_agnostic,
            "keep_ground_truth": keep_ground_truth,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        result = dict(dataset_dict)
        annotations = result.pop("annotations", [])
        ignore_mask = result.pop("ignore_mask", None)

        file_name = result["file_name"]
        image = read_image(file_name, self.image_format)
        detection_utils.check_image_size(result, image)
        input_size = image.shape[:2]
        augmentation_input = T.AugInput(image)
        transforms = self.augmentations(augmentation_input)
        image = augmentation_input.image
        result["image"] = torch.from_numpy(image.transpose(2, 0, 1).copy())  # PIL's pixels are read-only

        if self.with_ground_truth:
            if "instance_label_file" in result:
                annotations, ignore_mask = read_instance_labels(result)
            if ignore_mask is not None:
                ignore_mask = read_ignore_mask(ignore_mask, *input_size, file_name)
            result["instances"], result["instance_ids"] = build_ground_truth(
                annotations,
                transforms,
                input_size,
                num_classes=self.num_classes,
                file_name=file_name,
                ignore_mask=ignore_mask,
            )
            if self.class_agnostic:
                result["instances"].gt_classes.zero_()
        return result


def _extra_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """What Detectron2 has augmentations for, but no config keys."""
    augmentations: list[T.Augmentation] = []
    if cfg.INPUT.RANDOM_RIGHT_ANGLES:
        augmentations.append(T.RandomRotation([0, 90, 180, 270], expand=True, sample_style="choice"))
    jitter = cfg.INPUT.COLOR_JITTER
    if not 0 <= jitter < 1:
        raise ValueError(f"INPUT.COLOR_JITTER is {jitter}; give a number in [0, 1), 0 for none")
    if jitter:
        kinds = T.RandomBrightness, T.RandomContrast, T.RandomSaturation
        augmentations += [kind(1 - jitter, 1 + jitter) for kind in kinds]
    return augmentations

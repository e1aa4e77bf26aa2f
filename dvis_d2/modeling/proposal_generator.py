import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from .criterion import VariationalCriterion
from .grouping import Grouping, group_label_map, masks_to_boxes, soft_membership
from .label_head import LabelMapHead
from .targets import instance_masks, perturb_masks


@PROPOSAL_GENERATOR_REGISTRY.register()
class MeanShiftProposer(nn.Module):
    """What the RPN is to Faster R-CNN: the label map, its variational loss, and the few proposals that
    mean shift finds in it (section 4).
    """

    @configurable
    def __init__(
        self,
        *,
        label_head: nn.Module,
        criterion: nn.Module,
        grouping: dict,
        num_perturbed: int = 0,
    ):
        """
        Args:
            label_head: features -> label map (N, h, w) before the ReLU, with a ``common_stride``.
            criterion: (label map, instance ids, iteration) -> dict of losses.
            grouping: keyword arguments of :func:`group_label_map`.
            num_perturbed: perturbed copies of every ground-truth mask to add to the training proposals.
        """
        super().__init__()
        self.label_head = label_head
        self.criterion = criterion
        self.grouping = grouping
        self.num_perturbed = num_perturbed

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        loss, mean_shift = cfg.MODEL.VARIATIONAL_LOSS, cfg.MODEL.MEAN_SHIFT
        return {
            "label_head": LabelMapHead(cfg, input_shape),
            "criterion": VariationalCriterion(
                theta=loss.HUBER_THETA,
                binary_weight=loss.BINARY_WEIGHT,
                binary_margin=loss.BINARY_MARGIN,
                binary_balance=loss.BINARY_BALANCE,
                binary_area_exponent=loss.BINARY_AREA_EXPONENT,
                pi_weight=loss.PI_WEIGHT,
                pi_margin=loss.PI_MARGIN,
                pi_pairs=loss.PI_PAIRS,
                pi_reduction=loss.PI_REDUCTION,
                pi_different_weight=loss.PI_DIFFERENT_WEIGHT,
                pi_windows=loss.PI_WINDOWS,
                pi_windows_start=round(loss.PI_WINDOWS_START * cfg.SOLVER.MAX_ITER),
                pi_same_global=loss.PI_SAME_GLOBAL,
                pi_background=loss.PI_BACKGROUND,
                pi_centre=loss.PI_CENTRE or None,
                pi_dilation=loss.PI_DILATION or None,
                pi_density_weighted=loss.PI_DENSITY_WEIGHTED,
                ms_kind=loss.MS_KIND,
                ms_weight=loss.MS_WEIGHT,
                ms_scale=loss.MS_SCALE,
                ms_start=round(loss.MS_START * cfg.SOLVER.MAX_ITER),
                ms_end=cfg.SOLVER.MAX_ITER,
                quant_weight=loss.QUANT_WEIGHT,
                quant_start=round(loss.QUANT_START * cfg.SOLVER.MAX_ITER),
            ),
            "grouping": {
                "bandwidths": tuple(mean_shift.BANDWIDTHS),
                "foreground_threshold": mean_shift.FOREGROUND_THRESHOLD,
                "readings": tuple(mean_shift.READINGS),
                "link_thresholds": tuple(mean_shift.LINK_THRESHOLDS),
                "min_area": mean_shift.MIN_AREA,
                "crumb_ratio": mean_shift.CRUMB_RATIO,
                "nms_threshold": mean_shift.NMS_THRESH,
                "max_proposals": mean_shift.MAX_PROPOSALS,
            },
            "num_perturbed": cfg.MODEL.DVIS_ROI_HEADS.PERTURBED_GT,
        }

    @property
    def stride(self) -> int:
        """Stride of the label map, in image pixels."""
        return self.label_head.common_stride

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        gt_instances: list[Instances] | None = None,
        instance_ids: Tensor | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        Args:
            images: the batch; only its ``image_sizes`` are read.
            features: feature maps of the backbone, by name.
            gt_instances: ground truth of every image, in training.
            instance_ids: int64 (N, h, w) on the map's grid, in training; padding is -1.

        Returns:
            proposals of every image, best first, and the losses (empty at inference). Fields:
            ``proposal_boxes`` (image pixels), ``objectness_logits`` (K,) the rank score in [0, 1],
            ``proposal_masks`` bool and ``soft_masks`` float in [0, 1], both (K, h, w) on the map's grid.
        """
        label_map = self.label_head(features)
        if self.training:
            losses = self.criterion(label_map, instance_ids, get_event_storage().iter)
            return self._training_proposals(label_map.detach(), gt_instances, instance_ids, images), losses
        return self.predict_proposals(label_map, images), {}

    def losses(self, features: dict[str, Tensor], instance_ids: Tensor) -> dict[str, Tensor]:
        """The losses alone, without looking for proposals; arguments as :meth:`forward`."""
        return self.criterion(self.label_head(features), instance_ids, get_event_storage().iter)

    @torch.no_grad()
    def predict_proposals(self, label_map: Tensor, images: ImageList) -> list[Instances]:
        """Proposals of every image from the label map (N, h, w), before or after the ReLU."""
        return [
            make_proposals(grouping.masks, grouping.soft, grouping.scores, image_size=size, stride=self.stride)
            for grouping, size in zip(self._group(label_map, images), images.image_sizes, strict=True)
        ]

    def _group(self, label_map: Tensor, images: ImageList) -> list[Grouping]:
        valid = [(-(-height // self.stride), -(-width // self.stride)) for height, width in images.image_sizes]
        return group_label_map(F.relu(label_map), valid=valid, **self.grouping)

    @torch.no_grad()
    def _training_proposals(
        self, label_map: Tensor, gt_instances: list[Instances], instance_ids: Tensor, images: ImageList
    ) -> list[Instances]:
        """The network's own proposals and perturbed ground truth; none on ignored pixels, which are
        neither objects nor background."""
        proposals = []
        for i, own in enumerate(self._group(label_map, images)):
            ids, labels = instance_ids[i], label_map[i].relu()
            kept = (own.masks & (ids < 0)).sum(dim=(1, 2)) <= 0.5 * own.masks.sum(dim=(1, 2))
            gt_masks = instance_masks(ids, len(gt_instances[i]))
            perturbed = perturb_masks(gt_masks.repeat(self.num_perturbed, 1, 1), ids)
            perturbed = perturbed[perturbed.flatten(1).any(dim=1)]
            soft = soft_membership(labels, perturbed, mean_values(labels, perturbed))
            masks = torch.cat([own.masks[kept], perturbed])
            soft = torch.cat([own.soft[kept], soft])
            size, scores = images.image_sizes[i], soft.new_ones(len(masks))
            proposals.append(make_proposals(masks, soft, scores, image_size=size, stride=self.stride))
        return proposals


def make_proposals(
    masks: Tensor, soft: Tensor, scores: Tensor, *, image_size: tuple[int, int], stride: int
) -> Instances:
    """Proposals of one image, with the fields of :meth:`MeanShiftProposer.forward`, from masks bool (K, h, w) and soft
    masks float (K, h, w) on the label map's grid and scores float (K,)."""
    boxes = Boxes(masks_to_boxes(masks).float() * stride)
    boxes.clip(image_size)
    return Instances(
        image_size,
        proposal_boxes=boxes,
        objectness_logits=scores,
        proposal_masks=masks,
        soft_masks=soft,
    )


def mean_values(label_map: Tensor, masks: Tensor) -> Tensor:
    """float (K,): mean label of an (h, w) map inside every non-empty mask (K, h, w)."""
    weights = masks.flatten(1).to(label_map.dtype)
    return weights @ label_map.flatten() / weights.sum(dim=1)

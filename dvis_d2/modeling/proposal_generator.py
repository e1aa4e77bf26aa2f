import logging

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from detectron2.utils.logger import log_first_n
from torch import Tensor, nn

from .criterion import VariationalCriterion
from .grouping import Grouping, group_label_map
from .label_head import LabelMapHead
from .masks import proposal_boxes
from .options import check_range

CAPPED = "{} = {} is reached: an image, or a tile of one, may hold more objects, which are lost. Raise it"
WEAK_PROPOSAL = 0.25  # rank score below which proposals of the nuclei were duplicates of better ones


@PROPOSAL_GENERATOR_REGISTRY.register()
class MeanShiftProposer(nn.Module):
    """What the RPN is to Faster R-CNN: the label map, its variational loss, and the few proposals that mean shift finds
    in it (section 4)."""

    @configurable
    def __init__(
        self, *, label_head: LabelMapHead, criterion: VariationalCriterion, grouping: dict, num_perturbed: int = 0
    ):
        """`grouping`: keywords of :func:`group_label_map`; `num_perturbed`: see :func:`training_proposals`."""
        super().__init__()
        self.label_head = label_head
        self.criterion = criterion
        group_label_map(torch.zeros(1, 1, 1, device="cpu"), **grouping)  # names wrong options before a training
        self.grouping = grouping
        check_range(num_perturbed=num_perturbed)
        self.num_perturbed = num_perturbed

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        nodes = cfg.MODEL.VARIATIONAL_LOSS, cfg.MODEL.MEAN_SHIFT
        loss, grouping = ({key.lower(): value for key, value in node.items()} for node in nodes)
        for name in ("pi_windows_start", "ms_start", "quant_start"):
            loss[name] = round(loss[name] * cfg.SOLVER.MAX_ITER)
        loss |= {"theta": loss.pop("huber_theta"), "ms_end": cfg.SOLVER.MAX_ITER}
        return {
            "label_head": LabelMapHead(cfg, input_shape),
            "criterion": VariationalCriterion(**loss),
            "grouping": grouping | {"nms_threshold": grouping.pop("nms_thresh")},
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
        """Proposals of every image, best first, and the losses (empty at inference). Fields: ``proposal_boxes`` (image
        pixels, tight), ``roi_boxes``, the same grown by ``BOX_MARGIN`` of their size and clipped to the image, in which
        the heads see them, ``objectness_logits`` (K,) the rank score in [0, 1], ``proposal_masks`` bool and
        ``soft_masks`` float in [0, 1], both (K, h, w) on the map's grid.

        Of the images only the ``image_sizes`` are read. In training, every image's ground truth has ``gt_map_masks``
        bool (n, h, w), and ``instance_ids``, int64 (N, h, w), are on the map's grid; padding is -1.
        """
        label_map = self.label_head(features)
        groupings = self.group(label_map, images)
        if not self.training:
            return self.to_proposals(groupings, images), {}
        assert gt_instances is not None and instance_ids is not None
        losses = self.criterion(label_map, instance_ids, get_event_storage().iter)
        proposals = []
        each = zip(groupings, label_map.detach().relu(), instance_ids, gt_instances, images.image_sizes, strict=True)
        for own, labels, ids, targets, size in each:
            masks, soft = training_proposals(own, labels, ids, targets.gt_map_masks, self.num_perturbed)
            scores = soft.new_ones(len(masks))
            proposals.append(make_proposals(masks, soft, scores, image_size=size, stride=self.stride))
        return proposals, losses

    def losses(self, features: dict[str, Tensor], instance_ids: Tensor) -> dict[str, Tensor]:
        """The losses alone, without looking for proposals; arguments as :meth:`forward`."""
        return self.criterion(self.label_head(features), instance_ids, get_event_storage().iter)

    @torch.no_grad()
    def group(self, label_map: Tensor, images: ImageList) -> list[Grouping]:
        """What :func:`group_label_map` finds in the label map (N, h, w), before or after the ReLU, of every image."""
        valid = [(-(-height // self.stride), -(-width // self.stride)) for height, width in images.image_sizes]
        groupings = group_label_map(F.relu(label_map), valid=valid, **self.grouping)
        limit = self.grouping["max_proposals"]
        full = (found.scores for found in groupings if len(found) == limit)
        if not self.training and any((scores > WEAK_PROPOSAL).all() for scores in full):
            log_first_n(logging.WARNING, CAPPED.format("MODEL.MEAN_SHIFT.MAX_PROPOSALS", limit), key="caller")
        return groupings

    def to_proposals(self, groupings: list[Grouping], images: ImageList) -> list[Instances]:
        """Groupings of a batch with the fields of :meth:`forward`."""
        return [
            make_proposals(found.masks, found.soft, found.scores, image_size=size, stride=self.stride)
            for found, size in zip(groupings, images.image_sizes, strict=True)
        ]


def make_proposals(
    masks: Tensor, soft: Tensor, scores: Tensor, *, image_size: tuple[int, int], stride: int
) -> Instances:
    """Proposals of one image, with the fields of :meth:`MeanShiftProposer.forward`, from masks bool (K, h, w) and soft
    masks float (K, h, w) on the label map's grid and scores float (K,)."""
    boxes, roi_boxes = map(Boxes, proposal_boxes(masks, stride, image_size))
    fields = {"objectness_logits": scores, "proposal_masks": masks, "soft_masks": soft}
    return Instances(image_size, proposal_boxes=boxes, roi_boxes=roi_boxes, **fields)


def training_proposals(
    own: Grouping, label_map: Tensor, instance_ids: Tensor, gt_masks: Tensor, num_perturbed: int
) -> tuple[Tensor, Tensor]:
    """Masks bool and soft masks float, (K, h, w) each: the network's own proposals, and `num_perturbed` altered copies
    of every ground-truth mask of an image; none on ignored pixels, which are neither objects nor background.

    From the label map float (h, w) after the ReLU, ids int64 (h, w), and the instances' masks bool (n, h, w).
    """
    kept = (own.masks & (instance_ids < 0)).sum(dim=(1, 2)) <= 0.5 * own.masks.sum(dim=(1, 2))
    kept = kept.nonzero()[:, 0]  # indices: every look-up by a mask would wait for the device
    perturbed = perturb_masks(gt_masks.repeat(num_perturbed, 1, 1), instance_ids)
    perturbed = perturbed[perturbed.flatten(1).any(dim=1)]
    weights = perturbed.flatten(1).to(label_map.dtype)
    values = weights @ label_map.flatten() / weights.sum(dim=1)
    soft = soft_membership(label_map, perturbed, values)
    return torch.cat([own.masks[kept], perturbed]), torch.cat([own.soft[kept], soft])


def soft_membership(label_map: Tensor, masks: Tensor, values: Tensor) -> Tensor:
    """How far labels f, float (h, w), agree with the values, float (K,), of instances with masks bool (K, h, w):
    clamp(1 - |f - value|, 0, 1), float32 (K, h, w); zero where f is not finite, and beyond the mask dilated by one cell
    (8 neighbors): the falling edge serves the upsampling, and other objects of the same value do not leak in."""
    soft = (1 - (label_map.float() - values.float()[:, None, None]).abs()).clamp(0, 1).nan_to_num(0.0)
    return soft * dilated(masks)


def dilated(masks: Tensor) -> Tensor:
    """Masks bool (n, h, w) and their 8 neighbors; on a CPU faster than max_pool2d."""
    rows = F.pad(masks, (0, 0, 1, 1))
    rows = rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
    columns = F.pad(rows, (1, 1))
    return columns[:, :, :-2] | columns[:, :, 1:-1] | columns[:, :, 2:]


def perturb_masks(masks: Tensor, instance_ids: Tensor) -> Tensor:
    """One random imitation of a bad proposal for every mask: as it is, shrunk, grown, shifted, merged with another
    object, or cut along a line. From masks bool (n, h, w) and ids int64 (h, w), whose ignored cells (-1) never enter a
    mask: bool (n, h, w), drawn from the global random generator; some may be empty."""
    n, h, w = masks.shape
    device = masks.device
    if n == 0:
        return masks
    shrunk, grown, floats = ~dilated(~masks), dilated(masks), masks.float()
    area = masks.sum(dim=(1, 2)).clamp(min=1)
    reach = (area.sqrt() / 2).ceil()  # a shift of up to half the object's size, the same rule for small and large ones
    dy, dx = (torch.empty(2, n, device=device).uniform_(-1, 1) * reach).round().long()
    row, column = torch.arange(h, device=device), torch.arange(w, device=device)
    ys, xs = (row[None] - dy[:, None]).clamp(-1, h), (column[None] - dx[:, None]).clamp(-1, w)
    padded = F.pad(masks, (1, 1, 1, 1))  # what comes from outside is empty
    rows = torch.arange(n, device=device)
    shifted = padded[rows[:, None, None], (ys + 1)[:, :, None], (xs + 1)[:, None, :]]
    merged = masks | masks[torch.randint(n, (n,), device=device)]
    # one side of a random line through the centroid
    cy = (floats.sum(dim=2) @ row.float() / area)[:, None]
    cx = (floats.sum(dim=1) @ column.float() / area)[:, None]
    angle = torch.rand(n, 1, device=device) * (2 * torch.pi)
    side_y, side_x = (row - cy) * angle.sin(), (column - cx) * angle.cos()
    cut = masks & (side_y[:, :, None] + side_x[:, None, :] > 0)
    variants = torch.stack([masks, shrunk, grown, shifted, merged, cut])
    chosen = torch.randint(len(variants), (n,), device=device)
    return variants[chosen, rows] & (instance_ids >= 0)

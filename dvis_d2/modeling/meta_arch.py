from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from .options import check_range

NO_TRACE = """A DVIS cannot be traced or scripted: the grouping of one image would be that of all.
`dvis export MODEL -o FILE.onnx` writes a file that runs without torch (docs/guide/deploy.md)"""


@META_ARCH_REGISTRY.register()
class DVIS(GeneralizedRCNN):
    """Deep variational instance segmentation: backbone -> label map -> proposals -> verification heads.

    A :class:`GeneralizedRCNN` whose ground truth includes the instance-id map. Batched inputs are those of Detectron2,
    plus, in training, ``"instance_ids"``: int64 (H, W), 0 background, -1 ignored, and k for row k - 1 of
    ``"instances"``. The ROI heads train from iteration ``heads_start`` on, the label map from the first.
    """

    @configurable
    def __init__(self, *, heads_start: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.heads_start = heads_start

    @classmethod
    def from_config(cls, cfg):
        check_range(0, 1, **{"MODEL.DVIS_ROI_HEADS.START": cfg.MODEL.DVIS_ROI_HEADS.START})
        heads_start = round(cfg.MODEL.DVIS_ROI_HEADS.START * cfg.SOLVER.MAX_ITER)
        return super().from_config(cfg) | {"heads_start": heads_start}

    def forward(self, batched_inputs: list[dict]):
        """Losses by name in training; see :meth:`inference` otherwise."""
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        instance_ids = self.preprocess_instance_ids(batched_inputs, images)
        gt_instances = [x["instances"].to(self.device) for x in batched_inputs]
        for ids, instances in zip(instance_ids, gt_instances, strict=True):
            instances.gt_map_masks = instance_masks(ids, len(instances))

        features = self.backbone(images.tensor)
        if self.heads_wait():
            return self.proposal_generator.losses(features, instance_ids) | self.roi_heads.zero_losses()
        proposals, losses = self.proposal_generator(images, features, gt_instances, instance_ids)
        _, head_losses = self.roi_heads(images, features, proposals, gt_instances)
        return losses | head_losses

    def __prepare_scriptable__(self) -> nn.Module:
        raise RuntimeError(NO_TRACE)  # torch.jit.script calls this

    def heads_wait(self) -> bool:
        """Whether, in training, the ROI heads have not joined yet."""
        return get_event_storage().iter < self.heads_start

    def idle_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that have no part in this iteration's losses. The optimizer should not see their gradients, which
        are 0: it would count them, and its first steps with true ones would be several times too large."""
        return self.roi_heads.parameters() if self.heads_wait() else iter(())

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Detectron2's normalized batch, in the memory format that convolutions are fastest in: on a CPU the whole
        network runs up to twice as fast. Padding continues the last row and column: a step to gray would look like an
        object."""
        images = super().preprocess_image(batched_inputs)
        images.tensor = images.tensor.contiguous(memory_format=torch.channels_last)
        for image, (height, width) in zip(images.tensor, images.image_sizes, strict=True):
            image[:, height:] = image[:, height - 1 : height]
            image[:, :, width:] = image[:, :, width - 1 : width]
        return images

    def preprocess_instance_ids(self, batched_inputs: list[dict], images: ImageList) -> Tensor:
        """int64 (N, h, w): the batch's instance ids on the label map's grid; padding is ignored."""
        height, width = images.tensor.shape[-2:]
        ids = torch.full((len(batched_inputs), height, width), -1, dtype=torch.int64, device=self.device)
        for row, x in zip(ids, batched_inputs, strict=True):
            h, w = x["instance_ids"].shape
            row[:h, :w] = x["instance_ids"]
        return downsample_instance_ids(ids, self.proposal_generator.stride)

    @torch.no_grad()
    def inference(
        self,
        batched_inputs: list[dict],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
        *,
        intermediate: bool = False,
        cropped: bool = False,
    ) -> list[dict] | list[Instances]:
        """Of dicts with ``"image"`` (C, H, W), and ``"height"``, ``"width"`` of the output, one dict an image:
        ``"instances"`` with ``pred_boxes``, ``scores`` in [0, 1], ``pred_classes`` and ``pred_masks`` bool (K, height,
        width), or, if they are to be ``cropped``, :class:`CroppedMasks`, best first; with ``intermediate`` also
        ``"label_map"`` float (h, w), after the ReLU, ``"levels"`` int64 (h, w), see :class:`Grouping`, and
        ``"proposals"``, on the network's input.

        Without ``do_postprocess`` the detections on the network's input, for :meth:`DVISROIHeads.postprocess`. Boxes
        that are given have no proposals here: NotImplementedError. Images that would be padded differently alone run
        apart, so a result does not depend on the batch.
        """
        if torch.jit.is_tracing():
            raise RuntimeError(NO_TRACE)
        if detected_instances is not None:
            raise NotImplementedError("DVIS finds masks from its label map, not from boxes that are given")
        divisor, groups = max(self.backbone.size_divisibility, 1), defaultdict(list)
        for i, x in enumerate(batched_inputs):
            groups[tuple(-(-side // divisor) for side in x["image"].shape[-2:])].append(i)
        if len(groups) > 1:
            options: Any = {"intermediate": intermediate, "cropped": cropped}
            results: list = [None] * len(batched_inputs)
            for group in groups.values():
                inputs = [batched_inputs[i] for i in group]
                found = self.inference(inputs, do_postprocess=do_postprocess, **options)
                for i, result in zip(group, found, strict=True):
                    results[i] = result
            return results
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        label_maps = self.proposal_generator.label_head(features)
        groupings = self.proposal_generator.group(label_maps, images)
        proposals = self.proposal_generator.to_proposals(groupings, images)
        results, _ = self.roi_heads(images, features, proposals)
        if not do_postprocess:
            return results
        outputs = []
        for result, x, size in zip(results, batched_inputs, images.image_sizes, strict=True):
            wanted = x.get("height", size[0]), x.get("width", size[1])
            outputs.append({"instances": self.roi_heads.postprocess(result, *wanted, cropped=cropped)})
        if intermediate:
            stride = self.proposal_generator.stride
            for output, label_map, found, props in zip(outputs, label_maps, groupings, proposals, strict=True):
                h, w = (-(-side // stride) for side in props.image_size)  # without the batch's padding
                props.proposal_masks = props.proposal_masks[:, :h, :w]
                output.update(label_map=label_map[:h, :w].relu(), levels=found.levels[:h, :w], proposals=props)
        return outputs


def downsample_instance_ids(instance_ids: Tensor, stride: int) -> Tensor:
    """The (lower) median of every map cell's stride x stride ids: their majority wherever one id has one, and one of
    them in any case; the nearest pixel would shift every object by half a pixel. int64 (N, H, W), H and W divisible by
    ``stride`` -> int64 (N, H / stride, W / stride)."""
    if stride == 1:
        return instance_ids
    n, height, width = instance_ids.shape
    cells = instance_ids.view(n, height // stride, stride, width // stride, stride)
    return cells.permute(0, 1, 3, 2, 4).flatten(3).median(dim=3).values


def instance_masks(instance_ids: Tensor, num_instances: int) -> Tensor:
    """bool (n, h, w): the masks of instances 1..n of one image's ids (h, w)."""
    ids = torch.arange(1, num_instances + 1, device=instance_ids.device)
    return instance_ids[None] == ids[:, None, None]

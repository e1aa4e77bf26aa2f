"""A trained model as one file, with all that :class:`..runtime.Runtime` needs beside the weights."""

import io
import json
import logging
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn
from torchvision.ops import roi_align

from . import __version__
from .checkpoint import load_model
from .exported_file import ENDINGS, FORMAT, GRAPHS, METADATA, OUTPUTS, open_file
from .safe_io import replacing

OPSET = 18
PRECISIONS = ("float32", "float16")
INPUTS = ["image", "features", "boxes", "soft", "mask_boxes", "mask_soft"]  # of :meth:`Graphs.forward`
TOLERANCE = 1e-3  # of the label map and the heads' outputs, between torch and the file in float32


class Graphs(nn.Module):
    """The label map of images, verdicts about proposals, and masks of proposals. The three have inputs of their own: as
    onnxruntime always runs all of a file, those that are not wanted get no images and no proposals."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network
        fix_padding(network.backbone)
        heads = network.roi_heads
        self.padding = {"box": _pad_channels(heads.box_head), "mask": _pad_channels(heads.mask_head)}

    def forward(
        self, image: Tensor, features: Tensor, boxes: Tensor, soft: Tensor, mask_boxes: Tensor, mask_soft: Tensor
    ) -> tuple[Tensor, ...]:
        """`image` float (N, 3, H, W), from 0 to 255; `features` (N, C', h'', w'') as those that come out of it; `boxes`
        (R, 5): number of the image, x0, y0, x1, y1 in its pixels; `soft` memberships (R, h', w')."""
        verdicts = self.verdicts(features, boxes, soft)
        return *self.label_map(image), *verdicts, self.masks(features, mask_boxes, mask_soft)

    def label_map(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Label map (N, h', w'), after the ReLU, and features (N, C', h'', w'')."""
        network = self.network
        features = network.backbone((image - network.pixel_mean) / network.pixel_std)
        label_map = network.proposal_generator.label_head(features).relu()
        return label_map, features[network.roi_heads.in_features[0]]

    def verdicts(self, features: Tensor, boxes: Tensor, soft: Tensor) -> tuple[Tensor, Tensor]:
        """Class probabilities (R, C) and IoU (R,), in [0, 1]."""
        heads = self.network.roi_heads
        x = heads.box_head(self._pool("box", features, boxes, soft))
        ious = heads.iou_pred(x)[:, 0].sigmoid()
        return ious[:, None] if heads.cls_score is None else heads.cls_score(x).softmax(dim=1)[:, :-1], ious

    def masks(self, features: Tensor, boxes: Tensor, soft: Tensor) -> Tensor:
        """(R, M, M), in [0, 1], inside the boxes."""
        *convs, deconv, relu, predictor = self.network.roi_heads.mask_head
        x = self._pool("mask", features, boxes, soft)
        for conv in convs:
            x = conv(x)
        # The deconvolution's 2 x 2 pixels depend on one place each: as channels, which onnxruntime is twice as fast on.
        into, out = deconv.weight.shape[:2]
        weight = deconv.weight.permute(2, 3, 1, 0).reshape(4 * out, into, 1, 1)
        x = relu(F.conv2d(x, weight, deconv.bias.repeat(4)))
        weight = torch.block_diag(*[predictor.weight[:1, :, 0, 0]] * 4)[:, :, None, None]
        return F.pixel_shuffle(F.conv2d(x, weight, predictor.bias[:1].repeat(4)), 2)[:, 0].sigmoid()

    def _pool(self, name: str, features: Tensor, boxes: Tensor, soft: Tensor) -> Tensor:
        """As :meth:`DVISROIHeads._pool`, with channels that :func:`_pad_channels` has added."""
        level: Any = getattr(self.network.roi_heads, f"{name}_pooler").level_poolers[0]
        pooled = roi_align(features, boxes, level.output_size, level.spatial_scale, level.sampling_ratio, level.aligned)
        own = torch.arange(soft.shape[0], dtype=soft.dtype)[:, None]  # every proposal has a map of its own
        stride = self.network.roi_heads.map_stride
        membership = roi_align(
            soft[:, None], torch.cat([own, boxes[:, 1:]], dim=1), level.output_size, 1 / stride, 0, True
        )
        added = torch.zeros_like(membership).expand(-1, self.padding[name], -1, -1)
        return torch.cat([pooled, membership, added], dim=1)


def fix_padding(backbone: nn.Module) -> None:
    """Gives timm's convolutions that pad by the input's size, in place, the padding of sides that their strides divide,
    as those of a network's input are. A trace with free sizes would not end."""
    for parent in [*backbone.modules()]:
        children: Any = parent.named_children()
        for name, conv in children:
            if type(conv).__name__ == "Conv2dSame":
                (side,), (stride,) = set(conv.kernel_size), set(conv.stride)
                before, after = max(side - stride, 0) // 2, (max(side - stride, 0) + 1) // 2
                plain = nn.Conv2d(conv.in_channels, conv.out_channels, side, stride, groups=conv.groups)
                plain.weight, plain.bias = conv.weight, conv.bias
                setattr(parent, name, nn.Sequential(nn.ZeroPad2d((before, after, before, after)), plain))


def _pad_channels(head: nn.Sequential) -> int:
    """Lets a head's first layer, in place, take some channels more, which count for nothing: how many. onnxruntime has
    its fast convolution for multiples of 16 alone."""
    first = head[0]
    if not isinstance(first, nn.Conv2d):
        return 0
    added = -first.weight.shape[1] % 16
    first.weight = nn.Parameter(F.pad(first.weight, (0, 0, 0, 0, 0, added)), requires_grad=False)
    return added


def export_model(
    source: str | os.PathLike,
    path: str | os.PathLike,
    *,
    precision: str = "float32",
    opts: Sequence[str] = (),
) -> dict[str, Any]:
    """Write a model of :func:`load_model` as one file, ONNX or TorchScript by its ending, and return its metadata.

    `precision`, of ONNX: "float32"; "float16" stores weights in half the space and computes in float32. Size,
    batch and number of proposals stay free. ValueError where an option does not fit, or the file does not compute what
    torch does.
    """
    path = os.fspath(path)
    if not path.endswith(ENDINGS):
        raise ValueError(f"{path} does not end in {' or '.join(ENDINGS)}\ngive a file of that ending after -o")
    if precision not in (allowed := PRECISIONS if path.endswith(".onnx") else PRECISIONS[:1]):
        raise ValueError(f"the precision is {precision!r}: of {path} it must be one of {', '.join(allowed)}")
    if path.endswith(".onnx"):
        _require("onnx", "onnxscript", "onnxruntime")
    cfg, network, info = load_model(source, device="cpu", opts=opts)
    graphs, metadata = Graphs(network).eval(), describe(cfg, network, info) | {"precision": precision}
    content = to_onnx(graphs, metadata) if path.endswith(".onnx") else to_torchscript(graphs, metadata)
    with replacing(path) as file:
        file.write(content)
        file.flush()
        difference = check(file.name, graphs, metadata)
    return metadata | {"difference": difference}


def to_onnx(graphs: Graphs, metadata: dict[str, Any]) -> bytes:
    model = trace(graphs, metadata)
    if metadata["precision"] == "float16":
        store_halves(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(metadata)
    return model.SerializeToString()


def to_torchscript(graphs: Graphs, metadata: dict[str, Any]) -> bytes:
    inputs = dict(zip(INPUTS, example(graphs, metadata, (3, 4), 3), strict=True))
    given = {name: tuple(inputs[key] for key in needed) for name, (needed, _) in GRAPHS.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sizes look constant, and that torch would rather have torch.export
        module, file = torch.jit.trace_module(graphs, given, check_trace=False), io.BytesIO()
        torch.jit.save(module, file, _extra_files={METADATA: json.dumps(metadata)})
    return file.getvalue()


def describe(cfg: CfgNode, network: Any, info: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a file, but for its precision: plain values."""
    heads, names = network.roi_heads, list(info["class_names"])
    inputs = {key: cfg.INPUT[key] for key in ("FORMAT", "NORMALIZE", "SCALE", "MIN_SIZE_TEST", "MAX_SIZE_TEST")}
    detection = ("alpha", "score_threshold", "nms_threshold", "max_detections", "nms")
    return {
        "format": FORMAT,
        "version": __version__,
        "opset": OPSET,
        "class_names": names or [f"class {k}" for k in range(heads.num_classes)],
        "config": {"INPUT": inputs, "TEST": {"TILE_SIZE": cfg.TEST.TILE_SIZE}},
        "statistics": dict(info.get("statistics") or {}),
        "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
        "pixel_std": list(cfg.MODEL.PIXEL_STD),
        "size_divisibility": max(network.backbone.size_divisibility, 1),
        "map_stride": network.proposal_generator.stride,
        "grouping": {k: list(v) if isinstance(v, tuple) else v for k, v in network.proposal_generator.grouping.items()},
        "detection": {name: getattr(heads, name) for name in detection},
        "mask_source": heads.mask_source,
    }


def example(graphs: Graphs, metadata: dict[str, Any], sides: tuple[int, int], count: int) -> tuple[Tensor, ...]:
    """Random inputs: two images of `sides` times the divisor, `count` proposals, and one less for the masks."""
    generator = torch.Generator().manual_seed(0)
    height, width = (side * metadata["size_divisibility"] for side in sides)
    with torch.no_grad():
        image = torch.rand(2, len(metadata["pixel_mean"]), height, width, generator=generator) * 255
        label_map, features = graphs.label_map(image)
    corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values * torch.tensor([width, height])
    boxes = torch.cat([torch.arange(count)[:, None] % 2, corners.flatten(1)], dim=1)
    soft = torch.rand(count, *label_map.shape[1:], generator=generator)
    return image, features, boxes, soft, boxes[1:], soft[1:]


def trace(graphs: Graphs, metadata: dict[str, Any]) -> Any:
    """The ONNX model."""
    divisor, dim = metadata["size_divisibility"], torch.export.Dim
    shapes = (
        {0: dim("batch"), 2: divisor * dim("rows", max=4096), 3: divisor * dim("columns", max=4096)},
        {0: dim("images"), 2: dim("feature_rows"), 3: dim("feature_columns")},
        {0: dim("proposals")},
        {0: dim("proposals"), 1: dim("map_rows"), 2: dim("map_columns")},
        {0: dim("masks")},
        {0: dim("masks"), 1: dim("mask_map_rows"), 2: dim("mask_map_columns")},
    )
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own parts
        program: Any = torch.onnx.export(
            graphs,
            example(graphs, metadata, (3, 4), 3),
            dynamo=True,
            dynamic_shapes=shapes,
            opset_version=OPSET,
            input_names=INPUTS,
            output_names=OUTPUTS,
            verbose=False,
        )
    return program.model_proto


def store_halves(model: Any) -> None:
    """Weights of more than one axis as float16, in place; the runtime turns them back when it loads them."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1:
            name = tensor.name
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def check(path: str, graphs: Graphs, metadata: dict[str, Any]) -> float:
    """The largest difference between torch's and the file's outputs, on inputs of another size than it was traced on.
    ValueError where that of float32 is more than `TOLERANCE`."""
    given = example(graphs, metadata, (4, 2), 5)
    with torch.no_grad():
        expected = graphs(*given)
    inputs = {name: tensor.numpy() for name, tensor in zip(INPUTS, given, strict=True)}
    found = open_file(path).run(OUTPUTS, **inputs)
    difference = max(float(np.abs(a.numpy() - b).max()) for a, b in zip(expected, found, strict=True))
    if metadata["precision"] == "float32" and not difference <= TOLERANCE:
        what = f"the export computes other numbers than the model, by {difference:.2g}"
        raise ValueError(f"{what}\ntake the torch and onnx of requirements.txt, and report this if it stays")
    return difference


def _require(*modules: str) -> None:
    for module in modules:
        try:
            __import__(module)
        except ImportError as error:
            raise ImportError(f"dvis export needs {module} ({error})\npip install {' '.join(modules)}") from error

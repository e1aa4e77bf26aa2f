"""Post-training int8 of an exported label map network: a measurement, not a format (docs/results/speed.md)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from dvis_d2.exported_file import OnnxFile

FLOAT_AT_END = 2  # the last convolutions, where objects differ by 1 and eight bits are too few


class _Images(CalibrationDataReader):
    def __init__(self, idle: dict[str, np.ndarray], images: Iterable[np.ndarray]):
        self.idle, self.images = idle, iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.images, None)
        return None if image is None else self.idle | {"image": image}


def quantize_label_map(source: str, target: str, images: Iterable[np.ndarray]) -> None:
    """The ONNX file `source` with convolutions of backbone and label head in int8, static, weights by channel, but for
    the last `FLOAT_AT_END`. `images`: the network's inputs that ranges are taken from, float32 (1, C, H, W)."""
    convs = [node.name for node in label_map_nodes(onnx.load(source)) if node.op_type == "Conv"]
    quantize_static(
        source,
        target,
        _Images(OnnxFile(source, 1, None).idle, images),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        nodes_to_quantize=convs[:-FLOAT_AT_END],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.Percentile,
    )


def label_map_nodes(model: Any) -> list[Any]:
    """The nodes that the label map depends on, in the file's order."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    needed, names = set(), ["label_map"]
    while names:
        node = made_by.get(names.pop())
        if node is not None and node.name not in needed:
            needed.add(node.name)
            names += node.input
    return [node for node in model.graph.node if node.name in needed]

"""The files that `dvis export` writes: three graphs, and all that stands around them as metadata.

image -> label_map, image_features; features, boxes, soft -> class_probs, ious; features, mask_boxes, mask_soft ->
mask_probs
"""

import json
import os
import warnings
from typing import Any

import numpy as np

FORMAT = 1  # of the file; a larger one is of a later version
METADATA = "dvis"  # the key of the JSON among the file's metadata
GRAPHS = {  # a TorchScript's methods: inputs and outputs
    "label_map": (["image"], ["label_map", "image_features"]),
    "verdicts": (["features", "boxes", "soft"], ["class_probs", "ious"]),
    "masks": (["features", "mask_boxes", "mask_soft"], ["mask_probs"]),
}
OUTPUTS = [name for _, outputs in GRAPHS.values() for name in outputs]
ENDINGS = (".onnx", ".pt")
_AGAIN = "write it again by `dvis export MODEL -o FILE`"


class OnnxFile:
    """A file that onnxruntime runs."""

    def __init__(self, path: str, threads: int | None, providers: Any):
        """Arguments and errors are those of :func:`open_file`."""
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise ImportError(f"{path} needs onnxruntime ({error})\npip install onnxruntime") from error
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        # threads that spin while they wait make a busy machine ten times slower
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session = ort.InferenceSession(path, options, providers=providers or ["CPUExecutionProvider"])
        except Exception as error:  # of many types
            raise _unreadable(path, "ONNX file that onnxruntime", error) from error
        self.metadata = read_metadata(self.session.get_modelmeta().custom_metadata_map.get(METADATA), path)
        shapes = {node.name: node.shape for node in self.session.get_inputs()}
        # what the other graphs get, which onnxruntime runs too: no image and no proposals
        side = self.metadata["size_divisibility"]
        self.idle = {
            "image": np.zeros((0, shapes["image"][1], side, side), np.float32),
            "features": np.zeros((1, shapes["features"][1], 1, 1), np.float32),
        }
        self.idle |= {f"{of}boxes": np.zeros((0, 5), np.float32) for of in ("", "mask_")}
        self.idle |= {f"{of}soft": np.zeros((0, 1, 1), np.float32) for of in ("", "mask_")}

    def run(self, outputs: list[str], **inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs of these names, of the inputs that they need."""
        return self.session.run(outputs, self.idle | inputs)


class TorchScriptFile:
    """A file that torch runs, without Detectron2 and this package."""

    def __init__(self, path: str, threads: int | None, providers: Any):
        """As :class:`OnnxFile`; torch has one number of threads for the whole process, and no `providers`."""
        try:
            import torch
            import torchvision  # noqa: F401 - the file has its operators
        except ImportError as error:
            raise ImportError(f"{path} needs torch and torchvision ({error})\nexport to .onnx instead") from error
        if threads:
            torch.set_num_threads(threads)
        stored = {METADATA: ""}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # that torch would rather have torch.export
                self.module = torch.jit.load(path, map_location="cpu", _extra_files=stored)
        except Exception as error:
            raise _unreadable(path, "TorchScript that torch", error) from error
        self.metadata = read_metadata(stored[METADATA], path)

    def run(self, outputs: list[str], **inputs: np.ndarray) -> list[np.ndarray]:
        """As :meth:`OnnxFile.run`."""
        import torch

        found: dict[str, Any] = {}
        with torch.inference_mode():
            for graph, (needed, given) in GRAPHS.items():
                if set(given) & set(outputs):
                    result = getattr(self.module, graph)(*[torch.from_numpy(inputs[name]) for name in needed])
                    found |= zip(given, result if isinstance(result, tuple) else (result,), strict=True)
        return [found[name].numpy() for name in outputs]


def open_file(path: str, threads: int | None = None, providers: Any = None) -> OnnxFile | TorchScriptFile:
    """`threads`: None, as many as the library takes; `providers` are onnxruntime's, by default the CPU.
    FileNotFoundError without the file; ValueError for one that `dvis export` has not written, or that of a later
    version; ImportError without the library that runs it."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no exported model {path}\n{_AGAIN}")
    with open(path, "rb") as file:
        kind = TorchScriptFile if file.read(2) == b"PK" else OnnxFile  # a TorchScript is a ZIP archive
    try:
        return kind(path, threads, providers)
    except KeyError as error:
        raise incomplete(path, error) from None


def incomplete(path: str, error: KeyError) -> ValueError:
    return ValueError(f"{path} does not say its {error}\n{_AGAIN}")


def _unreadable(path: str, what: str, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())[:200]
    return ValueError(f"{path} is no {what} can read ({reason})\n{_AGAIN}")


def read_metadata(stored: str | bytes | None, path: str) -> dict[str, Any]:
    """What `dvis export` has written into a file. ValueError if it has not, or a later version has."""
    try:
        metadata = json.loads(stored or "")
        if not isinstance(metadata["format"], int):
            raise TypeError
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} does not say which model it is\n{_AGAIN}: other programs leave that out") from None
    if metadata["format"] != FORMAT:
        found = f"{path} has the format {metadata['format']} of dvis_d2 {metadata.get('version')}, not {FORMAT}"
        raise ValueError(f"{found}\n{_AGAIN}, or install that version")
    return metadata

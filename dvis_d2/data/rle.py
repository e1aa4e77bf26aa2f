"""Run-length encoding (RLE) of masks, as COCO does it."""

import numpy as np
import pycocotools.mask as mask_util
import torch


def encode_masks(masks: np.ndarray | torch.Tensor) -> list[dict]:
    """COCO RLE ("size": [H, W], "counts": bytes) of each of the bool (N, H, W) masks."""
    array = masks.detach().cpu().numpy() if isinstance(masks, torch.Tensor) else masks
    return mask_util.encode(np.asfortranarray(array.transpose(1, 2, 0), dtype=np.uint8))


def decode_rle(rle: dict, where: str) -> np.ndarray:
    """uint8 (h, w), 0 or 1, of a COCO RLE, compressed or not. ValueError, naming `where`, if it is broken."""
    try:
        if isinstance(rle["counts"], list):
            rle = mask_util.frPyObjects(rle, *rle["size"])
        return mask_util.decode(rle)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: its RLE cannot be decoded ({error!r}); write the mask again") from error

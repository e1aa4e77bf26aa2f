import json

import pytest
import torch
from torch import nn

from dvis_d2.engine import Trainer
from dvis_d2.tuning import search

FOREGROUND = "MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD"


class ColorLabels(nn.Module):
    """A label head that knows the answer: 2 on green pixels, 4 on pink ones, 0 elsewhere; one cell a pixel."""

    common_stride = 1

    def forward(self, features):
        blue_green_red = features["pixels"]  # in units of their standard deviation, with the mean at 0
        green, pink = blue_green_red[:, 1] > 1, blue_green_red[:, 2] > 0.9
        return 2.0 * (green & ~pink) + 4.0 * pink


def give_answers(model):
    """Let a built model find the objects of ``tiny_coco`` wherever its foreground threshold is below 2."""
    model.backbone.register_forward_hook(lambda module, args, features: {**features, "pixels": args[0]})
    model.proposal_generator.label_head = ColorLabels()
    return model


@pytest.fixture
def one_class(tiny_coco):
    """``tiny_coco`` with all objects in the first of its classes."""
    path, _ = tiny_coco
    data = json.loads(path.read_text())
    for annotation in data["annotations"]:
        annotation["category_id"] = 3
    data["categories"] = data["categories"][:1]
    path.write_text(json.dumps(data))


@pytest.fixture
def blind_cfg(one_class, tiny_cfg, monkeypatch):
    """A config whose model finds nothing until the foreground threshold, the grid's only key, is lowered to 1."""
    tiny_cfg.merge_from_list([FOREGROUND, 9.0])
    tiny_cfg.MODEL.LABEL_MAP_HEAD.COMMON_STRIDE = 1
    tiny_cfg.MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC = True
    tiny_cfg.MODEL.DVIS_ROI_HEADS.MASK_SOURCE = "label_map"
    monkeypatch.setattr(search, "GRID", {FOREGROUND: (9.0, 5.0, 1.0)})
    return tiny_cfg


@pytest.fixture
def answering(blind_cfg):
    """The model of ``blind_cfg``, with answers."""
    torch.manual_seed(0)
    return give_answers(Trainer.build_model(blind_cfg).eval())

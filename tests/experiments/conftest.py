import json

import pytest
import torch

from dvis_d2.engine import Trainer


@pytest.fixture
def trained(tiny_cfg, tmp_path):
    """Arguments that name the config and the weights of a model of ``tiny_cfg`` that was not trained; all others come
    before them."""
    weights, config = tmp_path / "model.pth", tmp_path / "config.yaml"
    torch.save({"model": Trainer.build_model(tiny_cfg).state_dict()}, weights)
    config.write_text(tiny_cfg.dump())
    return ["--config-file", str(config), "MODEL.WEIGHTS", str(weights)]


@pytest.fixture
def last_json(capsys):
    """A function: the JSON object in the last line that was printed."""
    return lambda: json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.fixture
def table_rows():
    """A function: the cells of the rows of a Markdown table, below its heading, by the first one."""

    def read(text):
        lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|-")]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
        return {row[0]: row[1:] for row in rows}

    return read

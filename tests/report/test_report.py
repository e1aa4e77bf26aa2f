"""`dvis report` on a packaged model and two drawn pictures, and on the folder of a training."""

import json
import re
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner

from dvis_d2.cli import main
from dvis_d2.evaluation.error_kinds import TIDE
from dvis_d2.report.figures import read_curves


def run(*args, code=0):
    result = CliRunner().invoke(main, ["report", *map(str, args)])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


class Checker(HTMLParser):
    """Counts tags that are not closed, and collects what a page would fetch."""

    def __init__(self):
        super().__init__()
        self.open, self.fetched = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img", "br", "path", "use", "rect"):
            self.open.append(tag)
        self.fetched += [value for name, value in attributes if name in ("src", "href") and tag != "use"]

    def handle_endtag(self, tag):
        if tag not in ("path", "use", "rect"):
            assert self.open.pop() == tag


def test_a_report_of_a_packaged_model(drawn, tmp_path):
    page = tmp_path / "report.html"
    out = run("shapes", "--val-json", drawn / "drawn.json", "-o", page).output
    text, said = page.read_text(encoding="utf-8"), json.loads((tmp_path / "report.json").read_text())
    assert "2 images" in out and str(page) in out and page.stat().st_size < 5e6
    results = said["results"]
    assert results["images"] == 2 and results["objects"] == 8 and results["ap"]["AP50"] > 70
    assert set(results["tide"]) == set(TIDE) and len(results["curves"]["0.5"]) == 101
    assert sum(map(sum, results["confusion"][:-1])) == 8  # every object is found as something, or missed
    assert sum(row["objects"] for row in results["by_size"]) == 8
    assert sum(row["count"] for row in results["calibration"]["ranges"]) > 4
    checker = Checker()
    checker.feed(text)
    assert checker.open == [] and all(link.startswith("data:image/jpeg;base64,") for link in checker.fetched)
    assert "<script" not in text and not re.search(r"(?:src|url\()=?[\"']?http", text)
    assert said["about"]["command"] == f"dvis report shapes --val-json {drawn / 'drawn.json'} -o {page}"


def test_a_report_of_a_training(untrained_cfg, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "model_final.pth").rename(folder / "model_final.pth")
    (folder / "config.yaml").write_text(untrained_cfg.dump())
    rows = [{"iteration": i, "total_loss": 2 / (i + 1), "loss_pi": 1.0, "lr": 0.1} for i in range(900)]
    rows[-1]["validation/AP"] = 12.0
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, rows)) + '\n{"iteration": 9')
    run(folder, "--num-images", 3)
    said = json.loads((folder / "report.json").read_text())
    assert said["results"]["images"] == 3 and said["about"]["sampled"] == 6
    assert set(said["curves"]) == {"total_loss", "loss_pi", "validation/AP"}
    assert len(said["curves"]["total_loss"]) <= 400 and "MODEL" in said["config"]
    assert sum(own["count"] for own in said["results"]["own"].values()) >= 6  # an untrained network finds little


def test_curves_come_from_the_table_where_there_is_no_json(tmp_path):
    assert read_curves(tmp_path) == {}
    (tmp_path / "metrics.csv").write_text("iteration,total_loss,validation/AP\n0,2.0,\n20,1.0,30\n")
    assert read_curves(tmp_path) == {"total_loss": [(0, 2), (20, 1)], "validation/AP": [(20, 30)]}


@pytest.mark.parametrize(
    "args, what",
    [(["shapes"], "give -o FILE"), (["shapes", "-o", "a.pdf"], ".html"), (["nowhere", "-o", "a.html"], "nowhere")]
    + [(["shapes", "-o", "a.html"], "--val-json")],
)
def test_what_is_missing_is_said(args, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert what in run(*args, code=2).stderr

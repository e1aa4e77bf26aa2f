"""The report as one HTML file that needs nothing else."""

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

import cv2
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from ..evaluation import error_kinds as kinds
from .collect import Picture

MOST_CLASSES = 30  # in the table of the confusion
TABLES = (  # of the results: which, and their columns with the titles
    ("classes", {"class": "class", "objects": "objects", "AP": "AP", "AP50": "AP50", "AP75": "AP75"}),
    ("by_size", {"pixels": "area in pixels", "objects": "objects", "AP": "AP"}),
    ("by_count", {"objects": "objects in the image", "images": "images", "AP": "AP"}),
)
TIDE_TEXTS = {
    "Cls": "right place, wrong class",
    "Loc": "right class, place not good enough (IoU 0.1 to 0.5)",
    "Both": "wrong class and place not good enough",
    "Dupe": "an object that a better detection stands for",
    "Bkg": "nothing is there",
    "Miss": "objects without any detection that corrections above would give them",
}
OWN_TEXTS = {
    kinds.NO_FOREGROUND: "most of it is below the foreground threshold, or no proposal touches it: the label head",
    kinds.MERGED: "the best proposal holds it and more: labels too much alike, or the grouping too coarse",
    kinds.TORN: "the best proposal holds a part of it: labels that differ inside, or the grouping too fine",
    kinds.HEADS: "a proposal fits (IoU 0.5), but no detection: class, score, suppression or refined mask",
    kinds.WRONG_CLASS: "a detection fits, of another class",
    kinds.DUPLICATE: "detections of an object that a better one stands for",
    kinds.UNKNOWN: "the image is read in tiles, whose label maps are not looked at",
}


def write_page(said: Mapping[str, Any], pictures: Mapping[str, Sequence[Picture]]) -> str:
    """HTML of what the JSON file says, and of pictures by kind of error."""
    results, about = said["results"], said["about"]
    title = f"dvis report: {about['model']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{results['images']} images of <code>{escape(about['dataset'])}</code>, {results['objects']} objects; "
        f"dvis_d2 {escape(about['version'])}.</p>",
        _table(["mask AP", "AP50", "AP75"], [[_number(value) for value in results["ap"].values()]]),
    ]
    if about["sampled"]:
        parts.append(f"<p class=note>Evenly chosen out of {about['sampled']}: not the AP of the whole set.</p>")
    if said["curves"]:
        parts += ["<h2>Training</h2>", f'<div class="plots">{_training_plots(said["curves"])}</div>']
    parts += ["<h2>What the errors are</h2>", *_own_kinds(results, pictures)]
    rows = [[kind, TIDE_TEXTS[kind], own["count"], f"{own['cost']:+.1f}"] for kind, own in results["tide"].items()]
    parts += [
        "<h2>TIDE's kinds</h2>",
        "<p>The six of Bolya and others (2020), with their thresholds of IoU 0.5 and 0.1, on masks.</p>",
        _table(["kind", "", "errors", "AP50 if put right"], rows, "texts"),
        "<h2>Precision, recall, scores</h2>",
        f'<div class="plots">{_precision_plot(results["curves"])}{_calibration_plot(results["calibration"])}</div>',
        "<p>Right: scores against the share of right detections (IoU 0.5); the size of a point is the number of "
        "detections. On the line a score is a probability. Mean distance: "
        f"{_number(results['calibration']['error'], 3)}.</p>",
        "<h2>By class, size and number</h2>",
        *(_by(results, *columns) for columns in TABLES),
        "<h2>Confusion</h2>",
        "<p>Rows: what is there; columns: what is found, with a score of 0.5 at least and an IoU of 0.5. "
        "Duplicates are invented.</p>",
        _confusion([row["class"] for row in results["classes"]], results["confusion"]),
        "<h2>Data and config</h2>",
        _table(["training data", ""], [[name, _plain(value)] for name, value in said["data"].items()]),
        f"<details><summary>Config beside the defaults</summary><pre>{escape(said['config'])}</pre></details>",
        f"<h2>Again</h2><pre>{escape(about['command'])}</pre>",
        "<p class=note>The numbers are in the JSON file beside this one.</p>",
    ]
    style = (resources.files(__package__) / "static" / "report.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{escape(title)}</title><style>{style}</style>"
    body = "\n".join(parts)
    return f'<!doctype html><html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


def _by(results: Mapping[str, Any], key: str, columns: Mapping[str, str]) -> str:
    rows = [[row[name] if name[:2] != "AP" else _number(row[name]) for name in columns] for row in results[key]]
    return _table(list(columns.values()), rows)


def _own_kinds(results: Mapping[str, Any], pictures: Mapping[str, Sequence[Picture]]) -> Iterable[str]:
    lost = [[kind, OWN_TEXTS[kind], own["count"], f"{own['cost']:+.1f}"] for kind, own in results["own"].items()]
    yield "<p>Which part of DVIS loses an object for which no detection stands (IoU 0.5), in the order of its way.</p>"
    yield _table(["kind", "", "errors", "AP50 if put right"], lost, "texts")
    if pictures:
        outlines = "white is the error, yellow annotated, blue found with a score of 0.5 at least"
        yield f"<p class=note>The largest of each kind: {outlines}; beside it the label map.</p>"
    for kind in results["own"]:
        if own := pictures.get(kind):
            shown = "".join(
                f"<figure>{_image(p.image)} {'' if p.label_map is None else _image(p.label_map)}"
                f"<figcaption>{escape(p.file_name.rpartition('/')[2])}, {p.area} pixels</figcaption></figure>"
                for p in own
            )
            yield f'<h3>{escape(kind)}</h3><div class="pictures">{shown}</div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], kind: str = "") -> str:
    titles = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(str(value))}</td>' for value in row)}</tr>" for row in rows)
    return f'<table class="{kind}"><tr>{titles}</tr>{lines}</table>'


def _confusion(names: Sequence[str], table: Sequence[Sequence[int]]) -> str:
    if len(names) > MOST_CLASSES:
        each = [(n, i, j) for i, row in enumerate(table[:-1]) for j, n in enumerate(row[:-1]) if n and i != j]
        most = sorted(each, reverse=True)[:MOST_CLASSES]
        return _table(["is", "found as", "objects"], [(names[i], names[j], n) for n, i, j in most])
    lines = ["<tr><th></th>" + "".join(f"<th>{escape(name)}</th>" for name in [*names, "missed"]) + "</tr>"]
    for i, (name, row) in enumerate(zip([*names, "invented"], table, strict=True)):
        total, cells = max(1, sum(row)), []
        for j, count in enumerate(row):
            style = f"background: rgba({'0, 114, 178' if i == j else '213, 94, 0'}, {0.6 * count / total:.2f})"
            cells.append(f'<td class="cell" style="{style}">{count or ""}</td>')
        lines.append(f"<tr><td>{escape(name)}</td>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _image(pixels: np.ndarray) -> str:
    _, data = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}">'


def _training_plots(curves: Mapping[str, Sequence[Sequence[float]]]) -> str:
    losses = {name: points for name, points in curves.items() if name != "validation/AP"}
    others = {name: points for name, points in curves.items() if name not in losses}
    plots = []
    for series, title, scale in ((losses, "losses", "log"), (others, "mask AP", "linear")):
        if series:
            figure, axes = _figure("iteration", title)
            for name, points in series.items():
                axes.plot(*np.transpose(points), label=name, lw=2 if name == "total_loss" else 1)
            axes.set_yscale(scale, **{"nonpositive": "mask"} if scale == "log" else {})
            axes.legend(fontsize=7)
            plots.append(_svg(figure))
    return "".join(plots)


def _precision_plot(curves: Mapping[str, Sequence[float]]) -> str:
    figure, axes = _figure("recall", "precision")
    for iou, precision in curves.items():
        axes.plot(np.linspace(0, 1, len(precision)), precision, label=f"IoU {iou}")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.legend()
    return _svg(figure)


def _calibration_plot(calibration: Mapping[str, Any]) -> str:
    figure, axes = _figure("score", "share that is right")
    axes.plot([0, 1], [0, 1], color="0.7", lw=1)
    ranges = calibration["ranges"]
    most = max((r["count"] for r in ranges), default=1)
    sizes = [8 + 120 * r["count"] / most for r in ranges]
    axes.scatter([r["score"] for r in ranges], [r["right"] for r in ranges], sizes)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    return _svg(figure)


def _figure(x: str, y: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.grid(color="0.92")
    return figure, axes


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "dvis"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"^.*?(?=<svg)", "", file.getvalue(), flags=re.DOTALL)


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _plain(value: Any) -> str:
    listed = value if isinstance(value, (list, tuple)) else [value]
    return ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in listed)

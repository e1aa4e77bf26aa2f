"""The table, from the results that finished runs left in a folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ..tables import format_mean, markdown_table, mean_and_spread

TOLERANCE = 0.05  # of the training time; beyond it the table says so

# (name in the summary, heading, format, factor)
ROWS = (
    ("segm/AP", "mask AP", ".1f", 1),
    ("segm/AP50", "AP50", ".1f", 1),
    ("segm/AP75", "AP75", ".1f", 1),
    ("segm/APs", "AP small", ".1f", 1),
    ("segm/APm", "AP medium", ".1f", 1),
    ("segm/APl", "AP large", ".1f", 1),
    ("split/AP", "AP, images with an object cut in parts", ".1f", 1),
    ("copies/AP", "AP, images of identical copies", ".1f", 1),
    ("contour/F1@1", "contour F1, within 1 px", ".1f", 1),
    ("contour/F1@5", "contour F1, within 5 px", ".1f", 1),
    ("train_seconds", "training, min", ".1f", 1 / 60),
    ("images_seen", "images seen", ",.0f", 1),
    ("ms_per_image", "inference, ms an image", ".1f", 1),
    ("parameters", "parameters, million", ".2f", 1e-6),
    ("multiply_adds", "multiply-adds an image, billion", ".2f", 1e-9),
    ("proposals", "proposals into the second stage", ".1f", 1),
)
# (task in the summary, what follows the model's title): figures without classes have a table of their own
RECALL_ROWS = (("recall", ""), ("rpn_masks", ", RPN + masks"))


def summarize(folder: Path) -> dict:
    """What the finished runs of a folder say.

    Args:
        folder: with `plan.json`, `<model>_seed<n>/result.json`, and `costs_<model>.json` where measured.

    Returns:
        "plan"; "subset_sizes"; and, in "models", for every model "seeds" (those finished) and "figures": for every name
        of `ROWS`, and every recall, that was measured the "mean", and the "spread": the standard deviation over the
        seeds, None for one.

    Raises:
        SystemExit: nothing is finished.
    """
    if not (folder / "plan.json").exists():
        raise SystemExit(f"{folder} holds no comparison: run this without --report, or give another --output")
    plan = json.loads((folder / "plan.json").read_text())
    models, sizes = {}, {}
    for model in plan["configs"]:
        results = {}
        for path in folder.glob(f"{model}_seed*/result.json"):
            seed = int(re.search(r"_seed(-?\d+)$", path.parent.name)[1])
            results[seed] = json.loads(path.read_text())
            sizes = results[seed]["subset_sizes"]
        if not results:
            raise SystemExit(f"no run of {model} in {folder} is finished")
        costs = folder / f"costs_{model}.json"
        runs = [_flatten(result) for result in results.values()]
        if costs.exists():
            runs[0] |= json.loads(costs.read_text())
        recalls = [name for name in runs[0] if name.split("/")[0] in dict(RECALL_ROWS)]
        names = [*(name for name, *_ in ROWS), *recalls]
        figures = {name: _mean_and_spread([run[name] for run in runs if name in run]) for name in names}
        models[model] = {"seeds": sorted(results), "figures": {k: v for k, v in figures.items() if v is not None}}
    return {"plan": plan, "subset_sizes": sizes, "models": models}


def format_table(summary: dict, titles: dict[str, str]) -> str:
    """Markdown: a row a figure, a column a model, and the difference of the means where it means something; and a table
    of average recall where that was measured."""
    first, second = titles
    figures = {model: summary["models"][model]["figures"] for model in titles}
    rows = []
    for name, heading, number_format, factor in ROWS:
        if not any(name in figures[model] for model in titles):
            continue
        subset = name.split("/")[0]
        if subset in summary["subset_sizes"]:
            heading = f"{heading} ({summary['subset_sizes'][subset]})"
        difference = ""
        if "/" in name and all(name in figures[model] for model in titles):
            difference = f"{factor * (figures[first][name]['mean'] - figures[second][name]['mean']):+.1f}"
        cells = [_cell(figures[model].get(name), number_format, factor) for model in titles]
        rows.append([heading, *cells, difference])
    lines = [markdown_table(rows, ["", titles[first], titles[second], "difference"])]
    seeds = "; ".join(f"{titles[m]}: seeds {', '.join(map(str, summary['models'][m]['seeds']))}" for m in titles)
    minutes = summary["plan"]["minutes"]
    lines += ["", f"{minutes:g} minutes of training, one thread each, both at once. {seeds}."]
    for model in titles:
        taken = figures[model]["train_seconds"]["mean"] / 60
        if abs(taken / minutes - 1) > TOLERANCE:
            lines.append(f"Note: {titles[model]} trained for {taken:.1f} minutes, not {minutes:g}.")
    recall = _recall_rows(figures, titles)
    if recall:
        lines += ["", "Classes are not told apart: AP is that of all masks as one class. Average recall:", ""]
        lines.append(markdown_table([[title, *row.values()] for title, row in recall], ["", *recall[0][1]]))
    return "\n".join(lines) + "\n"


def _recall_rows(figures: dict[str, dict], titles: dict[str, str]) -> list[tuple[str, dict[str, str]]]:
    """For every kind of masks that was measured its title, and its cells by their heading."""
    rows = []
    for model, title in titles.items():
        for task, addition in RECALL_ROWS:
            found = {name: figure for name, figure in figures[model].items() if name.startswith(f"{task}/")}
            cells = {name.removeprefix(f"{task}/").replace("/", " "): _cell(f, ".1f", 1) for name, f in found.items()}
            if cells:
                rows.append((title + addition, cells))
    return rows


def _flatten(result: dict) -> dict[str, float | None]:
    nested = {task: result.get(task, {}) for task in ("segm", "contour", *dict(RECALL_ROWS))} | result["subsets"]
    flat = {f"{task}/{name}": value for task, values in nested.items() for name, value in values.items()}
    return flat | {name: result[name] for name in ("train_seconds", "images_seen")}


def _mean_and_spread(values: list[float | None]) -> dict | None:
    known = [value for value in values if value is not None]
    return dict(zip(("mean", "spread"), mean_and_spread(known), strict=True)) if known else None


def _cell(figure: dict | None, number_format: str, factor: float) -> str:
    return "–" if figure is None else format_mean(figure["mean"], figure["spread"], number_format, factor)

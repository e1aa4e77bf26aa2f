"""The table of average recall: a row a model, a column a figure of `dvis_d2.evaluation.UnseenEvaluator`."""

from __future__ import annotations


def format_recall(rows: dict[str, dict[str, str]]) -> str:
    """Markdown.

    Args:
        rows: by the model's title, what stands in the cells by "unseen/AR@10" and so on; all rows have the same.
    """
    names = list(next(iter(rows.values())))
    lines = ["| | " + " | ".join(name.replace("/", " ") for name in names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {title} | " + " | ".join(cells[name] for name in names) + " |" for title, cells in rows.items()]
    return "\n".join(lines)

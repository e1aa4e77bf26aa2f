"""The readable result of checking a data set."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_EXAMPLES = 3


class DatasetError(ValueError):
    """A data set cannot be used. The message says why and what to do."""


@dataclass
class Finding:
    """One kind of problem: `what` is wrong, how to put it right (`advice`), how often, and the first
    examples."""

    what: str
    advice: str
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        shown = "; ".join(self.examples) + ("; ..." if self.count > len(self.examples) else "")
        return f"{self.what} ({self.count}): {shown}\n      -> {self.advice}"


class Findings(dict[str, Finding]):
    """Findings by `what`, in the order in which they first occurred."""

    def add(self, what: str, example: str, advice: str) -> None:
        """Count one more case of a kind of problem; the first examples are kept."""
        finding = self.setdefault(what, Finding(what, advice))
        finding.count += 1
        if len(finding.examples) < MAX_EXAMPLES:
            finding.examples.append(example)


@dataclass
class Report:
    """What :func:`dvis_d2.data.validation.check_coco_json` found.

    `errors` make training or evaluation impossible, or silently wrong; with `warnings` it works. `categories`
    are the file's own (id, name) pairs, ascending by id, and
    `image_root` is the image folder, as far as they could be read.
    """

    title: str
    image_root: str = ""
    errors: Findings = field(default_factory=Findings)
    warnings: Findings = field(default_factory=Findings)
    categories: list[tuple[int, str]] = field(default_factory=list)

    def raise_if_errors(self) -> None:
        """Raise :class:`DatasetError` with the whole report if there is an error."""
        if self.errors:
            raise DatasetError(str(self))

    def __str__(self) -> str:
        lines = [self.title]
        for label, findings in ("ERROR", self.errors), ("WARNING", self.warnings):
            lines += [f"  {label}: {finding}" for finding in findings.values()]
        if not self.errors:
            lines.append("  no errors" + ("" if self.warnings else ", no warnings"))
        return "\n".join(lines)

"""The readable result of checking a data set."""

from dataclasses import dataclass, field

MAX_EXAMPLES = 3


class DatasetError(ValueError):
    """A data set cannot be used. The message says why and what to do."""


@dataclass
class Report:
    """`errors` make training or evaluation impossible, or silently wrong; with `warnings` it works. Both hold the cases
    of each kind of problem. `image_root` and `categories` are given as far as they could be read."""

    title: str
    image_root: str = ""
    errors: dict[str, list[str]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    categories: list[tuple[int, str]] = field(default_factory=list)  # the file's own (id, name), ascending by id
    _advice: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, example: str, advice: str, *, is_error: bool = True) -> None:
        findings = self.errors if is_error else self.warnings
        findings.setdefault(what, []).append(example)
        self._advice.setdefault(what, advice)

    def raise_if_errors(self) -> None:
        """Raise :class:`DatasetError` with the whole report if there is an error."""
        if self.errors:
            raise DatasetError(str(self))

    def __str__(self) -> str:
        lines = [self.title]
        for label, findings in ("ERROR", self.errors), ("WARNING", self.warnings):
            for what, cases in findings.items():
                examples = "; ".join(cases[:MAX_EXAMPLES] + ["..."] * (len(cases) > MAX_EXAMPLES))
                lines += [f"  {label}: {what} ({len(cases)}): {examples}", f"      -> {self._advice[what]}"]
        if not self.errors:
            lines.append("  no errors" + ("" if self.warnings else ", no warnings"))
        return "\n".join(lines)

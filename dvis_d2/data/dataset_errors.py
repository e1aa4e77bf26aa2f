"""What is wrong with a data set."""


class DatasetError(ValueError):
    """A data set cannot be used. The message says why and what to do."""


class FormatError(DatasetError):
    """A folder cannot be read as a data set. Two lines: what is wrong, and what to do."""

    def __init__(self, what: str, advice: str):
        super().__init__(what.replace("\n", " ") + "\n" + advice)

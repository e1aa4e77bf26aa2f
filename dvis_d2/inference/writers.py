"""The files of `dvis predict`: a folder for each form, and tables over all inputs.

What belongs to one input is written aside and moved into its place when it is whole, its record last: an input that has
a record is complete, and an interrupted run can go on.
"""

import codecs
import csv
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image

from ..safe_io import replacing
from .colors import LastingColors
from .overlay import write_picture
from .result import MEASUREMENTS, Result
from .sources import STATE, Frame, Source

FORMATS = {
    "labels": "labels/NAME.tif: object numbers, 0 background; as many pages as the input",
    "png": "png/NAME.png: the same, in 16 bits",
    "coco": "dataset.json: a data set in COCO's format, and copies of the images in images/",
    "results": "results.json: what COCO's evaluation reads",
    "geojson": "geojson/NAME.geojson: outlines, for QuPath",
    "csv": "measurements.csv: a row an object",
    "masks": "masks/NAME/NUMBER.png: an image an object",
    "overlay": "overlay/NAME.png: objects over the image; of a video NAME.mp4",
    "panel": "panel/NAME.png: image, label map, levels, proposals, result",
}


class SourceWriter:
    """A context that writes the `formats` of one input below the folder `output`, or nothing after an error."""

    def __init__(self, output: str, source: Source, formats: Sequence[str]):
        self.images, self.objects = 0, 0
        self._output, self._source, self._formats = output, source, formats
        self._places: dict[str, str] = {}  # of the files that are aside
        os.makedirs(os.path.join(output, STATE), exist_ok=True)
        self._record = open(self._path(STATE, ".jsonl"), "w", encoding="utf-8")
        self._stack: tifffile.TiffWriter | None = None
        self._video: cv2.VideoWriter | None = None
        self._colors = LastingColors()

    def add(self, frame: Frame, result: Result, panel: Callable[[np.ndarray], np.ndarray]) -> None:
        """Write the next frame; `panel` draws it if need be. OSError where that fails; ValueError: too many objects."""
        self.images += 1
        self.objects += len(result)
        source, wanted = self._source, self._formats
        single = frame.total == 1 and not source.is_video
        end = "" if single else f"_{self.images:06d}"
        record: dict[str, Any] = {"path": source.path, "frame": self.images, "size": result.masks.image_size}
        if "labels" in wanted or "png" in wanted:
            labels = result.label_image().astype(np.uint16 if len(result) < 2**16 else np.uint32)
        if "labels" in wanted:
            self._stack = self._stack or tifffile.TiffWriter(self._path("labels", ".tif"), bigtiff=not single)
            self._stack.write(labels, compression="zlib", compressionargs={"level": 1}, metadata=None)
        if "png" in wanted:
            if labels.dtype != np.uint16:
                raise ValueError(f"{len(result)} objects in {source.path} are too many for --save png: save labels")
            Image.fromarray(labels).save(self._path("png", f"{end}.png"), compress_level=1)
        if "geojson" in wanted:
            Path(self._path("geojson", f"{end}.geojson")).write_text(json.dumps(result.to_geojson()), encoding="utf-8")
        if "masks" in wanted:
            for number in range(1, len(result) + 1):
                Image.fromarray(result.masks[number - 1]).save(self._path("masks", f"{end}/{number:04d}.png"))
        if "overlay" in wanted and source.is_video:
            self._add_to_video(np.asarray(result.plot(self._colors(result.masks))), frame.fps)
        elif "overlay" in wanted:
            write_picture(self._path("overlay", f"{end}.png"), np.asarray(result.plot()))
        if "panel" in wanted:
            write_picture(self._path("panel", f"{end}.png"), panel(result.whole_image()))
        if "csv" in wanted:
            record["rows"] = result.measurements()
        if "coco" in wanted or "results" in wanted:
            record["objects"] = result.to_coco()
        if "coco" in wanted:
            copy = self._path("images", Path(source.path).suffix if single else f"{end}.png")
            record["file_name"] = os.path.basename(self._places[copy])
            shutil.copyfile(source.path, copy) if single else write_picture(copy, result.whole_image())
        self._record.write(json.dumps(record) + "\n")

    def __enter__(self) -> "SourceWriter":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._record.close()
        if self._stack is not None:
            self._stack.close()
        if self._video is not None:
            self._video.release()  # which says nothing of a full disk
            written = cv2.VideoCapture(next(p for p in self._places if p.endswith(".mp4"))).get(
                cv2.CAP_PROP_FRAME_COUNT
            )
            if error is None and written < self.images:
                raise OSError(f"the video of {self._source.path} could not be written: is the disk full?")
        for aside, place in reversed(self._places.items()):  # the record is the first one
            if error is None:
                os.makedirs(os.path.dirname(place), exist_ok=True)
                os.replace(aside, place)
            elif os.path.exists(aside):
                os.remove(aside)

    def _path(self, folder: str, end: str) -> str:
        """Of a new file aside, which will be NAME with this end."""
        place = os.path.join(self._output, folder, f"{self._source.name}{end}")
        aside = os.path.join(self._output, STATE, f"{len(self._places)}.part{os.path.splitext(place)[1]}")
        self._places[aside] = place
        return aside

    def _add_to_video(self, picture: np.ndarray, fps: float) -> None:
        if self._video is None:
            code, size = cv2.VideoWriter.fourcc(*"mp4v"), picture.shape[1::-1]
            self._video = cv2.VideoWriter(self._path("overlay", ".mp4"), code, fps, size)
            if not self._video.isOpened():
                raise OSError(f"OpenCV cannot write the video of {self._source.path}: leave out --save overlay")
        self._video.write(picture[:, :, ::-1])


def record_path(output: str, source: Source) -> Path:
    """It is there if the source is complete."""
    return Path(output, STATE, f"{source.name}.jsonl")


def write_tables(
    output: str, sources: Sequence[Source], formats: Sequence[str], categories: Sequence[tuple[int, str]]
) -> None:
    """The files over all inputs that are complete. `categories`: (id, name) of every class."""

    def records() -> Iterator[dict]:
        numbers = itertools.count(1)
        for source in sources:
            if (path := record_path(output, source)).exists():
                with open(path, encoding="utf-8") as lines:
                    for line, number in zip(lines, numbers, strict=False):
                        try:
                            record = json.loads(line)
                        except ValueError:
                            advice = "remove it; --resume predicts its input anew"
                            raise ValueError(f"{path} is damaged\n{advice}") from None
                        yield record | {"id": number if source.image_id is None else source.image_id}

    if "csv" in formats:
        with replacing(os.path.join(output, "measurements.csv")) as file:
            text = codecs.getwriter("utf-8")(file, "backslashreplace")  # names of files may be no Unicode
            table = csv.DictWriter(text, ("image", "frame", *MEASUREMENTS))
            table.writeheader()
            for record in records():
                table.writerows({"image": record["path"], "frame": record["frame"]} | row for row in record["rows"])
    tables: dict[str, Any] = {}
    if "results" in formats or "coco" in formats:
        rows = [
            row | {"image_id": record["id"], "category_id": categories[row["category_id"] - 1][0]}
            for record in records()
            for row in record["objects"]
        ]
    if "results" in formats:
        tables["results.json"] = rows
    if "coco" in formats:
        tables["dataset.json"] = {
            "categories": [{"id": id_, "name": name} for id_, name in categories],
            "images": [
                {"id": r["id"], "file_name": r["file_name"], "height": r["size"][0], "width": r["size"][1]}
                for r in records()
            ],
            "annotations": [row | {"id": k, "iscrowd": 0} for k, row in enumerate(rows, start=1)],
        }
    for name, content in tables.items():
        with replacing(os.path.join(output, name)) as file:
            file.write(json.dumps(content).encode())

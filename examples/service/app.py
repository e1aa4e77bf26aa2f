"""Masks over HTTP, without torch: `MODEL=model.onnx uvicorn app:app`, then `curl -F image=@cells.png :8000/predict`."""

import io
import os
from threading import Lock

from fastapi import FastAPI, HTTPException, Response, UploadFile
from PIL import Image, UnidentifiedImageError

from dvis_d2.runtime import Runtime

app = FastAPI(title="dvis_d2")
model = Runtime(os.environ.get("MODEL", "model.onnx"))
one_at_a_time = Lock()  # an inference takes all cores anyway


@app.post("/predict")
def predict(image: UploadFile, threshold: float = 0.5) -> dict:
    """Polygons of the objects as GeoJSON."""
    try:
        picture = Image.open(io.BytesIO(image.file.read()))
        with one_at_a_time:
            return model.predict(picture, confidence_threshold=threshold).to_geojson()
    except UnidentifiedImageError as error:
        raise HTTPException(422, "the upload is no image that can be read") from error
    except (ValueError, OSError) as error:
        raise HTTPException(422, str(error)) from error


@app.get("/health")
def health() -> Response:
    return Response("ok")

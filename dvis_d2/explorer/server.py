"""The page's server: for this machine alone, behind a random token, and nothing in it comes from elsewhere."""

import contextlib
import json
import os
import re
import secrets
import socket
import tempfile
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from ..inference.colors import neighbor_colors, palette_colors
from ..modeling.masks import mask_boxes
from . import details
from .session import MOST_SHOWN, Explorer, View

MAX_UPLOAD = 2**30  # bytes of a dropped image
JPEG_PIXELS = 4_000_000  # from here on a picture is sent as JPEG
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Lets only those pass that came by the page's own address, so that no other page and no name that is pointed at
    this machine reaches it; adds the headers that keep the page to itself."""

    def __init__(self, app: ASGIApp, port: int):
        self.app, self.hosts = app, {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode("latin1"): value.decode("latin1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        fits = host in self.hosts and (origin == f"http://{host}" if origin else scope["method"] in ("GET", "HEAD"))
        if not fits or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            await PlainTextResponse("not from the page itself", 403)(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
            await send(message)

        await self.app(scope, receive, send_with_headers)


def build_app(explorer: Explorer, token: str, port: int, folder: str) -> ASGIApp:
    """`folder` is for dropped images."""

    def answer(work: Callable[[Any], Response]) -> Callable:
        async def endpoint(request: Request) -> Response:
            try:
                asked = json.loads(await request.body() or b"{}")
                return await run_in_threadpool(_locked, explorer, work, asked)
            except (ValueError, OSError, KeyError, IndexError, TypeError, AttributeError) as error:
                return JSONResponse({"error": str(error).partition("\n")[0] or type(error).__name__}, 400)

        return endpoint

    def view_of(asked: Any) -> View:
        center = asked.get("center")
        return explorer.view(_index(asked["image"]), None if center is None else (int(center[0]), int(center[1])))

    def start(_: Any) -> Response:
        return JSONResponse(explorer.start())

    def opened(asked: Any) -> Response:
        view = view_of(asked)
        labels = explorer.label_map(view)
        stride = explorer.network.proposal_generator.stride
        about = {"window": view.window, "size": view.size, "drawn": view.drawn, "map": labels.shape, "stride": stride}
        return _packed(about | {"input": view.features.image_size}, {"labels": labels})

    def picture(asked: Any) -> Response:
        shown = explorer.overview(_index(asked["image"])) if asked.get("overview") else view_of(asked).picture
        end = ".jpg" if shown.shape[0] * shown.shape[1] > JPEG_PIXELS else ".png"
        quality = [cv2.IMWRITE_JPEG_QUALITY, 92] if end == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
        _, data = cv2.imencode(end, shown[:, :, ::-1], quality)
        return Response(data.tobytes(), media_type="image/jpeg" if end == ".jpg" else "image/png")

    def group(asked: Any) -> Response:
        view = view_of(asked)
        found = explorer.group(view, asked["thresholds"])
        rows, columns = explorer.label_map(view).shape
        boxes, masks = mask_boxes(found.masks).long().cpu().numpy(), found.masks.cpu().numpy()
        crops = [mask[y0:y1, x0:x1] for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True)]
        about = {"scores": found.scores.tolist(), "values": found.values.tolist(), "boxes": boxes.tolist()}
        levels = found.levels[:rows, :columns].cpu().numpy().astype(np.int16)
        about["colors"] = neighbor_colors(boxes, (rows, columns)).tolist()
        about["more"] = len(found) == MOST_SHOWN
        about["levels"] = palette_colors(int(levels.max(initial=-1)) + 1).tolist()
        return _packed(about, {"levels": levels, "bits": _bits(crops)})

    def find(asked: Any) -> Response:
        view, thresholds = view_of(asked), asked["thresholds"]
        found = explorer.find(view, thresholds)
        about: dict[str, Any] = {
            "scores": found.scores.tolist(),
            "classes": found.classes.tolist(),
            "ious": found.proposals.ious[found.rows].tolist(),
            "rows": found.rows.tolist(),
            "boxes": found.masks.boxes.tolist(),
            "areas": found.masks.areas().tolist(),
            "colors": neighbor_colors(found.masks.boxes, view.drawn).tolist(),
        }
        arrays = {"bits": _bits(found.masks.crops)}
        if compared := details.compare(explorer, _index(asked["image"]), view, thresholds):
            about["truth"] = compared[0] | {"boxes": compared[1].boxes.tolist()}
            arrays["truth"] = _bits(compared[1].crops)
        return _packed(about, arrays)

    def explain(asked: Any) -> Response:
        said, soft = details.explain(explorer, view_of(asked), asked["thresholds"], _index(asked["number"]))
        return _packed(said, {"soft": soft})

    def histogram(asked: Any) -> Response:
        return JSONResponse(details.histogram(explorer, view_of(asked), asked["thresholds"]))

    def save(asked: Any) -> Response:
        return JSONResponse({"path": explorer.save(asked["thresholds"])})

    async def drop(request: Request) -> Response:
        name = Path(request.query_params.get("name", "image")).name
        suffix = re.sub(r"[^.\w]", "", Path(name).suffix)[:10]
        handle, path = tempfile.mkstemp(suffix=suffix, dir=folder)
        with os.fdopen(handle, "wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
                if file.tell() > MAX_UPLOAD:
                    os.remove(path)
                    return JSONResponse({"error": f"{name} is larger than {MAX_UPLOAD >> 20} MiB"}, 413)
        try:
            number = await run_in_threadpool(explorer.add, path, name)
        except (OSError, ValueError) as error:
            os.remove(path)
            return JSONResponse({"error": str(error).replace(path, name).partition("\n")[0]}, 400)
        return JSONResponse({"image": number, "name": name})

    works = {"start": start, "open": opened, "picture": picture, "group": group, "find": find}
    works |= {"explain": explain, "histogram": histogram, "save": save}
    routes: list = [Route(f"/{name}", answer(work), methods=["POST"]) for name, work in works.items()]
    routes.append(Route("/drop", drop, methods=["POST"]))
    page = StaticFiles(directory=str(resources.files(__package__) / "static"), html=True)
    return Guard(Starlette(routes=[Mount(f"/{token}", routes=[*routes, Mount("/", app=page)])]), port)


def _locked(explorer: Explorer, work: Callable[[Any], Response], asked: Any) -> Response:
    with explorer.lock:
        return work(asked)


def _index(number: Any) -> int:
    if not isinstance(number, int) or number < 0:
        raise ValueError(f"there is no number {number}")
    return number


def _bits(crops: Sequence[np.ndarray]) -> np.ndarray:
    """Masks inside their boxes one after the other, eight pixels a byte, each beginning with a byte of its own."""
    return np.concatenate([np.zeros(0, np.uint8), *map(np.packbits, crops)])


def _packed(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> Response:
    """The length of a JSON text, the text, which names the arrays with their numbers of bytes, and the arrays; all
    begin at multiples of 4."""
    pieces = [np.ascontiguousarray(array).tobytes() for array in arrays.values()]
    sizes = dict(zip(arrays, map(len, pieces), strict=True))
    text = json.dumps(about | {"arrays": sizes}).encode()
    text += b" " * (-len(text) % 4)
    body = len(text).to_bytes(4, "little") + text + b"".join(p + bytes(-len(p) % 4) for p in pieces)
    return Response(body, media_type="application/octet-stream")


class Page(contextlib.ExitStack):
    """The page of an explorer, in `with`: its `address`, under which :meth:`run` serves it until Ctrl-C or
    :meth:`stop`."""

    def __init__(self, explorer: Explorer, port: int = 0):
        """`port` 0: a free one. OSError if it is taken."""
        super().__init__()
        self._listener = self.enter_context(socket.socket())
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._listener.bind(("127.0.0.1", port))
            self._listener.listen()  # who comes before `run` waits
        except OSError as error:
            raise OSError(f"port {port} cannot be used: {error.strerror}\ngive another --port, or none") from error
        port, token = self._listener.getsockname()[1], secrets.token_urlsafe(24)
        app = build_app(explorer, token, port, self.enter_context(tempfile.TemporaryDirectory()))
        config = uvicorn.Config(app, log_level="warning", access_log=False, ws="none", lifespan="off")
        self.address, self._server = f"http://127.0.0.1:{port}/{token}/", uvicorn.Server(config)

    def run(self) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            self._server.run(sockets=[self._listener])

    def stop(self) -> None:
        self._server.should_exit = True

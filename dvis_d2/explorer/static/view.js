// Pictures side by side that zoom and move together.

const PANES = [["image", "image"], ["labels", "label map"], ["levels", "levels"], ["proposals", "proposals"], ["result", "result"], ["truth", "annotations"]];
const STEP = 60; // CSS pixels that an arrow moves

export class Viewer {
  // `onPoint(x, y)` and `onClick(x, y, pane)` get pixels of the view, or null outside of it.
  constructor(root, { onPoint, onClick }) {
    this.root = root;
    this.size = [1, 1]; // width, height of the view in its own pixels
    this.scale = 1; // CSS pixels a pixel
    this.corner = [0, 0]; // the pixel at the upper left
    this.opacity = 1;
    this.base = null; // the picture under all layers
    this.layers = {}; // by pane: canvases with the part of the view that they span, {canvas, width, height}
    this.marks = []; // layers over all panes
    this.panes = new Map();
    for (const [name, title] of PANES) {
      const figure = document.createElement("figure");
      const caption = figure.appendChild(document.createElement("figcaption"));
      caption.append(Object.assign(document.createElement("strong"), { textContent: title }));
      const note = caption.appendChild(Object.assign(document.createElement("span"), { className: "note" }));
      const canvas = figure.appendChild(document.createElement("canvas"));
      canvas.dataset.pane = name;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", title);
      root.append(figure);
      this.panes.set(name, { figure, caption, note, canvas, title });
      this.listen(canvas, name, onPoint, onClick);
    }
    new ResizeObserver(() => (this.fitted ? this.fit() : this.draw())).observe(root);
  }

  listen(canvas, name, onPoint, onClick) {
    const pixel = (event) => {
      const [x, y] = [this.corner[0] + event.offsetX / this.scale, this.corner[1] + event.offsetY / this.scale];
      return x >= 0 && y >= 0 && x < this.size[0] && y < this.size[1] ? [x, y] : null;
    };
    let start = null;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      start = { at: [event.clientX, event.clientY], corner: [...this.corner], moved: false };
    });
    canvas.addEventListener("pointermove", (event) => {
      onPoint(pixel(event));
      if (!start) return;
      const by = [event.clientX - start.at[0], event.clientY - start.at[1]];
      start.moved ||= Math.hypot(...by) > 4;
      if (start.moved) this.move(start.corner[0] - by[0] / this.scale, start.corner[1] - by[1] / this.scale);
    });
    canvas.addEventListener("pointerup", (event) => {
      if (start && !start.moved) onClick(pixel(event), name);
      start = null;
    });
    canvas.addEventListener("pointercancel", () => (start = null));
    canvas.addEventListener("pointerleave", () => onPoint(null));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * 0.0015), event.offsetX, event.offsetY);
    }, { passive: false });
  }

  show(only) {
    for (const [name, pane] of this.panes) pane.figure.hidden = only !== "all" ? name !== only : name === "truth" && !this.hasTruth;
    this.root.classList.toggle("one", only !== "all");
    this.fit();
  }

  note(name, text) {
    const { note, canvas, title } = this.panes.get(name);
    note.textContent = text;
    note.title = text;
    canvas.setAttribute("aria-label", `${title}: ${text}`);
  }

  get box() {
    const shown = [...this.panes.values()].find((pane) => !pane.figure.hidden);
    return [shown.canvas.clientWidth, shown.canvas.clientHeight];
  }

  fit() {
    const [width, height] = this.box;
    this.scale = Math.max(1e-4, Math.min(width / this.size[0], height / this.size[1]));
    this.corner = [(this.size[0] - width / this.scale) / 2, (this.size[1] - height / this.scale) / 2];
    this.fitted = true;
    this.draw();
  }

  move(x, y) {
    this.corner = [x, y];
    this.fitted = false;
    this.draw();
  }

  pan(right, down) {
    this.move(this.corner[0] + (right * STEP) / this.scale, this.corner[1] + (down * STEP) / this.scale);
  }

  zoom(factor, x = this.box[0] / 2, y = this.box[1] / 2) {
    const scale = Math.max(0.01, Math.min(60, this.scale * factor));
    const at = [this.corner[0] + x / this.scale, this.corner[1] + y / this.scale];
    this.scale = scale;
    this.move(at[0] - x / scale, at[1] - y / scale);
  }

  draw() {
    this.pending ??= requestAnimationFrame(() => {
      this.pending = null;
      for (const [name, { figure, canvas }] of this.panes) if (!figure.hidden) this.drawPane(name, canvas);
    });
  }

  drawPane(name, canvas) {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const pen = canvas.getContext("2d");
    const scale = this.scale * ratio;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.setTransform(scale, 0, 0, scale, -this.corner[0] * scale, -this.corner[1] * scale);
    pen.imageSmoothingEnabled = this.scale < 1;
    pen.beginPath();
    pen.rect(0, 0, ...this.size);
    pen.clip();
    if (this.base) pen.drawImage(this.base, 0, 0, ...this.size);
    pen.globalAlpha = this.opacity;
    for (const layer of this.layers[name] ?? []) pen.drawImage(layer.canvas, 0, 0, layer.width, layer.height);
    pen.globalAlpha = 1;
    for (const layer of this.marks) pen.drawImage(layer.canvas, 0, 0, layer.width, layer.height);
  }
}

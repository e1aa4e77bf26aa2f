// What the server sends, and pixels made of it.

async function request(name, init) {
  const answer = await fetch(name, { method: "POST", ...init });
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Error(said.error ?? `${name}: ${answer.status} ${answer.statusText}`);
}

export const ask = async (name, about = {}) => (await request(name, { body: JSON.stringify(about) })).json();
export const askBlob = async (name, about) => (await request(name, { body: JSON.stringify(about) })).blob();
export const sendFile = async (file) => (await request(`drop?name=${encodeURIComponent(file.name)}`, { body: file })).json();

// A JSON text of a length that comes first, and the arrays that it names (server.py, _packed).
export async function askPacked(name, about) {
  const buffer = await (await request(name, { body: JSON.stringify(about) })).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const said = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  for (const [key, size] of Object.entries(said.arrays)) {
    said.arrays[key] = new Uint8Array(buffer, at, size);
    at += Math.ceil(size / 4) * 4;
  }
  return said;
}

export const asFloats = (bytes) => new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
export const asShorts = (bytes) => new Int16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);

// Masks inside boxes (x0, y0, x1, y1), eight pixels a byte.
export class Masks {
  constructor(boxes, bits) {
    this.boxes = boxes;
    this.bits = bits;
    this.starts = [];
    let at = 0;
    for (const [x0, y0, x1, y1] of boxes) {
      this.starts.push(at);
      at += Math.ceil(((x1 - x0) * (y1 - y0)) / 8);
    }
  }

  get length() {
    return this.boxes.length;
  }

  has(k, x, y) {
    const [x0, y0, x1, y1] = this.boxes[k];
    if (x < x0 || y < y0 || x >= x1 || y >= y1) return false;
    const i = (y - y0) * (x1 - x0) + x - x0;
    return ((this.bits[this.starts[k] + (i >> 3)] >> (7 - (i & 7))) & 1) === 1;
  }

  // The best one at a place, or -1.
  at(x, y) {
    for (let k = 0; k < this.length; k++) if (this.has(k, x, y)) return k;
    return -1;
  }

  // Calls paint(offset of the pixel, whether it is at the edge) for every pixel of a mask.
  each(k, width, paint) {
    const [x0, y0, x1, y1] = this.boxes[k];
    for (let y = y0; y < y1; y++) {
      for (let x = x0; x < x1; x++) {
        if (!this.has(k, x, y)) continue;
        const inner = this.has(k, x - 1, y) && this.has(k, x + 1, y) && this.has(k, x, y - 1) && this.has(k, x, y + 1);
        paint(y * width + x, !inner);
      }
    }
  }
}

// A canvas of one pixel a cell, filled by fill(pixels as Uint8ClampedArray, RGBA).
export function picture(width, height, fill) {
  const canvas = new OffscreenCanvas(Math.max(1, width), Math.max(1, height));
  const image = new ImageData(canvas.width, canvas.height);
  fill(image.data);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

export function put(pixels, at, [r, g, b], alpha) {
  pixels[4 * at] = r;
  pixels[4 * at + 1] = g;
  pixels[4 * at + 2] = b;
  pixels[4 * at + 3] = alpha;
}

// The masks, the best on top: inside with one opacity, at the edge with another, 0 to 255.
export function paintMasks(masks, [height, width], colors, inside, edge, chosen = masks.boxes.keys()) {
  return picture(width, height, (pixels) => {
    for (const k of [...chosen].reverse()) masks.each(k, width, (at, atEdge) => put(pixels, at, colors[k], atEdge ? edge : inside));
  });
}

// Labels in the server's scale of 256 colors up to `top`; those under 1 fade into black.
export function paintLabels(labels, [height, width], scale, top) {
  return picture(width, height, (pixels) => {
    labels.forEach((label, at) => {
      const color = scale[Math.max(0, Math.min(255, Math.round((255 * label) / top) || 0))];
      const light = Math.max(0, Math.min(1, label || 0));
      put(pixels, at, color.map((c) => c * light), 255);
    });
  });
}

export function paintLevels(levels, [height, width], colors) {
  return picture(width, height, (pixels) => {
    levels.forEach((level, at) => put(pixels, at, level < 0 ? [0, 0, 0] : colors[level], 255));
  });
}

// What the heads see of an object: its soft membership, 0 to 255, inside a box on the map.
export function paintSoft(soft, box, [height, width]) {
  return picture(width, height, (pixels) => {
    const [x0, y0, x1] = box;
    soft.forEach((value, i) => put(pixels, (y0 + Math.floor(i / (x1 - x0))) * width + x0 + (i % (x1 - x0)), [255, 255, 255], 0.6 * value));
  });
}

// The histogram of labels with the density estimate of each bandwidth: peaks are modes, and valleys part the levels.

const HEIGHT = 76;

export function drawHistogram(root, found, scale, top) {
  root.replaceChildren();
  for (const curve of found.curves) {
    const canvas = document.createElement("canvas");
    const list = (values) => values.map((value) => value.toFixed(2)).join(", ") || "none";
    const text = `bandwidth ${curve.bandwidth}: ${curve.modes.length} modes at ${list(curve.modes)}; valleys at ${list(curve.valleys)}`;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", text);
    const note = Object.assign(document.createElement("p"), { className: "note", textContent: text });
    root.append(canvas, note);
    draw(canvas, found, curve, scale, top);
  }
}

function draw(canvas, { low, high, counts }, { density, modes, valleys }, scale, top) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth || 290;
  [canvas.width, canvas.height] = [width * ratio, HEIGHT * ratio];
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const ink = getComputedStyle(document.body).color;
  const floor = HEIGHT - 14;
  const most = Math.max(1e-9, ...density);
  const most_count = Math.max(1, ...counts);
  const x = (label) => ((label - low) / (high - low || 1)) * width;
  const y = (value, of) => floor - (value / of) * (floor - 8);
  counts.forEach((count, i) => {
    const label = low + ((i + 0.5) / counts.length) * (high - low);
    const [r, g, b] = scale[Math.max(0, Math.min(255, Math.round((255 * label) / top)))];
    pen.fillStyle = `rgb(${r} ${g} ${b})`;
    pen.fillRect(x(label), y(count, most_count), width / counts.length + 0.5, floor - y(count, most_count));
  });
  pen.strokeStyle = pen.fillStyle = ink;
  pen.lineWidth = 1.3;
  pen.beginPath();
  density.forEach((value, i) => pen.lineTo(((i + 0.5) / density.length) * width, y(value, most)));
  pen.stroke();
  pen.lineWidth = 1;
  pen.setLineDash([3, 3]);
  for (const valley of valleys) {
    pen.beginPath();
    pen.moveTo(x(valley), 2);
    pen.lineTo(x(valley), floor);
    pen.stroke();
  }
  pen.font = "10px system-ui, sans-serif";
  pen.textAlign = "center";
  for (const mode of modes) {
    pen.beginPath();
    pen.moveTo(x(mode), floor);
    pen.lineTo(x(mode) - 3, floor + 5);
    pen.lineTo(x(mode) + 3, floor + 5);
    pen.fill();
  }
  for (let label = Math.ceil(low); label <= high; label++) pen.fillText(label, Math.max(4, Math.min(width - 4, x(label))), HEIGHT - 1);
}

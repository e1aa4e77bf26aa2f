import { drawHistogram } from "./chart.js";
import { buildControls } from "./controls.js";
import { Masks, asFloats, asShorts, ask, askBlob, askPacked, paintLabels, paintLevels, paintMasks, paintSoft, sendFile } from "./data.js";
import { Viewer } from "./view.js";

const $ = (id) => document.getElementById(id);
const OUTCOMES = { hit: [0, 180, 130], miss: [213, 94, 0], merge: [214, 131, 177], split: [240, 228, 66], duplicate: [86, 180, 233], extra: [230, 159, 0], "": [150, 150, 150] };
const WHITE = [255, 255, 255];
const PAUSE = 120; // milliseconds without a change of a slider before the heads run
const PATIENCE = 500; // milliseconds without an answer before the page says what it waits for
const fixed = (value, digits = 2) => Number(value).toFixed(digits);

const start = await ask("start");
const first = () => Object.fromEntries(start.controls.map(({ key, value }) => [key, Array.isArray(value) ? [...value] : value]));
let values = first();
let open = null; // the view: {image, center, window, size, map, labels, top, ...}
let groups = null; // proposals and levels
let found = null; // objects
let opening = null; // what was asked last
let chosen = { object: -1, proposal: -1 };
const viewer = new Viewer($("panes"), { onPoint: readOut, onClick: choose });
const status = (text, error = false) => {
  $("status").textContent = text;
  $("status").classList.toggle("error", error);
};

// The answer, and until it comes, if that takes long, what is being done.
async function patiently(doing, answer) {
  const before = $("status").textContent;
  const timer = setTimeout(() => status(`${doing} …`), PATIENCE);
  try {
    return await answer;
  } finally {
    clearTimeout(timer);
    if ($("status").textContent === `${doing} …`) status(before);
  }
}

// ---- The way of an image: opened once, then grouped, then judged, each again after a change before it

const wanted = { group: false, find: false };
let working = false;
let changed = 0; // when, last

async function work() {
  if (working || !open) return;
  working = true;
  try {
    while (wanted.group || wanted.find) {
      const view = open;
      const asked = { image: view.image, center: view.center, thresholds: values };
      if (wanted.group) {
        wanted.group = false;
        const began = performance.now();
        const said = await patiently("grouping", askPacked("group", asked));
        if (view !== open) continue; // another image was opened meanwhile
        showGroups(said);
        status(`grouped in ${Math.round(performance.now() - began)} ms`);
        groups.histogram = await ask("histogram", asked);
        if (view !== open) continue;
        drawHistogram($("histogram"), groups.histogram, start.scale, open.top);
      } else if (performance.now() - changed < PAUSE) {
        await new Promise((resolve) => setTimeout(resolve, PAUSE / 3));
      } else {
        wanted.find = false;
        const began = performance.now();
        const said = await patiently("the heads judge the proposals", askPacked("find", asked));
        if (view !== open) continue;
        showFound(said);
        status(`objects in ${Math.round(performance.now() - began)} ms`);
      }
    }
  } catch (error) {
    status(error.message, true);
  }
  working = false;
  document.body.dataset.ready = String(Number(document.body.dataset.ready ?? 0) + 1);
}

function change(entry) {
  changed = performance.now();
  wanted.group ||= entry.grouping;
  wanted.find = true;
  work();
}

async function openView(image, center = null) {
  status("the network runs …");
  try {
    const asked = { image, center };
    const mine = (opening = asked);
    const said = await askPacked("open", asked);
    const [blob, small] = await Promise.all([askBlob("picture", asked), askBlob("picture", { image, overview: true })]);
    if (mine !== opening) return; // another one was chosen meanwhile
    const labels = asFloats(said.arrays.labels);
    open = { ...said, image, center, labels, top: Math.max(1, labels.reduce((a, b) => (b > a ? b : a), 0)) };
    viewer.base = await createImageBitmap(blob);
    const [y0, y1, x0, x1] = said.window;
    viewer.size = [x1 - x0, y1 - y0];
    viewer.layers = { labels: [onMap(paintLabels(labels, said.map, start.scale, open.top))] };
    viewer.note("image", `${said.size[1]} × ${said.size[0]} pixels`);
    viewer.note("labels", `to ${fixed(open.top, 1)}, one cell is ${fixed(cell()[0], 1)} pixels`);
    drawScale();
    $("images").value = image;
    const part = x1 - x0 < said.size[1] || y1 - y0 < said.size[0];
    $("whole").hidden = !part;
    if (part) drawOverview(await createImageBitmap(small));
    choose(null);
    viewer.fit();
    Object.assign(wanted, { group: true, find: true });
    work();
  } catch (error) {
    status(error.message, true);
  }
}

// Pixels of the view that a cell of the map spans, to the right and down.
const cell = () => [(open.stride * viewer.size[0]) / open.input[1], (open.stride * viewer.size[1]) / open.input[0]];
const onMap = (canvas) => ({ canvas, width: canvas.width * cell()[0], height: canvas.height * cell()[1] });
const onView = (canvas) => ({ canvas, width: viewer.size[0], height: viewer.size[1] });
const count = (list) => list.reduce((counts, name) => counts.set(name, (counts.get(name) ?? 0) + 1), new Map());
const inWords = (counts) => [...counts].map(([name, number]) => `${number} ${name}`).join(", ") || "nothing";

function showGroups(said) {
  groups = { ...said, masks: new Masks(said.boxes, said.arrays.bits), levelOf: asShorts(said.arrays.levels) };
  viewer.layers.levels = [onMap(paintLevels(groups.levelOf, open.map, said.levels))];
  viewer.layers.proposals = [onMap(paintMasks(groups.masks, open.map, said.colors, 110, 255))];
  viewer.note("levels", `${said.levels.length}`);
  viewer.note("proposals", said.scores.length ? `${said.more ? "the best " : ""}${said.scores.length}, scores to ${fixed(said.scores[0])}` : "none");
  mark();
}

function showFound(said) {
  found = { ...said, masks: new Masks(said.boxes, said.arrays.bits) };
  viewer.layers.result = [onView(paintMasks(found.masks, open.drawn, said.colors, 100, 255))];
  viewer.note("result", inWords(count(said.classes.map((k) => start.classes[k]))));
  const { truth } = said;
  viewer.hasTruth = Boolean(truth);
  $("truth").hidden = !truth;
  if (truth) {
    const objects = new Masks(truth.boxes, said.arrays.truth);
    const outcomes = (list) => list.map((name) => OUTCOMES[name]);
    const extra = [...truth.found.keys()].filter((k) => ["extra", "duplicate"].includes(truth.found[k]));
    viewer.layers.truth = [
      onView(paintMasks(objects, open.drawn, outcomes(truth.objects), 120, 255)),
      onView(paintMasks(found.masks, open.drawn, outcomes(truth.found), 0, 255, extra)),
    ];
    viewer.note("truth", inWords(count(truth.objects)));
    const rows = [["AP of this picture", fixed(truth.ap[0], 1)], ["AP50", fixed(truth.ap[1], 1)]];
    fill($("comparison"), [...rows, ...legend(count(truth.objects), "objects"), ...legend(count(truth.found.filter((k) => k !== "hit")), "found")]);
  }
  if (chosen.object >= said.scores.length) choose(null);
  viewer.show($("pane").value);
  mark();
}

// ---- What stands beside the pictures

function fill(list, rows) {
  list.replaceChildren(...rows.flatMap(([name, value, color]) => {
    const term = Object.assign(document.createElement("dt"), { textContent: name });
    if (color) {
      const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
      swatch.style.backgroundColor = `rgb(${color})`;
      term.prepend(swatch);
    }
    return [term, Object.assign(document.createElement("dd"), { textContent: value })];
  }));
}

const legend = (counts, what) => [...counts].filter(([name]) => name).map(([name, number]) => [`${what}: ${name}`, number, OUTCOMES[name]]);

function places(point) {
  const [x, y] = point;
  const [column, line] = [Math.floor(x / cell()[0]), Math.floor(y / cell()[1])];
  const [height, width] = open.drawn;
  return { column, line, at: line * open.map[1] + column, px: Math.floor((x * width) / viewer.size[0]), py: Math.floor((y * height) / viewer.size[1]) };
}

function readOut(point) {
  if (!point || !open || !groups) return fill($("readout"), [["", "point at a picture"]]);
  const { column, line, at, px, py } = places(point);
  const proposal = groups.masks.at(column, line);
  const object = found ? found.masks.at(px, py) : -1;
  const named = object < 0 ? "none" : `${object + 1}: ${start.classes[found.classes[object]]}`;
  fill($("readout"), [
    ["pixel", `${Math.floor(point[0]) + open.window[2]}, ${Math.floor(point[1]) + open.window[0]}`],
    ["label", fixed(open.labels[at], 3)],
    ["level", groups.levelOf[at] < 0 ? "background" : groups.levelOf[at] + 1],
    ["proposal", proposal < 0 ? "none" : `${proposal + 1}, score ${fixed(groups.scores[proposal])}, value ${fixed(groups.values[proposal])}`],
    ["object", named],
    ["score, IoU", object < 0 ? "" : `${fixed(found.scores[object], 3)}, ${fixed(found.ious[object], 3)}`],
  ]);
}

async function choose(point, pane = "result") {
  if (!point || !open || !groups) chosen = { object: -1, proposal: -1 };
  else {
    const { column, line, px, py } = places(point);
    if (pane === "proposals") chosen = { object: -1, proposal: groups.masks.at(column, line) };
    else chosen = { object: found ? found.masks.at(px, py) : -1, proposal: -1 };
  }
  await showChosen();
}

function step(what, by) {
  const total = what === "object" ? found?.scores.length : groups?.scores.length;
  if (!total) return;
  const before = chosen[what];
  chosen = { object: -1, proposal: -1, [what]: before < 0 ? (by > 0 ? 0 : total - 1) : (before + by + total) % total };
  showChosen();
}

async function showChosen() {
  const { object, proposal } = chosen;
  chosen.soft = null;
  if (proposal >= 0) fill($("object"), [["proposal", `${proposal + 1} of ${groups.scores.length}`], ["rank score", fixed(groups.scores[proposal], 3)], ["label", fixed(groups.values[proposal], 3)]]);
  else if (object < 0) fill($("object"), [["none is chosen", "click one"]]);
  mark();
  if (object < 0) return;
  const mine = chosen;
  try {
    const asked = { image: open.image, center: open.center, thresholds: values, number: object };
    const said = await patiently("looking at the object", askPacked("explain", asked));
    if (mine !== chosen) return;
    chosen.soft = onMap(paintSoft(said.arrays.soft, said.box, open.map));
    const [x0, y0, x1, y1] = found.boxes[object];
    const [a, sure] = [said.alpha, said.sure];
    const prob = said.classes.find(([name]) => name === start.classes[found.classes[object]])?.[1] ?? 0;
    const rivals = said.rivals.slice(0, 5).map(([score, overlap]) => `score ${fixed(score)} before its mask, IoU with this ${fixed(overlap)}`).join("; ");
    fill($("object"), [
      ["object", `${object + 1} of ${found.scores.length}: ${start.classes[found.classes[object]]}`],
      ["score", `${fixed(found.scores[object], 3)} = (${a} × IoU ${fixed(said.iou, 3)} + ${fixed(1 - a)} × class ${fixed(prob, 3)}) × mask ${fixed(sure, 3)}${Math.abs(found.scores[object] - (a * said.iou + (1 - a) * prob) * sure) > 2e-3 ? ", lowered by overlaps" : ""}`],
      ["classes", said.classes.map(([name, p]) => `${name} ${fixed(p, 3)}`).join(", ")],
      ["box", `${x0}, ${y0} to ${x1}, ${y1}; ${found.areas[object]} pixels`],
      ["label", fixed(said.value, 3)],
      ["from", `a proposal of rank score ${fixed(said.rank, 3)}`],
      ["suppresses", said.rivals.length ? `${said.rivals.length}: ${rivals}` : "nothing"],
      ...(found.truth ? [["beside the annotations", `${found.truth.found[object] || "in a crowd"}, IoU ${fixed(found.truth.iou[object])}`]] : []),
    ]);
    mark();
  } catch (error) {
    status(error.message, true);
  }
}

// The chosen object or proposal over all pictures: its soft membership, and its outline in white.
function mark() {
  const { object, proposal, soft } = chosen;
  viewer.marks = soft ? [soft] : [];
  if (object >= 0 && found) viewer.marks.push(onView(paintMasks(found.masks, open.drawn, { [object]: WHITE }, 0, 255, [object])));
  if (proposal >= 0 && groups) viewer.marks.push(onMap(paintMasks(groups.masks, open.map, { [proposal]: WHITE }, 90, 255, [proposal])));
  viewer.draw();
}

function drawScale() {
  const { caption } = viewer.panes.get("labels");
  const bar = caption.querySelector("canvas") ?? caption.insertBefore(document.createElement("canvas"), caption.lastChild);
  [bar.width, bar.height] = [256, 1];
  bar.title = `label 0 to ${fixed(open.top, 1)}`;
  bar.getContext("2d").drawImage(paintLabels(Float32Array.from({ length: 256 }, (_, i) => (open.top * i) / 255), [1, 256], start.scale, open.top), 0, 0);
}

function drawOverview(small) {
  const canvas = $("overview");
  [canvas.width, canvas.height] = [small.width, small.height];
  const pen = canvas.getContext("2d");
  const [y0, y1, x0, x1] = open.window;
  const by = small.width / open.size[1];
  pen.drawImage(small, 0, 0);
  pen.strokeStyle = "#f0e442";
  pen.lineWidth = 2;
  pen.strokeRect(x0 * by, y0 * by, (x1 - x0) * by, (y1 - y0) * by);
}

function moveWindow(right, down) {
  const [y0, y1, x0, x1] = open.window;
  openView(open.image, [Math.round((x0 + x1) / 2 + (right * (x1 - x0)) / 2), Math.round((y0 + y1) / 2 + (down * (y1 - y0)) / 2)]);
}

// ---- What the user does

async function addFiles(files) {
  let last = -1;
  for (const file of files) {
    try {
      status(`${file.name} …`);
      const { image, name } = await sendFile(file);
      $("images").append(new Option(name, image));
      last = image;
    } catch (error) {
      status(error.message, true);
      return;
    }
  }
  if (last >= 0) openView(last);
}

async function save() {
  if (!start.save || (start.saved && !confirm(`Replace ${start.save}?`))) return;
  try {
    const { path } = await ask("save", { thresholds: values });
    start.saved = true;
    $("saved").textContent = `${path} written; eval and predict use it. The least score is not in it.`;
  } catch (error) {
    status(error.message, true);
  }
}

const build = () => buildControls($("controls"), start.controls, values, change);
build();
$("images").append(...start.images.map((name, i) => new Option(name, i)));
for (const [name, { title }] of viewer.panes) $("pane").append(new Option(title, name));
$("images").addEventListener("change", () => openView(Number($("images").value)));
$("pane").addEventListener("change", () => viewer.show($("pane").value));
$("opacity").addEventListener("input", () => {
  viewer.opacity = Number($("opacity").value);
  viewer.draw();
});
$("fit").addEventListener("click", () => viewer.fit());
$("in").addEventListener("click", () => viewer.zoom(1.4));
$("out").addEventListener("click", () => viewer.zoom(1 / 1.4));
$("reset").addEventListener("click", () => {
  values = first();
  build();
  change({ grouping: true });
});
$("save").addEventListener("click", save);
$("save").disabled = !start.save;
if (!start.save) $("saved").textContent = "The model is a part of the package: copy its file to a folder of your own to save thresholds beside it.";
$("next").addEventListener("click", () => step("object", 1));
$("previous").addEventListener("click", () => step("object", -1));
$("clear").addEventListener("click", () => choose(null));
$("file").addEventListener("change", () => addFiles($("file").files));
$("overview").addEventListener("click", (event) => {
  const by = open.size[1] / $("overview").clientWidth;
  openView(open.image, [Math.round(event.offsetX * by), Math.round(event.offsetY * by)]);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  if (groups?.histogram) drawHistogram($("histogram"), groups.histogram, start.scale, open.top);
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").hidden = false;
});
for (const name of ["dragleave", "drop"]) addEventListener(name, () => ($("drop").hidden = true));
addEventListener("drop", (event) => {
  event.preventDefault();
  addFiles(event.dataTransfer.files);
});

const turn = (by) => {
  const all = $("images").options.length;
  if (all && open) openView((open.image + by + all) % all);
};
const KEYS = {
  "+": () => viewer.zoom(1.4), "=": () => viewer.zoom(1.4), "-": () => viewer.zoom(1 / 1.4), 0: () => viewer.fit(),
  n: () => turn(1), p: () => turn(-1), j: () => step("object", 1), k: () => step("object", -1),
  "]": () => step("proposal", 1), "[": () => step("proposal", -1), Escape: () => choose(null), o: () => $("file").click(), s: save,
};
[...viewer.panes.keys(), "all"].forEach((name, i) => {
  KEYS[name === "all" ? "a" : i + 1] = () => {
    $("pane").value = name;
    viewer.show(name);
  };
});
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
addEventListener("keydown", (event) => {
  const inForm = event.target.closest("input, select, button, summary");
  if (event.ctrlKey || event.metaKey || event.altKey || (inForm && (event.key in ARROWS || event.target.matches("select")))) return;
  const act = event.key in ARROWS ? () => (event.shiftKey && open ? moveWindow(...ARROWS[event.key]) : viewer.pan(...ARROWS[event.key])) : KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

readOut(null);
if (start.images.length) openView(0);
else status("open an image, or drop one here");

// The page: what the user does, what the server is asked, what is shown.

import { ApiError, getExample, getFile, getInfo, openImage, predict } from "./api.js";
import { Painter, share } from "./painter.js";
import { RegionList, listExamples } from "./panel.js";
import { NOT_PART, PART, Regions, count, query } from "./regions.js";
import { listenToCanvas } from "./strokes.js";

const LONGEST_BITMAP = 1600;
const at = (id) => document.getElementById(id);
const canvas = at("canvas");
const painter = new Painter(canvas);

const state = {
  info: null,
  image: null, // {blob, name, about, bitmap, width, height, key, grid, hidden, ratio}
  maps: new Map(), // by region id: {width, height, values}
  doubts: new Map(), // why a mask is hardly what is meant; mostly empty
  wanted: 0, // counts changes; a response is drawn with the number it was asked with
  shown: 0,
  changedAt: 0,
  hover: null,
  box: null, // being dragged
  cursor: [0, 0],
  keyboard: false,
};
let regions = null;
let regionList = null;
let opening = null; // aborts what is being opened when something else is
let asking = false;
let frame = 0;
let stale = true; // the layer of masks

// ---------------------------------------------------------------------------------- drawing

function scene() {
  const focused = document.activeElement === canvas && state.keyboard;
  return {
    image: state.image,
    regions: regions.list,
    current: regions.current,
    maps: state.maps,
    view: chosen("view"),
    threshold: threshold(),
    showGrid: at("grid").checked,
    showMarks: at("marks").checked,
    hover: state.hover,
    box: state.box,
    cursor: focused ? state.cursor : null,
  };
}

function redraw(masksToo = true) {
  stale ||= masksToo;
  if (frame || !state.image) return;
  frame = requestAnimationFrame(() => {
    frame = 0;
    const now = scene();
    if (stale) painter.prepare(now);
    stale = false;
    painter.draw(now);
    canvas.dataset.shown = state.shown;
    if (state.shown === state.wanted && state.changedAt) {
      const milliseconds = performance.now() - state.changedAt;
      canvas.dataset.latency = milliseconds.toFixed(1);
      at("latency").textContent = `${(milliseconds / 1000).toFixed(2)} s`;
      state.changedAt = 0;
    }
  });
}

function resize() {
  if (!state.image) return;
  const box = at("box");
  const narrow = matchMedia("(max-width: 860px)").matches;
  const below = box.getBoundingClientRect().top + window.scrollY;
  const room = narrow ? 0.7 * innerHeight : innerHeight - below - 116;
  painter.fit(state.image, box.clientWidth, Math.max(room, 240));
  redraw();
}

function update() {
  regionList.show(regions, state.doubts);
  enable("undo", regions.done.length > 0);
  enable("redo", regions.undone.length > 0);
  enable("clear", regions.current.marks.size > 0);
  enable("add", regions.list.length < regions.most && Boolean(state.image));
  enable("save-mask", count(regions.current, PART) > 0);
  enable("save-labels", regions.asked().length > 0);
  enable("save-regions", regions.asked().length > 0);
  at("legend").hidden = chosen("view") !== "probability" || !state.image;
  redraw();
}

// A button that is disabled would lose the focus.
function enable(id, possible) {
  at(id).setAttribute("aria-disabled", String(!possible));
}

function onClick(id, action) {
  at(id).addEventListener("click", (event) => {
    if (event.currentTarget.getAttribute("aria-disabled") !== "true") action();
  });
}

function chosen(name) {
  return document.querySelector(`input[name="${name}"]:checked`).value;
}

function threshold() {
  return Number(at("threshold").value);
}

function say(text) {
  at("status").textContent = text;
}

function complain(error) {
  if (error?.name === "AbortError") return;
  if (error && !(error instanceof ApiError)) console.error(error);
  at("error").textContent = error ? error.message : "";
}

// In place of what was said before, which is about another image.
function refuse(error, name) {
  if (error?.name === "AbortError") return;
  complain(error);
  const { image } = state;
  say(`${name} was not opened.${image ? ` Still here: ${image.about}.` : ""}`);
}

function tellResult() {
  const region = regions.current;
  const name = `Region ${regions.active + 1}`;
  const map = state.maps.get(region.id);
  if (!map) {
    const { about } = state.image;
    say(region.marks.size ? `${name}: mark a patch that is part of it.` : `${about}. Click on a patch of an object.`);
    return;
  }
  const percent = (100 * share(map, threshold())).toFixed(0);
  const patches = count(region, PART) === 1 ? "1 patch" : `${count(region, PART)} patches`;
  const doubt = state.doubts.get(region.id);
  const doubtful = doubt ? ` Doubtful: ${doubt}.` : "";
  const hint = count(region, NOT_PART) ? "" : " Mark patches that are not part of it, too.";
  say(`${name}: ${patches} marked, mask covers ${percent}\u00a0% of the image.${doubtful}${hint}`);
}

// ------------------------------------------------------------------------------- predicting

function changed() {
  state.wanted += 1;
  state.changedAt ||= regions.asked().length ? performance.now() : 0;
  canvas.dataset.wanted = state.wanted;
  const alive = new Set(regions.asked().map((region) => region.id));
  for (const id of [...state.maps.keys()]) if (!alive.has(id)) forget(id);
  update();
  ask();
}

function forget(id) {
  state.maps.delete(id);
  state.doubts.delete(id);
}

// One request at a time, always for the newest state: answers can't overtake one another.
async function ask() {
  if (asking) return;
  asking = true;
  while (state.image && state.shown < state.wanted) {
    const { image, wanted } = state;
    try {
      await askOnce(image);
    } catch (error) {
      if (image === state.image) complain(error);
    }
    if (image === state.image) {
      state.shown = wanted;
      update();
      tellResult();
    }
  }
  asking = false;
}

async function askOnce(image) {
  const asked = regions.asked();
  if (asked.length === 0) return;
  const result = await withKey(image, (key) => predict(key, query(asked, threshold())));
  if (image !== state.image) return;
  const alive = new Set(regions.asked().map((region) => region.id));
  asked.forEach(({ id }, k) => {
    if (!alive.has(id)) return; // its marks were removed meanwhile
    state.maps.set(id, { width: result.width, height: result.height, values: result.planes[k] });
    state.doubts.set(id, result.doubts[k]);
  });
  complain(null);
}

// The server keeps the images used last: one that is gone is sent again.
async function withKey(image, action) {
  try {
    return await action(image.key);
  } catch (error) {
    if (error.code !== "gone" || image !== state.image) throw error;
    image.key = (await openImage(image.blob, image.ratio)).key;
    return action(image.key);
  }
}

// ---------------------------------------------------------------------------------- opening

function maskRatio() {
  return state.info.maskRatios[Number(at("ratio").value)];
}

// Runs one opening at a time; a newer one ends an older.
async function exclusively(action, fail = complain) {
  opening?.abort();
  const mine = new AbortController();
  opening = mine;
  complain(null);
  at("busy").hidden = false;
  try {
    await action(mine.signal, () => opening === mine);
  } catch (error) {
    if (opening === mine) fail(error);
  }
  if (opening === mine) at("busy").hidden = true;
}

function open(read, name, credit = "") {
  return exclusively(async (signal, isNewest) => {
    const blob = await read();
    if (blob.size > state.info.uploadBytes) {
      const most = state.info.uploadBytes / 1e6;
      throw new ApiError(`This file is too large: at most ${most} MB are accepted. Save it smaller.`);
    }
    const ratio = maskRatio();
    const opened = await openImage(blob, ratio, signal);
    const bitmap = await toBitmap(blob, opened);
    if (!isNewest()) return;
    const about = `${name}${credit && ` (${credit})`}, ${opened.width} × ${opened.height} pixels`;
    state.image = { ...opened, blob, name, about, bitmap, ratio };
    state.maps.clear();
    state.doubts.clear();
    regions.reset();
    state.cursor = opened.grid.map((length) => Math.floor((length - 1) / 2));
    state.hover = null;
    at("welcome").hidden = true;
    canvas.hidden = false;
    canvas.setAttribute("aria-label", `${name}: ${opened.grid[0]} rows and ${opened.grid[1]} columns of patches`);
    canvas.focus({ preventScroll: true });
    resize();
    changed();
  }, (error) => refuse(error, name));
}

function encodeAgain() {
  const before = state.image;
  if (!before || before.ratio === maskRatio()) return;
  exclusively(async (signal, isNewest) => {
    const ratio = maskRatio();
    const opened = await openImage(before.blob, ratio, signal);
    if (!isNewest()) return;
    state.image = { ...before, ...opened, ratio };
    changed();
  });
}

// As the server sees it: upright, and no larger than is drawn.
async function toBitmap(blob, { width, height }) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" });
  } catch {
    throw new ApiError("This browser cannot show the image. Save it as PNG or JPEG.");
  }
  if (bitmap.width !== width || bitmap.height !== height) {
    throw new ApiError("This browser turns the image another way than the server. Save it upright.");
  }
  const scale = LONGEST_BITMAP / Math.max(width, height);
  if (scale >= 1) return bitmap;
  return createImageBitmap(bitmap, {
    resizeWidth: Math.max(Math.round(width * scale), 1),
    resizeHeight: Math.max(Math.round(height * scale), 1),
    resizeQuality: "high",
  });
}

function openFiles(files, nothing) {
  const [file] = files;
  if (file) open(async () => file, file.name || "pasted image");
  else refuse(new ApiError(nothing), "It");
}

// ---------------------------------------------------------------------------------- downloads

async function save(kind, ending) {
  const { image } = state;
  const asked = regions.asked();
  const single = kind === "mask.png";
  const name = image.name.slice(0, 200);
  const wish = { ...query(asked, threshold()), name };
  if (single) wish.chosen = asked.indexOf(regions.current);
  try {
    const blob = await withKey(image, (key) => getFile(key, kind, wish));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${name.replace(/\.[a-z]+$/i, "")}_${single ? `region${regions.active + 1}` : "regions"}${ending}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    complain(null);
    say(`Saved as ${link.download}.`);
  } catch (error) {
    complain(error);
  }
}

// ------------------------------------------------------------------------------------ wiring

function wireButtons() {
  const move = (moved) => moved && changed();
  onClick("undo", () => move(regions.undo()));
  onClick("redo", () => move(regions.redo()));
  onClick("clear", () => move(regions.clear()));
  onClick("add", () => {
    move(regions.add());
    tellResult();
  });
  onClick("open", () => at("file").click());
  onClick("save-mask", () => save("mask.png", ".png"));
  onClick("save-labels", () => save("labels.png", "_labels.png"));
  onClick("save-regions", () => save("regions.json", ".json"));
  at("file").addEventListener("change", (event) => {
    if (event.target.files.length) openFiles(event.target.files);
    event.target.value = ""; // the same file can be chosen again
  });
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
    const key = event.key.toLowerCase();
    if (key !== "z" && key !== "y") return;
    event.preventDefault();
    move(key === "y" || event.shiftKey ? regions.redo() : regions.undo());
  });
}

function wireView() {
  for (const input of document.querySelectorAll('input[name="view"]')) input.addEventListener("change", update);
  at("grid").addEventListener("change", () => redraw(false));
  at("marks").addEventListener("change", () => redraw(false));
  let later = 0;
  const afterPause = (action) => {
    clearTimeout(later);
    later = setTimeout(action, 150);
  };
  at("threshold").addEventListener("input", () => {
    at("threshold-value").textContent = threshold().toFixed(2);
    redraw();
    afterPause(changed); // doubts depend on it
  });
  at("ratio").addEventListener("input", () => {
    showRatio();
    afterPause(encodeAgain);
  });
}

function showRatio() {
  const text = `${Math.round(100 * maskRatio())} %`;
  at("ratio-value").textContent = text;
  at("ratio").setAttribute("aria-valuetext", text);
}

function wireFiles() {
  let depth = 0;
  const highlight = (on) => document.body.classList.toggle("dropping", on);
  document.addEventListener("dragenter", () => highlight(++depth > 0));
  document.addEventListener("dragleave", () => highlight(--depth > 0));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    highlight(false);
    openFiles(event.dataTransfer.files, "Only image files can be dropped here.");
  });
  document.addEventListener("paste", (event) => {
    openFiles(event.clipboardData.files, "The clipboard has no image.");
  });
}

async function start() {
  regions = new Regions(1);
  regionList = new RegionList(at("regions"), {
    choose: (index) => {
      regions.active = index;
      update();
      tellResult();
    },
    remove: (index) => regions.remove(index) && changed(),
  });
  try {
    state.info = await getInfo();
  } catch (error) {
    complain(error);
    return;
  }
  const { info } = state;
  regions.most = info.regions;
  at("model").textContent = info.model;
  at("ratio").max = info.maskRatios.length - 1;
  at("ratio").value = Math.max(info.maskRatios.indexOf(info.maskRatio), 0);
  showRatio();
  listExamples(at("examples"), info.examples, (number, example) => {
    open(() => getExample(number), example.name, example.credit);
  });
  const announce = (text) => {
    at("cursor").textContent = text;
  };
  listenToCanvas(canvas, { state, painter, regions, chosen, redraw, changed, update, announce });
  wireButtons();
  wireView();
  wireFiles();
  new ResizeObserver(resize).observe(at("box"));
  window.addEventListener("resize", resize);
  update();
}

start();

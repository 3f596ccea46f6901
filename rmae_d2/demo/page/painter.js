// Draws the image, masks, marks and the patch grid, and says which patch lies under a point.

import { NOT_PART, PART } from "./regions.js";

const LONGEST = 1600; // of the canvas, in its own pixels
// Of probabilities: dark blue, violet, red, orange, light yellow.
const STOPS = [[13, 8, 84], [114, 26, 130], [205, 62, 78], [246, 145, 58], [252, 253, 191]];
const HEAT = Uint32Array.from({ length: 256 }, (_, value) => {
  const place = (value / 255) * (STOPS.length - 1);
  const k = Math.min(Math.floor(place), STOPS.length - 2);
  return word(STOPS[k].map((low, c) => low + (place - k) * (STOPS[k + 1][c] - low)), 190);
});

export class Painter {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.overlay = document.createElement("canvas");
    this.plane = document.createElement("canvas");
    this.scratch = document.createElement("canvas");
    this.reader = this.scratch.getContext("2d", { willReadFrequently: true });
  }

  // Fits the canvas into a box of CSS pixels, keeping the image's shape.
  fit(image, maxWidth, maxHeight) {
    const scale = Math.min(maxWidth / image.width, maxHeight / image.height);
    const width = Math.max(image.width * scale, 1);
    const height = Math.max(image.height * scale, 1);
    const dense = Math.min(window.devicePixelRatio || 1, LONGEST / Math.max(width, height));
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    this.canvas.width = Math.max(Math.round(width * dense), 1);
    this.canvas.height = Math.max(Math.round(height * dense), 1);
    this.unit = dense; // canvas pixels a CSS pixel
  }

  // The patch, [row, column], under a pointer, kept inside the image, and the place in it, [y, x] from 0 to 1.
  patchAt(event, [rows, columns]) {
    const box = this.canvas.getBoundingClientRect();
    const y = ((event.clientY - box.top) / box.height) * rows;
    const x = ((event.clientX - box.left) / box.width) * columns;
    const patch = [clamp(Math.floor(y), rows), clamp(Math.floor(x), columns)];
    return { patch, place: [within(y - patch[0]), within(x - patch[1])] };
  }

  // Masks or probabilities as a layer, which is kept until they change.
  prepare(scene) {
    const { overlay, canvas } = this;
    overlay.width = canvas.width;
    overlay.height = canvas.height;
    const { maps, current } = scene;
    if (scene.view === "probability") {
      if (maps.has(current.id)) this.#heat(maps.get(current.id));
    } else if (scene.view === "mask") {
      for (const region of currentLast(scene).filter(({ id }) => maps.has(id))) {
        this.#mask(maps.get(region.id), region.color, scene.threshold, region === current);
      }
    }
  }

  draw(scene) {
    const { context, canvas } = this;
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(scene.image.bitmap, 0, 0, canvas.width, canvas.height);
    if (scene.view === "image") {
      if (scene.cursor) this.#focus(scene.image.grid, scene.cursor);
      return;
    }
    this.#hidden(scene.image);
    context.drawImage(this.overlay, 0, 0);
    if (scene.showGrid) this.#lines(scene.image.grid);
    if (scene.showMarks) {
      for (const region of currentLast(scene)) {
        this.#marks(region, scene.image.grid, region === scene.current);
      }
      const { box } = scene.current;
      if (box) this.#box(scene.image.grid, { top: box[0][0], left: box[0][1], bottom: box[1][0], right: box[1][1] });
    }
    if (scene.hover) this.#frame(scene.image.grid, scene.hover, "rgba(255, 255, 255, 0.85)", 1.5);
    if (scene.box) this.#box(scene.image.grid, scene.box);
    if (scene.cursor) this.#focus(scene.image.grid, scene.cursor);
  }

  // A map scaled to the canvas: RGBA whose red is the probability * 256.
  #scaled(map) {
    const { plane, scratch, reader, canvas } = this;
    plane.width = map.width;
    plane.height = map.height;
    const pixels = new ImageData(map.width, map.height);
    const words = new Uint32Array(pixels.data.buffer);
    const [opaque, step] = [word([0, 0, 0], 255), word([1, 0, 0], 0)];
    for (let i = 0; i < words.length; i += 1) words[i] = opaque + map.values[i] * step;
    plane.getContext("2d").putImageData(pixels, 0, 0);
    scratch.width = canvas.width;
    scratch.height = canvas.height;
    reader.imageSmoothingEnabled = true;
    reader.drawImage(plane, 0, 0, scratch.width, scratch.height);
    return reader.getImageData(0, 0, scratch.width, scratch.height);
  }

  #mask(map, color, threshold, strong) {
    const pixels = this.#scaled(map);
    const { width, height, data } = pixels;
    const least = Math.ceil(threshold * 256);
    const inside = new Uint8Array(width * height);
    for (let i = 0; i < inside.length; i += 1) inside[i] = data[4 * i] >= least ? 1 : 0;
    const words = new Uint32Array(data.buffer);
    const [fill, line] = [strong ? 104 : 76, 255].map((alpha) => word(color, alpha));
    const edge = Math.max(Math.round((strong ? 2 : 1.25) * this.unit), 1);
    for (let y = 0, i = 0; y < height; y += 1) {
      const up = y >= edge ? -edge * width : 0;
      const down = y + edge < height ? edge * width : 0;
      for (let x = 0; x < width; x += 1, i += 1) {
        if (!inside[i]) {
          words[i] = 0;
          continue;
        }
        const left = x >= edge ? inside[i - edge] : 1;
        const right = x + edge < width ? inside[i + edge] : 1;
        words[i] = left && right && inside[i + up] && inside[i + down] ? fill : line;
      }
    }
    this.#lay(pixels);
  }

  #heat(map) {
    const pixels = this.#scaled(map);
    const words = new Uint32Array(pixels.data.buffer);
    for (let i = 0; i < words.length; i += 1) words[i] = HEAT[pixels.data[4 * i]];
    this.#lay(pixels);
  }

  // putImageData replaces; regions that overlap must both be seen.
  #lay(pixels) {
    this.reader.putImageData(pixels, 0, 0);
    this.overlay.getContext("2d").drawImage(this.scratch, 0, 0);
  }

  #hidden({ grid, hidden }) {
    this.context.fillStyle = "rgb(128, 128, 128)";
    for (const patch of hidden) this.context.fillRect(...this.#cell(grid, patch));
  }

  // x, y, width, height of a patch in whole canvas pixels, so that neighbours meet.
  #cell([rows, columns], [row, column]) {
    const { width, height } = this.canvas;
    const x = Math.round((column * width) / columns);
    const y = Math.round((row * height) / rows);
    const right = Math.round(((column + 1) * width) / columns);
    const bottom = Math.round(((row + 1) * height) / rows);
    return [x, y, right - x, bottom - y];
  }

  #lines([rows, columns]) {
    const { context, canvas } = this;
    context.beginPath();
    for (let i = 1; i < columns; i += 1) {
      const x = Math.round((i * canvas.width) / columns) + 0.5;
      context.moveTo(x, 0);
      context.lineTo(x, canvas.height);
    }
    for (let i = 1; i < rows; i += 1) {
      const y = Math.round((i * canvas.height) / rows) + 0.5;
      context.moveTo(0, y);
      context.lineTo(canvas.width, y);
    }
    context.lineWidth = 1;
    context.strokeStyle = "rgba(255, 255, 255, 0.3)";
    context.stroke();
  }

  #marks(region, grid, strong) {
    const { context } = this;
    const color = `rgb(${region.color.join(" ")})`;
    for (const [key, label] of region.marks) {
      const [x, y, width, height] = this.#cell(grid, key.split(",").map(Number));
      const most = (strong ? 11 : 6) * this.unit;
      const radius = Math.min(most, 0.38 * Math.min(width, height));
      const [down, right] = region.places.get(key) ?? [0.5, 0.5];
      const [cx, cy] = [x + width * right, y + height * down];
      context.beginPath();
      context.arc(cx, cy, radius, 0, 2 * Math.PI);
      context.fillStyle = label === PART ? color : "rgb(24, 26, 30)";
      context.fill();
      context.lineWidth = Math.max(0.16 * radius, 1);
      context.strokeStyle = label === PART ? "white" : color;
      context.stroke();
      context.beginPath();
      context.moveTo(cx - 0.5 * radius, cy);
      context.lineTo(cx + 0.5 * radius, cy);
      if (label !== NOT_PART) {
        context.moveTo(cx, cy - 0.5 * radius);
        context.lineTo(cx, cy + 0.5 * radius);
      }
      context.lineWidth = Math.max(0.24 * radius, 1);
      context.strokeStyle = "white";
      context.stroke();
    }
  }

  #frame(grid, patch, style, thickness) {
    const [x, y, width, height] = this.#cell(grid, patch);
    const { context } = this;
    context.lineWidth = thickness * this.unit;
    context.strokeStyle = style;
    const inset = context.lineWidth / 2;
    context.strokeRect(x + inset, y + inset, width - 2 * inset, height - 2 * inset);
  }

  #box(grid, { top, bottom, left, right }) {
    const [x, y] = this.#cell(grid, [top, left]);
    const [lastX, lastY, width, height] = this.#cell(grid, [bottom, right]);
    const { context } = this;
    for (const [style, thickness] of [["black", 4], ["white", 2]]) {
      context.lineWidth = thickness * this.unit;
      context.strokeStyle = style;
      context.strokeRect(x, y, lastX + width - x, lastY + height - y);
    }
  }

  // Seen on any picture: white with black inside.
  #focus(grid, patch) {
    this.#frame(grid, patch, "black", 5);
    this.#frame(grid, patch, "white", 3);
  }
}

// Share of a map's pixels in the mask.
export function share(map, threshold) {
  const least = Math.ceil(threshold * 256);
  let inside = 0;
  for (const value of map.values) inside += value >= least;
  return inside / map.values.length;
}

// In the order of drawing: the chosen region lies over the others.
function currentLast({ regions, current }) {
  return [...regions.filter((region) => region !== current), current];
}

// A pixel as one number, bytes in memory's order.
function word(color, alpha) {
  return new Uint32Array(Uint8Array.of(...color, alpha).buffer)[0];
}

function within(place) {
  return Math.min(Math.max(place, 0), 0.999);
}

function clamp(index, length) {
  return Math.min(Math.max(index, 0), length - 1);
}

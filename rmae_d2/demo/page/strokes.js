// Marks set by mouse, pen, finger and keys.

import { NONE, NOT_PART, PART } from "./regions.js";

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const LABELS = {
  Enter: PART, " ": PART, n: NOT_PART, N: NOT_PART, "-": NOT_PART, "−": NOT_PART,
  Delete: NONE, Backspace: NONE,
};
const WORDS = { [PART]: "part", [NOT_PART]: "not part", [NONE]: "no mark" };

export function listenToCanvas(canvas, page) {
  listenToPointer(canvas, page);
  listenToKeys(canvas, page);
}

function listenToPointer(canvas, { state, painter, regions, chosen, redraw, changed, update }) {
  let stroke = null; // {blob, label, last} of a brush, {blob, first, last} of a box

  const begin = (event) => {
    if (stroke || !state.image || (event.button !== 0 && event.button !== 2)) return;
    event.preventDefault();
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    state.keyboard = false;
    const { patch, place } = painter.patchAt(event, state.image.grid);
    const negative = event.button === 2 || event.shiftKey;
    const { blob } = state.image;
    regions.begin();
    if (chosen("brush") === "box" && !negative) {
      stroke = { blob, first: patch, last: patch };
      showBox();
      return;
    }
    let label = negative ? NOT_PART : Number(chosen("brush")) || NONE;
    if (regions.get(...patch) === label) label = NONE; // a second click takes the mark away
    stroke = { blob, label, last: patch };
    mark([patch], place);
  };

  const showBox = () => {
    state.box = stroke?.first ? corners(stroke.first, stroke.last) : null;
    redraw(false);
  };

  // The last patch is the pointer's; those on the way to it are marked in their middle.
  const mark = (patches, place) => {
    let any = false;
    patches.forEach(([row, column], i) => {
      any = regions.set(row, column, stroke.label, i === patches.length - 1 ? place : undefined) || any;
    });
    if (any) changed();
  };

  const move = (event) => {
    if (!state.image) return;
    const { patch, place } = painter.patchAt(event, state.image.grid);
    if (stroke && stroke.blob !== state.image.blob) end(); // another image was opened meanwhile
    if (stroke) {
      const { last } = stroke;
      stroke.last = patch;
      if (stroke.first) showBox();
      else mark(line(last, patch), place);
    }
    if (String(patch) !== String(state.hover)) {
      state.hover = event.pointerType === "touch" ? null : patch;
      redraw(false);
    }
  };

  const end = () => {
    if (!stroke) return;
    const { box } = state;
    const sameImage = stroke.blob === state.image.blob;
    stroke = null;
    if (box) showBox();
    if (box && sameImage) {
      markBox(regions, box, state.image.grid);
      changed();
    }
    if (regions.end()) update(); // undo is possible from now on
  };

  canvas.addEventListener("pointerdown", begin);
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("pointerleave", () => {
    state.hover = null;
    redraw(false);
  });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
}

function listenToKeys(canvas, { state, regions, redraw, changed, announce }) {
  const tell = () => {
    const [row, column] = state.cursor;
    announce(`Row ${row + 1}, column ${column + 1}: ${WORDS[regions.get(row, column)]}`);
  };

  canvas.addEventListener("keydown", (event) => {
    if (!state.image || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = MOVES[event.key];
    const label = LABELS[event.key];
    if (step) {
      state.cursor = state.cursor.map((place, i) =>
        Math.min(Math.max(place + step[i], 0), state.image.grid[i] - 1),
      );
    } else if (label === undefined) {
      return;
    } else if (regions.change(() => regions.set(...state.cursor, label))) {
      changed();
    }
    event.preventDefault();
    state.keyboard = true;
    tell();
    redraw(false);
  });
  canvas.addEventListener("focus", () => {
    state.keyboard = canvas.matches(":focus-visible");
    redraw(false);
  });
  canvas.addEventListener("blur", () => redraw(false));
}

function corners([row, column], [otherRow, otherColumn]) {
  const [top, bottom] = [Math.min(row, otherRow), Math.max(row, otherRow)];
  const [left, right] = [Math.min(column, otherColumn), Math.max(column, otherColumn)];
  return { top, bottom, left, right };
}

// The patch in its middle is part, those around it are not, and the mask ends there.
function markBox(regions, { top, bottom, left, right }, [rows, columns]) {
  for (let row = Math.max(top - 1, 0); row <= Math.min(bottom + 1, rows - 1); row += 1) {
    for (let column = Math.max(left - 1, 0); column <= Math.min(right + 1, columns - 1); column += 1) {
      const inside = row >= top && row <= bottom && column >= left && column <= right;
      if (!inside) regions.set(row, column, NOT_PART, null); // all of it
    }
  }
  regions.set((top + bottom) >> 1, (left + right) >> 1, PART);
  regions.current.box = [[top, left], [bottom, right]];
}

// Every patch between two, so that a fast stroke has no gaps.
function line([row, column], [lastRow, lastColumn]) {
  const steps = Math.max(Math.abs(lastRow - row), Math.abs(lastColumn - column), 1);
  return Array.from({ length: steps }, (_, i) => [
    Math.round(row + ((i + 1) * (lastRow - row)) / steps),
    Math.round(column + ((i + 1) * (lastColumn - column)) / steps),
  ]);
}

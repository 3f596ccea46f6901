// What the user has marked: regions, each with patches that are part of it (1) or not (-1); undo and redo.
// A mark has a place in its patch, [y, x] from 0 to 1, or is of the whole patch (null).

export const PART = 1;
export const NOT_PART = -1;
export const NONE = 0;
const MIDDLE = [0.5, 0.5];

const COLORS = [
  [38, 132, 255], [255, 122, 26], [30, 180, 90], [230, 62, 140],
  [150, 110, 255], [240, 196, 20], [20, 190, 205], [225, 52, 44],
];

export class Regions {
  constructor(most) {
    this.most = most;
    this.reset();
  }

  reset() {
    this.list = [];
    this.serial = 0;
    this.undone = [];
    this.done = [];
    this.before = null;
    this.list.push(this.#fresh());
    this.active = 0;
  }

  #fresh() {
    const used = new Set(this.list.map((region) => region.color));
    const color = COLORS.find((c) => !used.has(c)) || COLORS[this.serial % COLORS.length];
    return { id: ++this.serial, color, marks: new Map(), places: new Map(), box: null }; // box: its first and last patch
  }

  get current() {
    return this.list[this.active];
  }

  // Changes between begin and end are undone together, such as a brush stroke.
  begin() {
    this.before = this.#snapshot();
  }

  end() {
    const { before } = this;
    this.before = null;
    if (before === null || before.text === this.#snapshot().text) return false;
    this.done.push(before);
    this.undone = [];
    return true;
  }

  get(row, column) {
    return this.current.marks.get(`${row},${column}`) ?? NONE;
  }

  // Returns whether anything changed.
  set(row, column, label, place = MIDDLE) {
    if (this.get(row, column) === label) return false;
    const { marks, places } = this.current;
    const key = `${row},${column}`;
    if (label === NONE) {
      marks.delete(key);
      places.delete(key);
    } else {
      marks.set(key, label);
      places.set(key, place);
    }
    if (marks.size === 0) this.current.box = null;
    return true;
  }

  change(action) {
    this.begin();
    action();
    return this.end();
  }

  clear() {
    return this.change(() => {
      this.current.marks.clear();
      this.current.places.clear();
      this.current.box = null;
    });
  }

  add() {
    if (this.list.length >= this.most) return false;
    return this.change(() => {
      this.list.push(this.#fresh());
      this.active = this.list.length - 1;
    });
  }

  remove(index) {
    return this.change(() => {
      this.list.splice(index, 1);
      if (this.list.length === 0) this.list.push(this.#fresh());
      if (index < this.active) this.active -= 1;
      this.active = Math.min(this.active, this.list.length - 1);
    });
  }

  undo() {
    return this.#move(this.done, this.undone);
  }

  redo() {
    return this.#move(this.undone, this.done);
  }

  #move(from, to) {
    if (from.length === 0) return false;
    to.push(this.#snapshot());
    const { list, active } = from.pop();
    this.list = list;
    this.active = active;
    return true;
  }

  #snapshot() {
    const list = this.list.map((region) => ({
      ...region, marks: new Map(region.marks), places: new Map(region.places),
    }));
    const text = JSON.stringify(list.map((region) => [region.id, region.box, [...region.marks].sort()]));
    return { list, active: this.active, text };
  }

  // The regions that can be predicted, and what the server is asked of them.
  asked() {
    return this.list.filter((region) => count(region, PART) > 0);
  }
}

export function count(region, label) {
  let found = 0;
  for (const value of region.marks.values()) found += value === label;
  return found;
}

export function query(regions, threshold) {
  const patches = (region, label) =>
    [...region.marks].filter(([, value]) => value === label)
      .map(([key]) => [...key.split(",").map(Number), ...(region.places.get(key) ?? [])]);
  return {
    regions: regions.map((region) => ({
      positive: patches(region, PART),
      negative: patches(region, NOT_PART),
      box: region.box,
    })),
    threshold,
  };
}

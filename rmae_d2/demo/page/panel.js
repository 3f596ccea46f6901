// The lists beside the image: regions and examples.

import { NOT_PART, PART, count } from "./regions.js";

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

// Rows are kept, not made anew: the one with the focus must not lose it.
export class RegionList {
  constructor(list, { choose, remove }) {
    this.list = list;
    this.actions = { choose, remove };
    this.rows = new Map();
  }

  show(regions, doubts) {
    const alive = new Set(regions.list.map((region) => region.id));
    for (const [id, row] of this.rows) {
      if (!alive.has(id)) {
        row.item.remove();
        this.rows.delete(id);
      }
    }
    regions.list.forEach((region, index) => {
      const row = this.rows.get(region.id) || this.#row(region);
      row.index = index;
      const name = `Region ${index + 1}`;
      row.name.textContent = name;
      const doubt = doubts.get(region.id);
      row.detail.textContent = describe(region, doubt);
      row.detail.title = doubt || "";
      row.choose.setAttribute("aria-pressed", String(index === regions.active));
      row.remove.setAttribute("aria-label", `Remove ${name}`);
      if (this.list.children[index] !== row.item) {
        this.list.insertBefore(row.item, this.list.children[index] || null);
      }
    });
  }

  #row(region) {
    const item = element("li", "");
    const choose = element("button", "region");
    const swatch = element("span", "swatch");
    const [name, detail] = [element("span", "name"), element("span", "detail")];
    const remove = element("button", "remove", "×");
    swatch.style.backgroundColor = `rgb(${region.color.join(" ")})`;
    choose.type = remove.type = "button";
    choose.append(swatch, name, detail);
    item.append(choose, remove);
    const row = { item, choose, remove, name, detail, index: 0 };
    choose.addEventListener("click", () => this.actions.choose(row.index));
    remove.addEventListener("click", () => this.actions.remove(row.index));
    this.rows.set(region.id, row);
    return row;
  }
}

function describe(region, doubt) {
  const [part, not] = [count(region, PART), count(region, NOT_PART)];
  if (part === 0 && not === 0) return "no marks yet";
  const marks = not ? `+${part} −${not}` : `+${part}`;
  return doubt ? `${marks} · doubtful` : marks;
}

export function listExamples(list, examples, choose) {
  examples.forEach((example, number) => {
    const item = element("li", "");
    const button = element("button", "example");
    const picture = element("img", "");
    picture.src = `api/examples/${number}/thumbnail`;
    picture.alt = "";
    button.type = "button";
    button.title = [example.name, example.credit].filter(Boolean).join(": ");
    button.append(picture, element("span", "", example.name));
    button.addEventListener("click", () => choose(number, example));
    item.append(button);
    list.append(item);
  });
}

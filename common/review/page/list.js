// The list of registrations: filtered, sorted, one button each.

export const SIGNS = { ok: "✓", suspect: "?", failed: "✗" };
export const CHOICES = { accept: "accepted", reject: "rejected", "second look": "second look" };
const SEVERITY = ["failed", "suspect", "ok"];

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export function badge(code) {
  const sign = element("span", { "aria-hidden": "true" }, SIGNS[code]);
  return element("span", { class: `badge ${code}` }, sign, ` ${code}`);
}

export class List {
  constructor(root, onChoice) {
    this.root = root;
    this.items = new Map();
    this.onChoice = onChoice;
    this.filters = {
      search: document.getElementById("search"),
      failed: document.getElementById("f-failed"),
      suspect: document.getElementById("f-suspect"),
      ok: document.getElementById("f-ok"),
      open: document.getElementById("f-open"),
      sort: document.getElementById("sort"),
    };
    for (const filter of Object.values(this.filters)) {
      filter.addEventListener("input", () => this.show());
    }
    root.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) onChoice(button.dataset.id);
    });
  }

  set(items) {
    this.items = new Map(items.map((item) => [item.id, item]));
    this.show();
  }

  update(item) {
    this.items.set(item.id, item);
    const old = this.root.querySelector(`[data-id="${item.id}"]`);
    if (old) old.parentElement.replaceWith(this.row(item));
  }

  get shown() {
    const { search, open, sort } = this.filters;
    const words = search.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    const kept = [...this.items.values()].filter((item) => {
      const text = [...item.name, item.bone, item.xray, item.side].join(" ").toLowerCase();
      if (!this.filters[item.verdict.verdict].checked) return false;
      if (open.checked && item.decision && !item.draft && item.id !== this.current) return false;
      return words.every((word) => text.includes(word));
    });
    const byName = (a, b) => a.name.join("/").localeCompare(b.name.join("/"), undefined, { numeric: true });
    const doubt = (item) => SEVERITY.indexOf(item.verdict.verdict) + Math.max(0, item.verdict.similarity);
    return kept.sort(sort.value === "name" ? byName : (a, b) => doubt(a) - doubt(b) || byName(a, b));
  }

  show() {
    this.root.replaceChildren(...this.shown.map((item) => this.row(item)));
    if (!this.root.children.length) this.root.append(element("li", { class: "none" }, "Nothing here: change the filters."));
  }

  row(item) {
    const { verdict } = item;
    const marks = [];
    if (item.draft) {
      const [kind, words] = item.draft.by === "tracking" ? ["changed", "changed"] : ["unsaved", "not decided"];
      marks.push(element("span", { class: `mark ${kind}` }, words));
    }
    if (item.key) marks.push(element("span", { class: "mark key" }, "key"));
    if (item.corrected_by) marks.push(element("span", { class: "mark" }, `set by ${item.corrected_by}`));
    if (item.decision) {
      const { choice } = item.decision;
      marks.push(element("span", { class: `mark ${choice.replace(" ", "-")}` }, CHOICES[choice]));
    }
    for (const other of item.others) marks.push(element("span", { class: "mark" }, `${other.reviewer}: ${CHOICES[other.choice]}`));
    const button = element(
      "button",
      { type: "button", "data-id": item.id, ...(item.id === this.current ? { "aria-current": "true" } : {}) },
      element("span", { class: "name" }, item.name.join(" / ")),
      element("span", { class: "line" }, badge(verdict.verdict), ` ${[item.side, item.bone].filter(Boolean).join(" ")}`,
        element("span", { class: "number" }, `${verdict.similarity.toFixed(2)}`)),
      ...(marks.length ? [element("span", { class: "line" }, ...marks)] : [])
    );
    return element("li", {}, button);
  }

  choose(id) {
    this.root.querySelector("[aria-current]")?.removeAttribute("aria-current");
    this.current = id;
    const button = this.root.querySelector(`[data-id="${id}"]`);
    button?.setAttribute("aria-current", "true");
    button?.scrollIntoView({ block: "nearest" });
  }

  // in the order on the page, which does not change while decisions change the doubt
  get order() {
    return [...this.root.querySelectorAll("button")].map((button) => button.dataset.id);
  }

  beside(id, step) {
    const { order } = this;
    return order[Math.min(order.length - 1, Math.max(0, order.indexOf(id) + step))];
  }

  // the next one without a decision, after the current one or from the top
  nextOpen(id) {
    const { order } = this;
    const at = order.indexOf(id);
    const round = [...order.slice(at + 1), ...order.slice(0, Math.max(0, at))];
    return round.find((each) => !this.items.get(each).decision);
  }

  get reviewed() {
    return [...this.items.values()].filter((item) => item.decision).length;
  }
}

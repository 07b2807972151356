// The frames of a sequence: similarity as a curve, verdicts, keys, what changed, and playing.

import { SIGNS, element } from "./list.js";

const SVG = "http://www.w3.org/2000/svg";
const PLAY_MS = 160;

// the verdict of a frame as it is shown: of its draft, if the solver has judged that
function shownOf(item) {
  return { verdict: item.draft?.verdict ?? item.verdict, tracked: item.draft?.by === "tracking" };
}

export class Strip {
  // host: { items, current, choose(id), toggleKey(), track(), saveChanged() }
  constructor(root, host) {
    this.root = root;
    this.host = host;
    this.frames = [];
    this.state = element("p", { id: "strip-state", role: "status" });
    this.play = element("button", { type: "button", id: "play", "aria-pressed": "false" }, "Play");
    this.key = element("button", { type: "button", id: "key" }, "Key pose ", element("kbd", {}, "K"));
    this.track = element("button", { type: "button", id: "track" }, "Track between keys");
    this.all = element("button", { type: "button", id: "accept-changed" }, "Accept changed");
    const tools = element("div", { class: "buttons" }, this.play, this.key, this.track, this.all, this.state);
    this.curve = document.createElementNS(SVG, "svg");
    this.curve.setAttribute("role", "img");
    this.curve.setAttribute("preserveAspectRatio", "none");
    this.row = element("div", { class: "frames", role: "group", "aria-label": "Frames" });
    root.append(tools, this.curve, this.row);
    this.play.addEventListener("click", () => this.setPlaying(!this.playing));
    this.key.addEventListener("click", () => host.toggleKey());
    this.track.addEventListener("click", () => host.track());
    this.all.addEventListener("click", () => host.acceptChanged(this.changed));
    this.row.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) host.choose(button.dataset.frame);
    });
  }

  get changed() {
    return this.frames.filter((id) => this.host.items.get(id)?.draft?.by === "tracking");
  }

  set(frames) {
    const same = frames.length === this.frames.length && frames.every((id, n) => id === this.frames[n]);
    this.frames = frames;
    this.root.hidden = frames.length < 2;
    if (this.root.hidden) this.setPlaying(false);
    if (!same) this.row.replaceChildren(...frames.map((id, number) => this.button(id, number)));
    this.show();
  }

  button(id, number) {
    return element("button", { type: "button", "data-frame": id }, `${number + 1}`);
  }

  show() {
    if (this.root.hidden) return;
    const { items, current } = this.host;
    const marks = { key: 0, changed: 0 };
    for (const button of this.row.children) {
      const item = items.get(button.dataset.frame);
      const { verdict, tracked } = shownOf(item);
      button.className = [verdict.verdict, item.key && "key", tracked && "changed", item.decision && "decided"]
        .filter(Boolean)
        .join(" ");
      const states = [item.key && "key pose", tracked ? "changed" : item.draft && "unsaved", item.decision?.choice].filter(Boolean);
      const label = `Frame ${button.textContent}: ${verdict.verdict}, similarity ${verdict.similarity.toFixed(2)}`;
      button.setAttribute("aria-label", [label, ...states].join(", "));
      button.title = [label, ...states].join(", ");
      button.dataset.sign = SIGNS[verdict.verdict];
      if (item.id === current) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
      marks.key += item.key ? 1 : 0;
      marks.changed += tracked ? 1 : 0;
    }
    this.all.disabled = !marks.changed;
    this.all.textContent = marks.changed ? `Accept ${marks.changed} changed` : "Accept changed";
    this.track.disabled = marks.key < 2 || this.busy;
    this.key.setAttribute("aria-pressed", items.get(current)?.key ? "true" : "false");
    this.draw();
  }

  // similarity of each frame, before and after
  draw() {
    const { items, current } = this.host;
    const [width, height] = [this.frames.length * 10, 44];
    this.curve.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const y = (value) => height - 4 - Math.max(0, Math.min(1, value)) * (height - 8);
    const line = (pick, name) => {
      const points = this.frames.map((id, n) => `${n ? "L" : "M"}${n * 10 + 5} ${y(pick(items.get(id)))}`);
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("d", points.join(""));
      path.setAttribute("class", name);
      return path;
    };
    const at = this.frames.indexOf(current) * 10 + 5;
    const cursor = document.createElementNS(SVG, "path");
    cursor.setAttribute("d", `M${at} 0V${height}`);
    cursor.setAttribute("class", "cursor");
    const limit = document.createElementNS(SVG, "path");
    limit.setAttribute("d", `M0 ${y(0.75)}H${width}`);
    limit.setAttribute("class", "limit");
    const parts = [limit, line((item) => item.verdict.similarity, "before")];
    if (this.changed.length) parts.push(line((item) => shownOf(item).verdict.similarity, "after"));
    this.curve.replaceChildren(...parts, cursor);
    const values = this.frames.map((id) => shownOf(items.get(id)).verdict.similarity);
    const lowest = Math.min(...values);
    this.curve.setAttribute(
      "aria-label",
      `Similarity of ${values.length} frames, lowest ${lowest.toFixed(2)} in frame ${values.indexOf(lowest) + 1}`
    );
  }

  beside(id, step) {
    const at = this.frames.indexOf(id) + step;
    return this.frames[Math.min(this.frames.length - 1, Math.max(0, at))];
  }

  setPlaying(playing) {
    this.playing = playing;
    this.play.textContent = playing ? "Stop" : "Play";
    this.play.setAttribute("aria-pressed", String(playing));
    if (playing) this.step();
  }

  async step() {
    if (!this.playing || this.root.hidden) return;
    const began = performance.now();
    const at = this.frames.indexOf(this.host.current);
    await this.host.choose(this.frames[(at + 1) % this.frames.length], true);
    setTimeout(() => this.step(), Math.max(0, PLAY_MS - (performance.now() - began)));
  }
}

// The pictures of a result, one per view, with dragging, the wheel and the handles.

import { Picture } from "./picture.js";
import { element } from "./list.js";
import { projected, shifted, turned } from "./pose.js";

const SVG = "http://www.w3.org/2000/svg";
const RING_PX = 64;
const DEPTH_PER_NOTCH_MM = 2;
const DEGREES_PER_PIXEL = 0.25;

// large screens have large texts, and lines and handles to match
export function screenUnit() {
  return parseFloat(getComputedStyle(document.documentElement).fontSize) / 14;
}

export class View {
  // host: { pose, centre, editable, tool, nudge(pose, done), focus(view) }
  constructor(number, view, host) {
    Object.assign(this, { number, view, host });
    this.canvas = element("canvas", {});
    this.overlay = document.createElementNS(SVG, "svg");
    this.overlay.setAttribute("aria-hidden", "true");
    this.overlay.innerHTML =
      `<g class="neighbours"></g><g class="handles"><circle class="grip" r="${RING_PX}"/>` +
      `<circle class="ring" r="${RING_PX}"/><circle class="ball" r="11"/>` +
      `<path class="axes" d="M-22 0H-14M14 0H22M0 -22V-14M0 14V22"/></g>` +
      `<g class="scale"><path/><text/></g>`;
    this.caption = element("figcaption", {});
    this.figure = element("figure", { tabindex: "0", role: "group" }, this.canvas, this.overlay, this.caption);
    this.picture = new Picture(this.canvas, this.overlay);
    this.picture.setView(view);
    this.show(view);
    this.picture.onpaint = () => this.placeHandles();
    this.listen();
  }

  // another X-ray of the same size, with the window, zoom and pan as they are
  show(view) {
    this.view = view;
    this.picture.view = view;
    if (view.window && !this.windowed) this.picture.setView(view);
    this.windowed ||= Boolean(view.window);
    const flipped = view.flipped ? ", flipped left to right" : "";
    this.caption.textContent = `${view.name} · ${view.width} × ${view.height}${flipped}`;
    this.figure.setAttribute("aria-label", `View ${this.number + 1}: ${view.name}${flipped}. Arrow keys move the bone.`);
  }

  listen() {
    const { figure } = this;
    figure.addEventListener("pointerdown", (event) => this.press(event));
    figure.addEventListener("contextmenu", (event) => event.preventDefault());
    figure.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    figure.addEventListener("focus", () => this.host.focus(this));
    figure.addEventListener("dblclick", () => this.picture.fit());
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  // what a drag that begins here does
  action(event) {
    if (event.button === 1) return "pan";
    if (event.button === 2) return "window";
    if (event.button !== 0) return null;
    const part = event.target.closest?.(".grip, .ring, .ball");
    if (part && this.host.editable) return part.classList.contains("ball") ? "tilt" : "spin";
    if (this.host.tool === "view") return event.shiftKey ? "pan" : "window";
    if (!this.host.editable) return "pan";
    return this.host.tool === "turn" ? "tilt" : "move";
  }

  press(event) {
    const action = this.action(event);
    if (!action) return;
    event.preventDefault();
    this.figure.focus({ preventScroll: true });
    this.host.focus(this);
    this.figure.setPointerCapture(event.pointerId);
    let last = this.at(event);
    const edits = ["move", "tilt", "spin"].includes(action);
    const move = (each) => {
      const now = this.at(each);
      this.drag(action, last, now);
      last = now;
    };
    const end = () => {
      this.figure.removeEventListener("pointermove", move);
      this.figure.removeEventListener("pointerup", end);
      this.figure.removeEventListener("pointercancel", end);
      this.picture.setDragged(false);
      if (edits) this.host.nudge(this.host.pose, true);
    };
    this.picture.setDragged(edits);
    if (edits) this.host.begin();
    this.figure.addEventListener("pointermove", move);
    this.figure.addEventListener("pointerup", end);
    this.figure.addEventListener("pointercancel", end);
  }

  drag(action, last, now) {
    const [dx, dy] = [now[0] - last[0], now[1] - last[1]];
    const { picture, host, view } = this;
    if (action === "pan") {
      picture.pan = [picture.pan[0] + dx, picture.pan[1] + dy];
      picture.draw();
    } else if (action === "window") {
      picture.changeWindow(dx, dy);
    } else if (action === "move") {
      const { mmPerPixel } = projected(host.pose, view, host.centre);
      const { scale } = picture.place();
      host.nudge(shifted(host.pose, view, [(dx / scale) * mmPerPixel[0], (dy / scale) * mmPerPixel[1], 0]));
    } else if (action === "tilt") {
      // the side of the bone that faces the source follows the pointer
      let pose = turned(host.pose, view, host.centre, [0, -1, 0], dx * DEGREES_PER_PIXEL);
      pose = turned(pose, view, host.centre, [1, 0, 0], dy * DEGREES_PER_PIXEL);
      host.nudge(pose);
    } else if (action === "spin") {
      const { column, row } = projected(host.pose, view, host.centre);
      const [x, y] = picture.toScreen(column, row);
      const angle = ([px, py]) => (Math.atan2(py - y, px - x) * 180) / Math.PI;
      const step = ((angle(now) - angle(last) + 540) % 360) - 180;
      host.nudge(turned(host.pose, view, host.centre, [0, 0, 1], step));
    }
  }

  wheel(event) {
    event.preventDefault();
    const notches = event.deltaY / (event.deltaMode === 0 ? 100 : 3);
    const { host } = this;
    if (event.ctrlKey || host.tool === "view" || !host.editable) {
      this.picture.zoomAt(...this.at(event), Math.exp(-notches * 0.2));
      host.zoomed?.();
      return;
    }
    host.focus(this);
    host.begin("wheel");
    host.nudge(shifted(host.pose, this.view, [0, 0, notches * DEPTH_PER_NOTCH_MM]), true);
  }

  placeHandles() {
    const { host, picture, view, overlay } = this;
    const handles = overlay.querySelector(".handles");
    handles.toggleAttribute("hidden", !host.editable || !host.handles);
    if (host.pose && view.sdd_mm) {
      const { column, row, mmPerPixel } = projected(host.pose, view, host.centre);
      const [x, y] = picture.toScreen(column, row);
      handles.setAttribute("transform", `translate(${x} ${y}) scale(${screenUnit()})`);
      this.placeScale(mmPerPixel[0] / picture.place().scale);
    }
  }

  // a scale bar of a round length, at the depth of the bone
  placeScale(mmPerScreenPixel) {
    const most = this.canvas.clientWidth / 4;
    const power = 10 ** Math.floor(Math.log10(most * mmPerScreenPixel));
    const length = [5, 2, 1].map((step) => step * power).find((mm) => mm / mmPerScreenPixel <= most);
    const bottom = this.canvas.clientHeight - 14;
    this.overlay.querySelector(".scale path").setAttribute("d", `M14 ${bottom}h${length / mmPerScreenPixel}`);
    const text = this.overlay.querySelector(".scale text");
    text.setAttribute("x", 14);
    text.setAttribute("y", bottom - 6);
    text.textContent = `${length} mm`;
  }

  // keys in the axes of this view; returns the new pose, or null
  key(event, turning) {
    const step = event.shiftKey ? 1 : 0.1;
    const { pose, centre } = this.host;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const arrow = arrows[event.key];
    if (arrow && (turning || event.ctrlKey)) {
      const axis = arrow[0] ? [0, -1, 0] : [1, 0, 0];
      return turned(pose, this.view, centre, axis, step * (arrow[0] || arrow[1]));
    }
    if (arrow) return shifted(pose, this.view, [arrow[0] * step, arrow[1] * step, 0]);
    if (event.key === "PageUp" || event.key === "PageDown") {
      return shifted(pose, this.view, [0, 0, event.key === "PageUp" ? -step : step]);
    }
    const spin = { ",": -1, "<": -1, ".": 1, ">": 1 }[event.key];
    if (spin) return turned(pose, this.view, centre, [0, 0, 1], spin * step);
    return null;
  }
}

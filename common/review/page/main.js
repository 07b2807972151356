// The review page: the list, the pictures, the pose and the decision, wired to the server.

import { Keeper } from "./keep.js";
import { Line, get, picture, post } from "./link.js";
import { CHOICES, List, badge, element } from "./list.js";
import { difference, same } from "./pose.js";
import { Scene } from "./scene.js";
import { Strip } from "./strip.js";
import { View } from "./view.js";

const DRAG_PX = 256; // longest side of a DRR while the bone moves
const STILL_MS = 140; // after which the DRR is rendered fully
const FLICKER_MS = 450;
const GLANCE_MS = 300; // after which the saved pictures are shown while the CT is opened
const id = (name) => document.getElementById(name);

const state = {
  item: null, // as the server described it
  pose: null,
  start: null, // the pose that a person set, if the solver went on from it
  undo: [],
  redo: [],
  views: [],
  number: 0, // of the last picture asked for
  rival: 0,
  asked: new Map(), // what the solver is doing, by number
};
let overview, list, strip, line, scene, flicker, still, loading, couldNotKeep;
const keeper = new Keeper(() => state, (content) => line.send(content));

// ------------------------------------------------------------------------------------ messages

function say(text) {
  id("said").textContent = text;
}

function banner(key, text, kind = "problem") {
  const old = [...id("banners").children].find((each) => each.dataset.key === key);
  old?.remove();
  if (!text) return;
  const close = element("button", { type: "button", "aria-label": "Close" }, "×");
  const made = element("p", { class: `banner ${kind}`, role: "alert", "data-key": key }, text, close);
  close.addEventListener("click", () => made.remove());
  id("banners").append(made);
}

// --------------------------------------------------------------------------------------- pose

const host = {
  get pose() { return state.pose; },
  get centre() { return state.item?.centre_mm; },
  get editable() { return Boolean(state.pose); },
  get tool() { return document.querySelector("[name=tool]:checked").value; },
  get handles() { return id("handles").checked; },
  focus(view) { state.active = view; },
  begin(kind) { begin(kind); },
  nudge(pose, done) { setPose(pose, done); },
  zoomed() { renderWhenStill(); },
};

// remember the pose before a change; changes of one kind in a row are one step
function begin(kind) {
  const now = performance.now();
  if (kind && kind === state.kind && now - state.since < 800) {
    state.since = now;
    return;
  }
  state.kind = kind;
  state.since = now;
  state.undo.push({ pose: state.pose, start: state.start, verdict: state.verdict });
  state.redo = [];
}

function setPose(pose, done = false, start = null, verdict = null) {
  state.pose = pose;
  state.start = start;
  state.verdict = verdict;
  render(DRAG_PX);
  keeper.later();
  scene?.setPose(state.item.id, pose);
  for (const view of state.views) view.placeHandles();
  showPose();
  if (done) renderWhenStill();
}

function render(px) {
  if (!state.pose) return;
  state.number += 1;
  line.send({ type: "render", item: state.item.id, pose: state.pose, px, number: state.number });
  clearTimeout(still);
  if (px === DRAG_PX) renderWhenStill();
}

function renderWhenStill() {
  clearTimeout(still);
  still = setTimeout(() => {
    const useful = Math.max(...state.views.map((view) => view.picture.usefulPixels()));
    if (useful > DRAG_PX) render(useful);
  }, STILL_MS);
}

function step(from, to) {
  const last = from.pop();
  if (!last) return;
  to.push({ pose: state.pose, start: state.start, verdict: state.verdict });
  state.kind = null;
  setPose(last.pose, true, last.start, last.verdict);
}

const changed = () => Boolean(state.pose) && !same(state.pose, state.item.stored);

function showPose() {
  const { item } = state;
  id("undo").disabled = !state.undo.length;
  id("redo").disabled = !state.redo.length;
  for (const name of ["refine", "search-again", "reset"]) id(name).disabled = !state.pose;
  id("next-best").disabled = !item.rivals?.length;
  id("reset").disabled = !changed();
  if (!state.pose) {
    id("moved").textContent = item.glance
      ? "The CT is being opened: look, and decide if you can."
      : "This pose can be looked at and decided on, not moved.";
    return;
  }
  if (!changed()) {
    id("moved").textContent = "As stored.";
  } else {
    const away = difference(state.pose, item.stored, item.views[0], item.centre_mm);
    id("moved").textContent =
      `Changed: ${away.inPlane.toFixed(2)} mm in plane, ${away.depth.toFixed(1)} mm in depth, ` +
      `${away.degrees.toFixed(2)}° from the stored pose.`;
  }
  showVerdict();
}

function showVerdict() {
  const { item } = state;
  const verdict = changed() ? state.verdict : item.verdict;
  const box = id("verdict");
  if (!verdict) {
    const words = state.asked.size ? "The verdict follows …" : "Moved by hand: refine it, or accept it as it is.";
    box.replaceChildren(element("p", { class: "hint" }, words));
    return;
  }
  // 95 % bounds where the verdict states them, else standard deviations
  const spread = (name, unit) => {
    const bound = verdict[`${name}_95_${unit}`];
    const sign = unit === "deg" ? "°" : " mm";
    return bound == null ? `± ${verdict[`${name}_sd_${unit}`].toFixed(2)}${sign}` : `< ${bound.toFixed(2)}${sign} (95 %)`;
  };
  const numbers = [
    ["similarity", verdict.similarity.toFixed(3)],
    ["in plane", spread("in_plane", "mm")],
    ["depth", spread("depth", "mm")],
    ["rotation", spread("rotation", "deg")],
    ["in the image", `${Math.round(100 * verdict.in_view)} %`],
  ];
  if (verdict.wrong_probability != null) {
    numbers.push(["wrong, chance", `${(100 * verdict.wrong_probability).toFixed(1)} %`]);
  }
  const reasons = verdict.reasons.length ? verdict.reasons : ["Nothing speaks against this pose."];
  box.replaceChildren(
    element("p", {}, badge(verdict.verdict)),
    element("ul", { class: "reasons" }, ...reasons.map((text) => element("li", {}, text))),
    element("dl", {}, ...numbers.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]))
  );
}

// -------------------------------------------------------------------------------------- solver

function ask(what, words) {
  if (!state.pose) return;
  state.number += 1;
  const { number, item, pose } = state;
  const start = what === "refine" && changed() ? pose : null;
  if (!line.send({ type: what, item: item.id, pose, start, number })) return;
  state.asked.set(number, { item: item.id, pose, start, what });
  showBusy(words);
}

function showBusy(words = "") {
  const busy = state.asked.size > 0;
  id("busy").textContent = busy ? words || "Working …" : "";
  document.body.classList.toggle("busy", busy);
}

// a refined pose, which is shown before its verdict is known
function refined(answer) {
  const asked = state.asked.get(answer.number);
  if (!asked || asked.item !== state.item.id) return;
  if (!same(asked.pose, state.pose)) {
    asked.dropped = true;
    return;
  }
  begin();
  setPose(answer.pose, true, asked.start);
  Object.assign(asked, { pose: answer.pose, shown: true });
}

function solved(answer) {
  const asked = state.asked.get(answer.number);
  state.asked.delete(answer.number);
  showBusy();
  if (!asked || asked.item !== state.item.id) return;
  banner("solver", answer.error ?? "");
  if (answer.error) return;
  if (asked.dropped || !same(asked.pose, state.pose)) {
    keeper.later(); // the server has kept the answer meanwhile
    showPose();
    say("The pose was moved meanwhile; the answer was dropped.");
    return;
  }
  if (!asked.shown) begin();
  if (answer.rivals.length && asked.what !== "assess") {
    state.item.rivals = answer.rivals;
    state.rival = 0;
  }
  setPose(answer.pose, true, asked.start, answer.verdict);
  const { verdict } = answer;
  say(`${verdict.verdict}, similarity ${verdict.similarity.toFixed(2)}. ${verdict.reasons.join(". ")}`);
}

// the other poses that were fitted, one after the other, then that of the solver, and again
function nextBest() {
  const { rivals, solver_pose: own } = state.item;
  if (!rivals?.length) return;
  const poses = [...rivals, own];
  const at = state.rival % poses.length;
  begin();
  setPose(poses[at], true);
  state.rival += 1;
  const words = at < rivals.length ? `other pose ${at + 1} of ${rivals.length}` : "pose of the solver";
  ask("assess", `Assessing the ${words} …`);
}

// ------------------------------------------------------------------------------------ decision

async function decide(choice) {
  const { item } = state;
  if (!item) return;
  const content = { choice, note: id("note").value, seen: item.sha256 };
  if (choice === "accept" && changed()) Object.assign(content, { pose: state.pose, start: state.start ?? state.pose });
  if (choice !== "accept" && changed()) say("The moved pose is not kept: the stored one is what you decided on.");
  state.saving = item.id;
  keeper.done();
  document.body.classList.add("saving");
  id("decided").textContent = "Saving …";
  try {
    const listed = await post(`api/item/${item.id}/decision`, content);
    banner("save", "");
    took(listed);
    if (state.item.id === item.id) {
      if (content.pose) Object.assign(state.item, { stored: content.pose, verdict: listed.verdict });
      state.item.decision = listed.decision;
      showPose();
      showDecision();
    }
    say(`${CHOICES[choice]}. ${id("progress").textContent}`);
    const next = list.nextOpen(item.id);
    if (next && list.current === item.id && !strip.playing) choose(next);
  } catch (error) {
    id("decided").textContent = "Not saved.";
    if (changed()) keeper.later();
    banner("save", `Not saved: ${error.message}`);
  } finally {
    state.saving = null;
    document.body.classList.remove("saving");
  }
}

function showDecision() {
  const { decision, others } = state.item;
  id("decided").textContent = decision
    ? `You: ${CHOICES[decision.choice]}, ${new Date(decision.when).toLocaleString()}`
    : "Not decided yet.";
  for (const [name, choice] of [["accept", "accept"], ["second", "second look"], ["reject", "reject"]]) {
    id(name).setAttribute("aria-pressed", String(decision?.choice === choice));
  }
  id("others").replaceChildren(
    ...others.map((one) => element("li", {}, `${one.reviewer}: ${CHOICES[one.choice]}${one.note ? ` (${one.note})` : ""}`))
  );
}

// an item as the server lists it now
function took(listed) {
  list.update(listed);
  if (state.item?.id === listed.id) Object.assign(state.item, listed);
  strip.show();
  showProgress();
}

function showProgress() {
  const every = list.items.size;
  id("progress").textContent = `${list.reviewed} of ${every} reviewed`;
  id("bar").value = list.reviewed / every;
}

// ---------------------------------------------------------------------------------------- item

async function choose(chosen, playing = false) {
  if (!chosen || chosen === state.item?.id) return;
  keeper.now();
  const mine = (loading = Symbol(chosen));
  list.choose(chosen);
  document.body.classList.add("loading");
  id("opening").hidden = playing;
  const waits = setTimeout(() => glance(chosen, playing, mine), GLANCE_MS);
  try {
    const item = await get(`api/item/${chosen}`);
    clearTimeout(waits);
    if (mine !== loading) return;
    await show(item, playing, mine);
  } catch (error) {
    if (mine === loading) banner("item", error.message);
  } finally {
    clearTimeout(waits);
    if (mine === loading) {
      loading = null;
      document.body.classList.remove("loading");
      id("opening").hidden = true;
    }
  }
}

// what the registration saved, until the CT is opened
async function glance(chosen, playing, mine) {
  try {
    const item = await get(`api/item/${chosen}/glance`);
    const pictures = await saved(item, "xray");
    if (mine === loading && state.item?.id !== chosen) await fill({ ...item, glance: true }, playing, pictures);
  } catch (error) {
    if (mine === loading) banner("item", error.message);
  }
}

function saved(item, what) {
  return Promise.all(item.views.map((_, n) => picture(`api/item/${item.id}/saved/${what}/${n}`)));
}

async function show(item, playing, mine) {
  const px = playing ? 512 : 8192;
  const pictures = await Promise.all(item.views.map((_, n) => picture(`api/item/${item.id}/xray/${n}?px=${px}`)));
  if (mine === loading) await fill(item, playing, pictures);
}

async function fill(item, playing, pictures) {
  banner("item", item.problem);
  const draft = item.problem || item.glance ? null : item.draft;
  Object.assign(state, { item, undo: [], redo: [], rival: 0, kind: null });
  item.stored = item.pose;
  state.pose = item.problem || item.glance ? null : draft?.pose ?? item.pose;
  state.start = draft?.start ?? null;
  state.verdict = draft?.verdict ?? null;
  if (draft) state.undo.push({ pose: item.stored, start: null, verdict: null });
  state.asked.clear();
  showBusy();
  makeViews(item);
  state.views.forEach((view, n) => {
    view.picture.setXray(pictures[n]);
    view.picture.setOutlines([]);
  });
  if (state.pose) {
    render(playing ? DRAG_PX : Math.max(DRAG_PX, ...state.views.map((view) => view.picture.usefulPixels())));
  } else if (!overview.blind) await showSaved(item);
  if (state.item !== item) return;
  showItem();
  strip.set(item.frames ?? []);
  if (state.pose) showNeighbours(item);
  location.replace(`#${item.id}`);
}

// the other bones, whose CTs are opened after that of this one
async function showNeighbours(item) {
  try {
    item.neighbours = await get(`api/item/${item.id}/neighbours`);
  } catch (error) {
    banner("neighbour", error.message);
    return;
  }
  if (state.item !== item) return;
  banner("neighbour", item.neighbours.map((each) => each.problem).filter(Boolean).join(" "));
  state.views.forEach((view, n) => {
    view.picture.setOutlines(
      item.neighbours.map((each, number) => ({ name: each.bone, number, curves: each.outlines?.[n] ?? [] }))
    );
  });
  if (id("space").open) showScene();
}

async function showSaved(item) {
  const drrs = await saved(item, "drr");
  if (state.item === item) state.views.forEach((view, n) => view.picture.setDrr(drrs[n]));
}

// views of the same X-rays keep their window, zoom and pan
function makeViews(item) {
  const alike = state.views.length === item.views.length && item.views.every((view, n) => {
    const old = state.views[n].view;
    return old.width === view.width && old.height === view.height;
  });
  if (alike) {
    state.views.forEach((view, n) => {
      view.show(item.views[n]);
      view.picture.setDrr(null);
    });
    return;
  }
  state.views = item.views.map((view, n) => new View(n, view, host));
  state.active = state.views[0];
  id("views").replaceChildren(...state.views.map((view) => view.figure));
  id("views").dataset.count = state.views.length;
  applySettings();
}

function showItem() {
  const { item } = state;
  id("verdict-title").textContent = [item.side, item.bone].filter(Boolean).join(" ") || item.name.at(-1);
  id("where").textContent = item.name.join(" / ");
  id("note").value = item.decision?.note ?? "";
  document.title = `${item.name.join(" / ")} – review`;
  showPose();
  if (!state.pose) showVerdict();
  showDecision();
  for (const name of ["accept", "second", "reject"]) id(name).disabled = false;
}

// ----------------------------------------------------------------------------------- sequences

function toggleKey() {
  const { item, pose } = state;
  if (!pose || strip.root.hidden) return;
  keeper.now();
  line.send({ type: "key", item: item.id, pose: list.items.get(item.id).key ? null : pose });
}

function track() {
  keeper.now();
  strip.busy = true;
  strip.state.textContent = "Tracking …";
  line.send({ type: "track", item: state.item.id });
}

async function acceptChanged(ids) {
  for (const each of ids) {
    const { draft, sha256 } = list.items.get(each);
    const content = { choice: "accept", note: "tracked between key poses", seen: sha256 };
    try {
      took(await post(`api/item/${each}/decision`, { ...content, pose: draft.pose, start: draft.pose }));
    } catch (error) {
      banner("save", `Not saved: ${error.message}`);
      return;
    }
  }
  say(`${ids.length} frames accepted.`);
  reload();
}

// show the current item as it is stored now
function reload() {
  const chosen = state.item.id;
  state.item = null;
  choose(chosen);
}

// ------------------------------------------------------------------------------------- picture

function applySettings() {
  const mode = document.querySelector("[name=mode]:checked").value;
  const settings = { mode, blend: id("blend").value / 100, outline: id("outline").checked };
  for (const { picture: shown } of state.views) {
    Object.assign(shown.settings, settings);
    shown.draw();
  }
  id("picture").dataset.tool = host.tool;
  id("blend").disabled = mode !== "blend";
  clearInterval(flicker);
  if (mode === "flicker") {
    flicker = setInterval(() => {
      for (const { picture: shown } of state.views) {
        shown.settings.share = 1 - shown.settings.share;
        shown.draw();
      }
    }, FLICKER_MS);
  }
}

function take(drr) {
  if (drr.number < state.shown || !state.views[drr.view]) return;
  if (drr.number > state.number) return;
  state.shown = drr.number;
  state.views[drr.view].picture.setDrr(drr);
  state.views[drr.view].figure.dataset.drawn = state.item.id;
}

async function showScene() {
  const { item } = state;
  if (!item) return;
  try {
    scene ??= new Scene(id("scene"));
  } catch (error) {
    banner("scene", error.message);
    return;
  }
  scene.clear();
  if (item.problem || item.glance) return;
  scene.setViews(item.views);
  const bones = [{ id: item.id, pose: state.pose }, ...(item.neighbours ?? []).filter((each) => !each.problem)];
  await Promise.all([
    ...bones.map(async (bone, number) => {
      const surface = await get(`api/item/${bone.id}/surface`);
      if (state.item === item) scene.setBone(bone.id, number, surface, bone.id === item.id ? state.pose : bone.pose);
    }),
    ...item.views.map(async (_, number) => {
      const image = await picture(`api/item/${item.id}/xray/${number}?px=256`);
      if (state.item === item) scene.setImage(number, image);
    }),
  ]);
}

// --------------------------------------------------------------------------------------- keys

const KEYS = {
  n: () => choose(list.beside(state.item.id, 1)),
  p: () => choose(list.beside(state.item.id, -1)),
  a: () => decide("accept"),
  l: () => decide("second look"),
  x: () => decide("reject"),
  r: () => ask("refine", "Refining …"),
  s: () => ask("search", "Searching from nothing …"),
  b: nextBest,
  z: () => step(state.undo, state.redo),
  y: () => step(state.redo, state.undo),
  k: toggleKey,
  m: () => check("tool", "move"),
  t: () => check("tool", "turn"),
  w: () => check("tool", "view"),
  1: () => check("mode", "blend"),
  2: () => check("mode", "checkerboard"),
  3: () => check("mode", "flicker"),
  4: () => check("mode", "difference"),
  o: () => id("outline").click(),
  h: () => id("handles").click(),
  f: () => state.views.forEach((view) => view.picture.fit()),
  "+": () => zoom(1.25),
  "=": () => zoom(1.25),
  "-": () => zoom(0.8),
  "[": () => choose(strip.beside(state.item.id, -1)),
  "]": () => choose(strip.beside(state.item.id, 1)),
  " ": () => strip.root.hidden || strip.setPlaying(!strip.playing),
  "?": () => id("help").showModal(),
};

function check(name, value) {
  const radio = document.querySelector(`[name=${name}][value=${value}]`);
  radio.checked = true;
  applySettings();
  state.views.forEach((view) => view.placeHandles());
}

function zoom(factor) {
  const shown = (state.active ?? state.views[0]).picture;
  shown.zoomAt(shown.canvas.clientWidth / 2, shown.canvas.clientHeight / 2, factor);
  renderWhenStill();
}

function key(event) {
  const { target } = event;
  if (document.querySelector("dialog[open]") || target.closest("textarea, select, input[type=search]")) return;
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
    event.preventDefault();
    (event.shiftKey ? KEYS.y : KEYS.z)();
    return;
  }
  const inList = target.closest("nav, aside canvas, input[type=radio], input[type=range]"); // own arrows
  if (state.pose && !inList && !event.altKey && !event.metaKey) {
    const pose = (state.active ?? state.views[0]).key(event, host.tool === "turn");
    if (pose) {
      event.preventDefault();
      begin("keys");
      setPose(pose, true);
      return;
    }
  }
  if (event.ctrlKey || event.altKey || event.metaKey || !id("letters").checked) return;
  if (event.key === " " && target.closest("button, summary, input")) return;
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action || !state.item) return;
  event.preventDefault();
  action();
}

// --------------------------------------------------------------------------------------- start

function wire() {
  document.addEventListener("keydown", key);
  for (const radio of document.querySelectorAll(".tools input")) {
    radio.addEventListener("input", () => {
      applySettings();
      state.views.forEach((view) => view.placeHandles());
    });
  }
  const clicks = {
    fit: KEYS.f, refine: KEYS.r, "search-again": KEYS.s, "next-best": KEYS.b, undo: KEYS.z, redo: KEYS.y,
    accept: KEYS.a, second: KEYS.l, reject: KEYS.x, "show-help": KEYS["?"],
    reset: () => { begin(); setPose(state.item.stored, true); },
    "show-table": showTable,
  };
  for (const [name, action] of Object.entries(clicks)) id(name).addEventListener("click", action);
  id("space").addEventListener("toggle", () => id("space").open && showScene());
  window.addEventListener("pagehide", () => keeper.now());
  window.addEventListener("beforeunload", (event) => {
    keeper.now();
    if (changed() && (keeper.unkept || couldNotKeep)) event.preventDefault();
  });
}

async function showTable() {
  try {
    const { rows, summary, problems } = await get("api/disagreement");
    const cell = (value) => element("td", { class: "number" }, value);
    const head = (...names) => element("thead", {}, element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name))));
    const spread = ({ mean, sd, largest }) => `${mean.toFixed(2)} ± ${sd.toFixed(2)} (${largest.toFixed(2)})`;
    const numbers = ["in_plane_mm", "depth_mm", "rotation_deg", "mtre_mm"];
    const titles = ["in plane / mm", "depth / mm", "rotation / °", "mTRE / mm"];
    const pair = (each) => (each.kind === "intra" ? `${each.first}, twice` : `${each.first} and ${each.second}`);
    const table = (caption, first, content) =>
      element("table", {}, element("caption", {}, caption), head(first, "reviewers", ...titles), element("tbody", {}, ...content));
    const content = rows.length
      ? [
          table("Mean ± standard deviation (largest)", "poses", summary.map((each) =>
            element("tr", {}, cell(String(each.count)), element("td", {}, pair(each)), ...numbers.map((key) => cell(spread(each[key])))))),
          table("Each bone", "result", rows.map((row) =>
            element("tr", {}, element("th", { scope: "row" }, row.result), element("td", {}, pair(row)), ...numbers.map((key) => cell(row[key].toFixed(2)))))),
        ]
      : [element("p", {}, "No pose was accepted twice yet. Let another person review this folder (--reviewer NAME --blind).")];
    id("table-content").replaceChildren(...problems.map((text) => element("p", {}, text)), ...content);
    id("table").showModal();
  } catch (error) {
    banner("table", error.message);
  }
}

function message(content) {
  if (content.type === "solved") solved(content);
  else if (content.type === "refined") refined(content);
  else if (content.type === "item") {
    const mine = state.item?.id === content.item.id;
    const other = mine && !state.saving && !content.item.hashes.includes(state.item.sha256);
    took(content.item);
    if ("not_kept" in content) notKept(content.not_kept);
    if (mine) showDecision();
    if (other) {
      banner("other", "This pose was saved in another tab; it is shown as it is now.", "note");
      reload();
    }
  } else if (content.type === "tracking") {
    strip.state.textContent = `Tracking … frame ${strip.frames.indexOf(content.item) + 1}`;
  } else if (content.type === "tracked") {
    strip.busy = false;
    strip.state.textContent = content.error ? "" : `${content.count} ${content.count === 1 ? "frame" : "frames"} changed`;
    banner("track", content.error ?? "");
    strip.show();
    if (!content.error && list.items.get(state.item.id).draft) reload();
  } else if (content.type === "error") banner("request", content.error);
}

// a pose that is not decided on could not be written; said once
function notKept(error) {
  if (error && !couldNotKeep) banner("kept", `Lost when the server stops: ${error}`);
  if (!error) banner("kept", "");
  couldNotKeep = error;
}

async function begun() {
  overview = await get("api/list");
  id("folder").textContent = overview.folder;
  id("who").textContent = `Reviewer: ${overview.reviewer}${overview.blind ? ", blind" : ""}`;
  id("show-table").hidden = overview.blind;
  if (overview.read_only) {
    banner("read-only", `${overview.read_only} of ${overview.items.length} results are in folders that cannot be written: decisions on them cannot be saved.`);
  }
  for (const [number, problem] of overview.problems.entries()) banner(`list-${number}`, problem);
  list = new List(id("list"), (chosen) => choose(chosen));
  strip = new Strip(id("strip"), {
    get items() { return list.items; },
    get current() { return list.current; },
    choose, toggleKey, track, acceptChanged,
  });
  line = new Line(take, message, (open) => {
    banner("line", open ? "" : "The server does not answer: it was stopped, or is busy. What was accepted is on the disk, and what you move now is kept when it answers again.");
    if (open && state.pose) render(DRAG_PX);
    if (open) keeper.now();
    if (!open) {
      state.asked.clear();
      showBusy();
    }
  });
  list.set(overview.items);
  wire();
  showProgress();
  if (innerHeight >= 900) id("space").open = true;
  const wanted = location.hash.slice(1);
  await choose(list.items.has(wanted) ? wanted : list.nextOpen() ?? list.order[0]);
}

window.review = state; // for tests and the curious
begun().catch((error) => banner("start", error.message));

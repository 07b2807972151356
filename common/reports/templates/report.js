"use strict";
// Slider between X-ray and DRR, sortable tables, filter and 3D scenes of a report.
// The only library is plotly, for the scenes.

for (const figure of document.querySelectorAll(".compare")) {
  figure.querySelector(".cut").addEventListener("input", (event) => {
    figure.style.setProperty("--cut", event.target.value + "%");
  });
  figure.querySelector(".show-outline").addEventListener("change", (event) => {
    figure.querySelector(".outline").style.visibility = event.target.checked ? "visible" : "hidden";
  });
}

// numbers by value, missing ones last in both directions; texts in natural order (P2 before P10)
const { compare: inOrder } = new Intl.Collator(undefined, { numeric: true });

function compare(x, y, sign) {
  if (x === "" || y === "") return (x === "") - (y === "");
  const difference = Number(x) - Number(y);
  return sign * (Number.isNaN(difference) ? inOrder(x, y) : difference);
}

function sort(table, column, sign) {
  const value = (cell) => cell.dataset.value ?? cell.textContent.trim();
  const keyed = [...table.tBodies[0].rows].map((row) => [value(row.cells[column]), row]);
  keyed.sort(([x], [y]) => compare(x, y, sign));
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

const filter = document.querySelector(".filter");
const texts = new Map(); // of rows, in lower case
function lower(row) {
  if (!texts.has(row)) texts.set(row, row.textContent.toLowerCase());
  return texts.get(row);
}

// show the rows that the filter leaves: the first of them, or all where they were asked for
function show(table, all) {
  const words = (filter?.value ?? "").toLowerCase().split(/[\s,]+/).filter(Boolean);
  const rows = [...table.tBodies[0].rows];
  const left = rows.filter((row) => words.every((word) => lower(row).includes(word)));
  const shown = new Set(all ? left : left.slice(0, table.dataset.first));
  for (const row of rows) row.hidden = !shown.has(row);
  const button = table.closest("section").querySelector(".all");
  button.hidden = shown.size === left.length;
  button.textContent = `Show all ${left.length}`;
  if (filter) document.querySelector(".matches").textContent = `${left.length} of ${rows.length}`;
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const button = table.closest("section").querySelector(".all");
  const all = () => table.tBodies[0].rows.length > table.dataset.first && button.hidden;
  heads.forEach((head, column) =>
    head.querySelector("button").addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sort(table, column, ascending ? 1 : -1);
      show(table, all());
    })
  );
  button.addEventListener("click", () => show(table, true));
  filter?.addEventListener("input", () => show(table, false));
  window.addEventListener("beforeprint", () => show(table, true));
}

// the X-ray of the figure, reduced, as grey values on the detector
function texture(image, longest) {
  const scale = Math.min(1, longest / Math.max(image.naturalWidth, image.naturalHeight));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(2, Math.round(image.naturalWidth * scale));
  canvas.height = Math.max(2, Math.round(image.naturalHeight * scale));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const grey = (row, column) => pixels[4 * (row * canvas.width + column)];
  return Array.from({ length: canvas.height }, (_, row) =>
    Array.from({ length: canvas.width }, (_, column) => grey(row, column))
  );
}

// the grey values at the centres of their pixels
function detector(scene, image) {
  const grey = texture(image, 96);
  const [topLeft, topRight, , bottomLeft] = scene.corners;
  const at = (axis) =>
    grey.map((line, row) =>
      line.map((_, column) => {
        const [down, across] = [(row + 0.5) / grey.length, (column + 0.5) / line.length];
        return (
          topLeft[axis] +
          across * (topRight[axis] - topLeft[axis]) +
          down * (bottomLeft[axis] - topLeft[axis])
        );
      })
    );
  return {
    type: "surface", x: at(0), y: at(1), z: at(2), surfacecolor: grey,
    colorscale: [[0, "#000"], [1, "#fff"]], cmin: 0, cmax: 255, showscale: false,
    lighting: { ambient: 1, diffuse: 0, specular: 0 },
    name: "X-ray", showlegend: true, hoverinfo: "name",
  };
}

function bone(mesh) {
  const [x, y, z] = [0, 1, 2].map((axis) => mesh.vertices.filter((_, n) => n % 3 === axis));
  const [i, j, k] = [0, 1, 2].map((corner) => mesh.triangles.filter((_, n) => n % 3 === corner));
  return {
    type: "mesh3d", x, y, z, i, j, k, color: "#e8dcc0",
    lighting: { ambient: 0.35, diffuse: 0.8, specular: 0.2, roughness: 0.6 },
    name: "bone", showlegend: true, hoverinfo: "name",
  };
}

// a polyline; null between its parts
function path(points, name, color, width) {
  const [x, y, z] = [0, 1, 2].map((axis) => points.map((point) => point && point[axis]));
  const line = { color, width };
  return { type: "scatter3d", mode: "lines", name, hoverinfo: "name", line, x, y, z };
}

function traces(scene, mesh, image) {
  const [x, y, z] = scene.source.map((coordinate) => [coordinate]);
  const beam = scene.corners.flatMap((corner) => [scene.source, corner, null]);
  return [
    bone(mesh),
    detector(scene, image),
    path(beam, "frustum", "#555555", 3),
    path([...scene.corners, scene.corners[0]], "detector", "#555555", 3),
    path([scene.source, scene.foot], "principal ray", "#0072b2", 5),
    {
      type: "scatter3d", mode: "markers", name: "X-ray source", x, y, z,
      marker: { color: "#d55e00", size: 6 },
    },
  ];
}

// viewpoint: across the principal ray and slightly from above, so that source and detector are at
// opposite sides of the image
function fromTheSide(scene) {
  const [x, y] = [0, 1].map((axis) => scene.foot[axis] - scene.source[axis]);
  const length = Math.hypot(x, y) || 1;
  return { x: (-1.9 * y) / length, y: (1.9 * x) / length, z: 0.6 };
}

// a browser draws a limited number of scenes at the same time: a scene is drawn when it is opened
// and removed when it is closed
const store = document.getElementById("scenes");
if (store) {
  const { scenes, surfaces } = JSON.parse(store.textContent);
  for (const details of document.querySelectorAll("details.scene")) {
    details.addEventListener("toggle", () => {
      const plot = details.querySelector(".plot");
      if (!details.open) return Plotly.purge(plot);
      const scene = scenes[details.dataset.scene];
      const image = details.closest(".registration").querySelector(".xray");
      const axis = (text) => ({ title: { text } });
      const layout = {
        scene: {
          camera: { eye: fromTheSide(scene) }, aspectmode: "data",
          xaxis: axis("R / mm"), yaxis: axis("A / mm"), zaxis: axis("S / mm"),
        },
        margin: { l: 0, r: 0, b: 0, t: 0 },
        legend: { itemsizing: "constant", orientation: "h" },
      };
      const data = traces(scene, surfaces[scene.surface], image);
      Plotly.newPlot(plot, data, layout, { responsive: true, displaylogo: false });
    });
  }
}

window.addEventListener("beforeprint", () => {
  document.querySelectorAll("details:not(.scene)").forEach((details) => (details.open = true));
});

"use strict";
// The slider between X-ray and DRR, the sortable tables, the filter and the scenes of a report. No library but plotly, for the scenes.

for (const figure of document.querySelectorAll(".compare")) {
  figure.querySelector(".cut").addEventListener("input", (event) => figure.style.setProperty("--cut", event.target.value + "%"));
  figure.querySelector(".show-outline").addEventListener("change", (event) => {
    figure.querySelector(".outline").style.visibility = event.target.checked ? "visible" : "hidden";
  });
}

// numbers by value, absent ones last in either direction; texts as a reader would (P2 before P10)
function compare(a, b, sign) {
  const [x, y] = [a, b].map((cell) => cell.dataset.value ?? cell.textContent.trim());
  if (x === "" || y === "") return (x === "") - (y === "");
  const difference = Number(x) - Number(y);
  return sign * (Number.isNaN(difference) ? x.localeCompare(y, undefined, { numeric: true }) : difference);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) =>
    head.querySelector("button").addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => compare(a.cells[column], b.cells[column], ascending ? 1 : -1));
      table.tBodies[0].append(...rows);
    })
  );
}

const filter = document.querySelector(".filter");
if (filter) {
  const rows = [...document.querySelectorAll("table.sortable tbody tr")];
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    document.querySelector(".matches").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  });
}

// the X-ray of the figure, small, as grey values on the detector
function texture(image, longest) {
  const scale = Math.min(1, longest / Math.max(image.naturalWidth, image.naturalHeight));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(2, Math.round(image.naturalWidth * scale));
  canvas.height = Math.max(2, Math.round(image.naturalHeight * scale));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  return Array.from({ length: canvas.height }, (_, row) => Array.from({ length: canvas.width }, (_, column) => pixels[4 * (row * canvas.width + column)]));
}

function traces(scene, mesh, image) {
  const [x, y, z] = [0, 1, 2].map((axis) => mesh.vertices.filter((_, n) => n % 3 === axis));
  const [i, j, k] = [0, 1, 2].map((corner) => mesh.triangles.filter((_, n) => n % 3 === corner));
  const light = { ambient: 0.35, diffuse: 0.8, specular: 0.2, roughness: 0.6 };
  const picture = texture(image, 96);
  const [topLeft, topRight, , bottomLeft] = scene.corners;
  const at = (axis) =>
    picture.map((line, row) =>
      line.map((_, column) => {
        const [down, across] = [(row + 0.5) / picture.length, (column + 0.5) / line.length];
        return topLeft[axis] + across * (topRight[axis] - topLeft[axis]) + down * (bottomLeft[axis] - topLeft[axis]);
      })
    );
  const path = (points, name, color, width) => ({
    type: "scatter3d", mode: "lines", name, hoverinfo: "name", line: { color, width },
    x: points.map((p) => p && p[0]), y: points.map((p) => p && p[1]), z: points.map((p) => p && p[2]),
  });
  return [
    { type: "mesh3d", x, y, z, i, j, k, color: "#e8dcc0", lighting: light, name: "bone", showlegend: true, hoverinfo: "name" },
    { type: "surface", x: at(0), y: at(1), z: at(2), surfacecolor: picture, colorscale: [[0, "#000"], [1, "#fff"]], cmin: 0, cmax: 255, showscale: false,
      lighting: { ambient: 1, diffuse: 0, specular: 0 }, name: "X-ray", showlegend: true, hoverinfo: "name" },
    path(scene.corners.flatMap((corner) => [scene.source, corner, null]), "frustum", "#555555", 3),
    path([...scene.corners, scene.corners[0]], "detector", "#555555", 3),
    path([scene.source, scene.foot], "principal ray", "#0072b2", 5),
    { type: "scatter3d", mode: "markers", name: "X-ray source", x: [scene.source[0]], y: [scene.source[1]], z: [scene.source[2]], marker: { color: "#d55e00", size: 6 } },
  ];
}

// where to look from: across the principal ray, a little from above, so that source and detector are at the picture's ends
function fromTheSide(scene) {
  const [x, y] = [0, 1].map((axis) => scene.foot[axis] - scene.source[axis]);
  const length = Math.hypot(x, y) || 1;
  return { x: (-1.9 * y) / length, y: (1.9 * x) / length, z: 0.6 };
}

// a browser draws a limited number of scenes at once: one is drawn when it is opened and forgotten when it is closed
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
        scene: { camera: { eye: fromTheSide(scene) }, xaxis: axis("R / mm"), yaxis: axis("A / mm"), zaxis: axis("S / mm"), aspectmode: "data" },
        margin: { l: 0, r: 0, b: 0, t: 0 }, legend: { itemsizing: "constant", orientation: "h" },
      };
      Plotly.newPlot(plot, traces(scene, surfaces[scene.surface], image), layout, { responsive: true, displaylogo: false });
    });
  }
}

window.addEventListener("beforeprint", () => document.querySelectorAll("details:not(.scene)").forEach((details) => (details.open = true)));

"use strict";
// One slider moves the X-ray, the outlines, the distal bone, the numbers and the cursors of the
// curves. The only library is plotly, for the scene.

const { names, rows, verdicts, titles, images, outlines, poses, meshes } = JSON.parse(
  document.getElementById("movement").textContent
);
const slider = document.getElementById("frame");
const plot = document.getElementById("scene");

function every(flat, offset) {
  const found = new Float64Array(flat.length / 3);
  for (let n = 0; n < found.length; n += 1) found[n] = flat[3 * n + offset];
  return found;
}

// vertices of the distal bone in the frame of the proximal one; pose has 12 numbers, row by row
function moved(vertices, pose) {
  return [0, 1, 2].map((axis) => {
    const [a, b, c, d] = pose.slice(4 * axis, 4 * axis + 4);
    const found = new Float64Array(vertices.length / 3);
    for (let n = 0; n < found.length; n += 1) {
      const [x, y, z] = [vertices[3 * n], vertices[3 * n + 1], vertices[3 * n + 2]];
      found[n] = a * x + b * y + c * z + d;
    }
    return found;
  });
}

function bone(mesh, name, colour) {
  const [x, y, z] = [0, 1, 2].map((axis) => every(mesh.vertices, axis));
  const [i, j, k] = [0, 1, 2].map((corner) => every(mesh.triangles, corner));
  return {
    type: "mesh3d", x, y, z, i, j, k, color: colour, name, showlegend: true, hoverinfo: "name",
    lighting: { ambient: 0.35, diffuse: 0.8, specular: 0.2, roughness: 0.6 },
  };
}

// one redraw per picture of the screen, however fast the slider moves
let wanted = null;
function place(frame) {
  if (!plot) return;
  const waiting = wanted !== null;
  wanted = frame;
  if (waiting) return;
  window.requestAnimationFrame(() => {
    const pose = poses[wanted];
    wanted = null;
    if (!pose) return Plotly.restyle(plot, { visible: false }, [1]);
    const [x, y, z] = moved(meshes[1].vertices, pose);
    Plotly.restyle(plot, { x: [x], y: [y], z: [z], visible: true }, [1]);
  });
}

function show(frame) {
  document.getElementById("frame-name").textContent = names[frame];
  slider.setAttribute("aria-valuetext", names[frame]);
  document.getElementById("xray").src = images[frame];
  outlines[frame].forEach((path, n) => {
    document.getElementById(`outline-${n}`).setAttribute("d", path);
  });
  const body = document.getElementById("numbers");
  body.replaceChildren();
  const lines = titles.map((title, n) => [title, rows[frame] ? rows[frame][n] : "no pose"]);
  for (const [title, value] of [...lines, ...verdicts[frame]]) {
    const line = body.insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = title;
    line.append(head);
    const cell = line.insertCell();
    cell.className = "number";
    cell.textContent = value;
  }
  for (const cursor of document.querySelectorAll(".cursor")) {
    const at = cursor.dataset.at.split(" ")[frame];
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
  }
  place(frame);
}

if (plot) {
  const first = poses.find((pose) => pose);
  const distal = bone(meshes[1], meshes[1].name, "#56b4e9");
  if (first) [distal.x, distal.y, distal.z] = moved(meshes[1].vertices, first);
  const axis = (text) => ({ title: { text } });
  const layout = {
    scene: {
      // from the front and the side, proximal up
      camera: { eye: { x: 1.6, y: 0.4, z: 1.2 }, up: { x: 0, y: 1, z: 0 } }, aspectmode: "data",
      xaxis: axis("anterior / mm"), yaxis: axis("proximal / mm"), zaxis: axis("right / mm"),
    },
    margin: { l: 0, r: 0, b: 0, t: 0 },
    legend: { itemsizing: "constant", orientation: "h" },
    uirevision: "kept",
  };
  const proximal = bone(meshes[0], meshes[0].name, "#e8dcc0");
  Plotly.newPlot(plot, [proximal, distal], layout, { responsive: true, displaylogo: false });
}

slider.addEventListener("input", () => show(Number(slider.value)));
show(Number(slider.value));

// The scene in 3D, in the frame of the first camera: bones, X-ray sources and detectors.

import { apply, invert, multiply } from "./pose.js";

const VERTEX = `#version 300 es
in vec3 at, normal;
in vec2 place;
uniform mat4 world, screen;
out vec3 facing;
out vec2 where;
void main() {
  where = place;
  facing = mat3(world) * normal;
  gl_Position = screen * world * vec4(at, 1.0);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec3 facing;
in vec2 where;
uniform vec3 colour, light;
uniform sampler2D image;
uniform int kind;
out vec4 result;
void main() {
  if (kind == 1) { result = vec4(colour, 1.0); return; }
  if (kind == 2) {
    vec2 bytes = texture(image, where).rg * 255.0;
    float grey = clamp((bytes.r + 256.0 * bytes.g) / 65535.0, 0.0, 1.0);
    result = vec4(vec3(grey), 1.0);
    return;
  }
  float lit = 0.35 + 0.65 * abs(dot(normalize(facing), light));
  result = vec4(colour * lit, 1.0);
}`;

const COLOURS = [[0.9, 0.62, 0.1], [0.34, 0.7, 0.91], [0.18, 0.78, 0.6], [0.88, 0.63, 0.78]];

const IDLE = 8; // times as long as a picture took, until the next one
const PIXEL = new Uint8Array(4);

export class Scene {
  constructor(canvas) {
    this.canvas = canvas;
    this.turn = [-2.0, 0.3]; // about the vertical axis, and up
    this.distance = 2.2; // in multiples of the scene's size
    this.bones = new Map(); // id -> { mesh, pose, number }
    this.views = [];
    const gl = (this.gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true }));
    if (!gl) throw new Error("this browser cannot draw with WebGL 2");
    this.program = gl.createProgram();
    for (const [type, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(this.program, shader);
    }
    gl.linkProgram(this.program);
    gl.useProgram(this.program);
    this.place = (name) => gl.getUniformLocation(this.program, name);
    this.listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      let last = [event.clientX, event.clientY];
      const move = (each) => {
        this.rotate((each.clientX - last[0]) * 0.008, (each.clientY - last[1]) * 0.008);
        last = [each.clientX, each.clientY];
      };
      canvas.addEventListener("pointermove", move);
      const end = () => canvas.removeEventListener("pointermove", move);
      canvas.addEventListener("pointerup", end, { once: true });
      canvas.addEventListener("pointercancel", end, { once: true });
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.distance = Math.min(6, Math.max(0.3, this.distance * Math.exp(event.deltaY * 0.001)));
      this.draw();
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      this.rotate(...step);
    });
  }

  rotate(across, up) {
    this.turn = [this.turn[0] + across, Math.min(1.5, Math.max(-1.5, this.turn[1] + up))];
    this.draw();
  }

  clear() {
    this.bones.clear();
    this.views = [];
  }

  setViews(views) {
    this.views = views.map((view) => {
      const corner = (column, row) => apply(view.rig_from_camera, [
        (column - view.principal_px[0]) * view.pixel_mm[0],
        (row - view.principal_px[1]) * view.pixel_mm[1],
        view.sdd_mm,
      ]);
      const corners = [corner(0, 0), corner(view.width, 0), corner(view.width, view.height), corner(0, view.height)];
      const source = apply(view.rig_from_camera, [0, 0, 0]);
      return { corners, source, texture: null };
    });
    const every = this.views.flatMap(({ corners, source }) => [...corners, source]);
    const ends = (i) => every.map((p) => p[i]);
    const middle = [0, 1, 2].map((i) => (Math.min(...ends(i)) + Math.max(...ends(i))) / 2);
    this.middle = middle;
    this.size = Math.max(...every.map((p) => Math.hypot(...p.map((x, i) => x - middle[i]))));
  }

  setImage(number, image) {
    if (!this.views[number]) return;
    const { gl } = this;
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RG8, image.width, image.height, 0, gl.RG, gl.UNSIGNED_BYTE, image.bytes);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    this.views[number].texture = texture;
    this.draw();
  }

  setBone(id, number, surface, pose) {
    if (!surface) return;
    this.bones.set(id, { ...this.mesh(surface), pose, number });
    this.draw();
  }

  setPose(id, pose) {
    const bone = this.bones.get(id);
    if (!bone) return;
    bone.pose = pose;
    this.draw();
  }

  mesh({ vertices, triangles }) {
    const { gl } = this;
    const normals = new Float32Array(vertices.length);
    for (let t = 0; t < triangles.length; t += 3) {
      const [a, b, c] = [0, 1, 2].map((k) => 3 * triangles[t + k]);
      const u = [0, 1, 2].map((k) => vertices[b + k] - vertices[a + k]);
      const v = [0, 1, 2].map((k) => vertices[c + k] - vertices[a + k]);
      const n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
      for (const corner of [a, b, c]) for (let k = 0; k < 3; k++) normals[corner + k] += n[k];
    }
    const indices = gl.createBuffer();
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, indices);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, new Uint32Array(triangles), gl.STATIC_DRAW);
    return { points: this.buffer(vertices), normals: this.buffer(normals), indices, count: triangles.length };
  }

  buffer(values) {
    const { gl } = this;
    const buffer = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(values), gl.STATIC_DRAW);
    return buffer;
  }

  attribute(name, buffer, size) {
    const { gl } = this;
    const at = gl.getAttribLocation(this.program, name);
    if (at < 0) return;
    if (!buffer) {
      gl.disableVertexAttribArray(at);
      gl.vertexAttrib3f(at, 0, 0, 1);
      return;
    }
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, size, gl.FLOAT, false, 0, 0);
  }

  // the rig's y axis points down, as image rows do
  eye() {
    const [about, up] = this.turn;
    const far = this.size * this.distance;
    const from = [Math.cos(up) * Math.sin(about), -Math.sin(up), Math.cos(up) * Math.cos(about)];
    return this.middle.map((x, i) => x + far * from[i]);
  }

  draw() {
    if (this.due || !this.canvas.clientWidth || !this.size) return;
    // without a GPU it is slow: the X-ray, which is dragged in, has most of the time
    const wait = (this.ended ?? 0) + IDLE * (this.took ?? 0) - performance.now();
    this.due = setTimeout(() => {
      requestAnimationFrame(() => {
        this.due = 0;
        const began = performance.now();
        this.paint();
        this.gl.readPixels(0, 0, 1, 1, this.gl.RGBA, this.gl.UNSIGNED_BYTE, PIXEL); // waits for it
        this.ended = performance.now();
        this.took = this.ended - began;
      });
    }, Math.max(0, wait));
  }

  paint() {
    const { gl, canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((x) => Math.round(x * devicePixelRatio));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    gl.viewport(0, 0, width, height);
    gl.clearColor(0.07, 0.08, 0.09, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    const eye = this.eye();
    const camera = lookAt(eye, this.middle);
    gl.uniformMatrix4fv(this.place("screen"), true, multiply(perspective(width / height, this.size), camera).flat());
    const ahead = this.middle.map((x, i) => eye[i] - x);
    gl.uniform3fv(this.place("light"), ahead.map((x) => x / Math.hypot(...ahead)));
    for (const view of this.views) this.paintView(view);
    for (const bone of this.bones.values()) this.paintBone(bone);
  }

  paintBone({ points, normals, indices, count, pose, number }) {
    const { gl } = this;
    this.uniforms(0, COLOURS[number % COLOURS.length], invert(pose));
    this.attribute("at", points, 3);
    this.attribute("normal", normals, 3);
    this.attribute("place", null);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, indices);
    gl.drawElements(gl.TRIANGLES, count, gl.UNSIGNED_INT, 0);
  }

  uniforms(kind, colour, world) {
    const { gl } = this;
    gl.uniform1i(this.place("kind"), kind);
    gl.uniform3fv(this.place("colour"), colour);
    gl.uniformMatrix4fv(this.place("world"), true, world.flat());
  }

  paintView({ corners, source, texture }) {
    const { gl } = this;
    const still = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]];
    const [a, b, c, d] = corners;
    if (texture) {
      gl.bindTexture(gl.TEXTURE_2D, texture);
      this.uniforms(2, [1, 1, 1], still);
      this.attribute("at", this.buffer([a, b, c, a, c, d].flat()), 3);
      this.attribute("normal", null);
      this.attribute("place", this.buffer([0, 0, 1, 0, 1, 1, 0, 0, 1, 1, 0, 1]), 2);
      gl.drawArrays(gl.TRIANGLES, 0, 6);
    }
    const beam = corners.flatMap((corner) => [source, corner]);
    const edge = corners.flatMap((corner, i) => [corner, corners[(i + 1) % 4]]);
    const small = this.size / 50;
    const cross = [0, 1, 2].flatMap((i) => [-1, 1].map((sign) => source.map((x, k) => x + (k === i ? sign * small : 0))));
    for (const [points, colour] of [[beam, [0.45, 0.48, 0.52]], [edge, [0.75, 0.78, 0.82]], [cross, [0.95, 0.45, 0.2]]]) {
      this.uniforms(1, colour, still);
      this.attribute("at", this.buffer(points.flat()), 3);
      this.attribute("normal", null);
      this.attribute("place", null);
      gl.drawArrays(gl.LINES, 0, points.length);
    }
  }
}

function lookAt(eye, at) {
  const unit = (v) => v.map((x) => x / Math.hypot(...v));
  const cross = (u, v) => [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
  const back = unit(eye.map((x, i) => x - at[i]));
  const right = unit(cross([0, -1, 0], back));
  const up = cross(back, right);
  const row = (axis) => [...axis, -(axis[0] * eye[0] + axis[1] * eye[1] + axis[2] * eye[2])];
  return [row(right), row(up), row(back), [0, 0, 0, 1]];
}

function perspective(aspect, size) {
  const f = 1 / Math.tan(0.35);
  const [near, far] = [size * 0.02, size * 12];
  return [
    [f / Math.max(1, aspect), 0, 0, 0],
    [0, f * Math.min(1, aspect) , 0, 0],
    [0, 0, (far + near) / (near - far), (2 * far * near) / (near - far)],
    [0, 0, -1, 0],
  ];
}

// One view: the X-ray and the DRR of the bone, drawn by WebGL at full resolution, with window,
// zoom and pan, and above them an SVG with the outlines of other bones and the handles.

const VERTEX = `#version 300 es
in vec2 at;
out vec2 screen;
void main() { screen = at * 0.5 + 0.5; gl_Position = vec4(at, 0.0, 1.0); }`;

// grey values have 16 bits in two channels; both are filtered linearly, and so is their sum
const FRAGMENT = `#version 300 es
precision highp float;
in vec2 screen;
out vec4 colour;
uniform sampler2D xray, drr;
uniform vec2 size, offset, xrayCover, drrCover, line, aspect;
uniform float blend, share;
uniform vec2 window, tone;
uniform vec3 edge;
uniform vec4 box; // around the bone: outside it there is nothing to look up
uniform int mode, hasDrr, outline;
uniform float square;

float grey(sampler2D image, vec2 at) {
  vec2 bytes = texture(image, at).rg * 255.0;
  return (bytes.r + 256.0 * bytes.g) / 65535.0;
}
float bone(vec2 at) {
  vec2 inside = at / drrCover;
  if (any(lessThan(inside, vec2(0.0))) || any(greaterThan(inside, vec2(1.0)))) return 0.0;
  return grey(drr, inside);
}
float shown(float value) { return clamp((value - window.x) / (window.y - window.x), 0.0, 1.0); }

void main() {
  vec2 at = vec2(screen.x, 1.0 - screen.y) * size - offset;
  if (any(lessThan(at, vec2(0.0))) || any(greaterThan(at, vec2(1.0)))) {
    colour = vec4(0.0, 0.0, 0.0, 1.0);
    return;
  }
  float x = grey(xray, at / xrayCover);
  float grey_x = shown(x);
  vec3 result = vec3(grey_x);
  if (hasDrr == 1) {
    bool near = all(greaterThan(at, box.xy)) && all(lessThan(at, box.zw));
    float d = near ? bone(at) : 0.0;
    float covered = smoothstep(0.0, 0.05, d);
    float grey_d = shown(tone.x * d + tone.y) * covered;
    if (mode == 0) result = vec3(mix(grey_x, grey_d, blend));
    if (mode == 1) {
      vec2 field = floor(at * aspect * square);
      result = vec3(mod(field.x + field.y, 2.0) < 1.0 ? grey_x : mix(grey_x, grey_d, covered));
    }
    if (mode == 2) result = vec3(share > 0.5 ? mix(grey_x, grey_d, covered) : grey_x);
    if (mode == 3) {
      float apart = (grey_x - grey_d) * covered;
      vec3 over = vec3(1.0, 0.55, 0.1), under = vec3(0.2, 0.75, 1.0);
      result = vec3(grey_x * 0.35) + (apart > 0.0 ? over * apart : under * -apart);
    }
    if (outline == 1 && near && d < 0.05) {
      float beside = 0.0;
      for (int i = 0; i < 8; i++) {
        float angle = float(i) * 0.7853982;
        beside += step(0.05, bone(at + line * vec2(cos(angle), sin(angle))));
      }
      if (beside > 0.5) result = edge;
    }
  }
  colour = vec4(result, 1.0);
}`;

export const MODES = { blend: 0, checkerboard: 1, flicker: 2, difference: 3 };
const SVG = "http://www.w3.org/2000/svg";
const SLOW_MS = 70; // from a picture to its painting
const HURRIED_PIXELS = 500_000;
const SMALL = 192; // pixels of the reduced X-ray that the tone of the DRR is fitted to

export class Picture {
  constructor(canvas, overlay) {
    this.canvas = canvas;
    this.overlay = overlay;
    this.zoom = 1; // 1: the whole X-ray fits
    this.pan = [0, 0]; // CSS pixels from the centre
    this.window = [0, 1];
    this.tone = [1, 0];
    this.settings = { mode: "blend", blend: 0.5, outline: true, share: 0 };
    this.drr = null;
    this.xray = null;
    this.changed = [];
    this.whole = true; // to be painted
    this.count = 0; // of DRRs that were painted
    this.gl = canvas.getContext("webgl2", { antialias: false, alpha: false, preserveDrawingBuffer: true });
    if (!this.gl) throw new Error("this browser cannot draw with WebGL 2");
    this.prepare();
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => this.restore());
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(canvas);
  }

  prepare() {
    const { gl } = this;
    const program = gl.createProgram();
    for (const [type, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    gl.useProgram(program);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 3, -1, -1, 3]), gl.STATIC_DRAW);
    const at = gl.getAttribLocation(program, "at");
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, 2, gl.FLOAT, false, 0, 0);
    const places = new Map(); // looking one up waits for the GPU's process
    this.uniform = (name) => {
      if (!places.has(name)) places.set(name, gl.getUniformLocation(program, name));
      return places.get(name);
    };
    this.textures = [this.texture(0), this.texture(1)];
    gl.uniform1i(this.uniform("xray"), 0);
    gl.uniform1i(this.uniform("drr"), 1);
  }

  texture(unit) {
    const { gl } = this;
    const texture = gl.createTexture();
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RG8, 1, 1, 0, gl.RG, gl.UNSIGNED_BYTE, new Uint8Array(2));
    for (const [key, value] of [
      [gl.TEXTURE_MIN_FILTER, gl.LINEAR],
      [gl.TEXTURE_MAG_FILTER, gl.LINEAR],
      [gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE],
      [gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE],
    ]) gl.texParameteri(gl.TEXTURE_2D, key, value);
    return texture;
  }

  restore() {
    this.prepare();
    if (this.xray) this.upload(0, this.xray);
    if (this.drr) this.upload(1, this.drr);
    this.draw();
  }

  upload(unit, image) {
    const { gl } = this;
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, this.textures[unit]);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.texImage2D(
      gl.TEXTURE_2D, 0, gl.RG8, image.width, image.height, 0, gl.RG, gl.UNSIGNED_BYTE, image.bytes
    );
  }

  setView(view) {
    this.view = view;
    if (view.window) this.window = [...view.window];
  }

  setXray(image) {
    this.xray = image;
    this.small = reduced(image, SMALL);
    this.upload(0, image);
    this.fitTone();
    this.draw();
  }

  setDrr(image) {
    const before = this.drr && this.box;
    this.drr = image;
    if (image) {
      this.upload(1, image);
      this.fresh = true;
      this.box = boxOf(image);
      this.fitTone();
    }
    this.draw(before && image ? [before, this.box] : null);
  }

  // the DRR with the grey values of the X-ray: a line through both inside the silhouette
  fitTone() {
    if (!this.drr || !this.small) return;
    const { small, drr } = this;
    let [n, sx, sd, sdd, sdx] = [0, 0, 0, 0, 0];
    for (let row = 0; row < small.height; row++) {
      const j = Math.floor((((row + 0.5) / small.height) * drr.height) / drr.cover[1]);
      for (let column = 0; column < small.width; column++) {
        const i = Math.floor((((column + 0.5) / small.width) * drr.width) / drr.cover[0]);
        if (i >= drr.width || j >= drr.height) continue;
        const d = drr.grey[j * drr.width + i] / 65535;
        if (d < 0.05) continue;
        const x = small.grey[row * small.width + column];
        n += 1;
        sx += x;
        sd += d;
        sdd += d * d;
        sdx += d * x;
      }
    }
    const spread = n * sdd - sd * sd;
    if (n < 20 || spread < 1e-9) return;
    const slope = Math.max(0.05, (n * sdx - sd * sx) / spread);
    this.tone = [slope, (sx - slope * sd) / n];
  }

  // CSS pixels: the place of the X-ray on the canvas
  place() {
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    const scale = Math.min(width / this.view.width, height / this.view.height) * this.zoom;
    const size = [this.view.width * scale, this.view.height * scale];
    const left = (width - size[0]) / 2 + this.pan[0];
    const top = (height - size[1]) / 2 + this.pan[1];
    return { left, top, scale, size };
  }

  toImage(x, y) {
    const { left, top, scale } = this.place();
    return [(x - left) / scale - 0.5, (y - top) / scale - 0.5];
  }

  toScreen(column, row) {
    const { left, top, scale } = this.place();
    return [left + (column + 0.5) * scale, top + (row + 0.5) * scale];
  }

  zoomAt(x, y, factor) {
    const zoom = Math.min(40, Math.max(0.5, this.zoom * factor));
    const [column, row] = this.toImage(x, y);
    this.zoom = zoom;
    const [after, below] = this.toScreen(column, row);
    this.pan = [this.pan[0] + x - after, this.pan[1] + y - below];
    this.draw();
  }

  fit() {
    this.zoom = 1;
    this.pan = [0, 0];
    this.draw();
  }

  changeWindow(across, down) {
    const width = this.window[1] - this.window[0];
    const centre = (this.window[1] + this.window[0]) / 2 + down * 0.003 * width;
    const wide = Math.min(2, Math.max(0.002, width * Math.exp(across * 0.005)));
    this.window = [centre - wide / 2, centre + wide / 2];
    this.draw();
  }

  // pixels along the longer side that can be told apart on this screen
  usefulPixels() {
    const { size } = this.place();
    const shown = Math.max(...size) * devicePixelRatio;
    return Math.ceil(Math.min(Math.max(this.view.width, this.view.height), Math.max(256, shown)));
  }

  // `boxes`: where alone the picture changes, as shares of the X-ray
  draw(boxes = null) {
    if (boxes) this.changed.push(...boxes);
    else this.whole = true;
    if (this.due) return;
    const asked = performance.now();
    this.due = requestAnimationFrame(() => {
      this.due = 0;
      const large = this.pixels > 2 * HURRIED_PIXELS;
      if (this.dragged && large && performance.now() - asked > SLOW_MS) this.hurried = true;
      this.paint();
    });
  }

  // while a bone is dragged: a screen that cannot follow is drawn with fewer pixels
  setDragged(dragged) {
    this.dragged = dragged;
    if (dragged || !this.hurried) return;
    this.hurried = false;
    this.draw();
  }

  get pixels() {
    return this.canvas.clientWidth * this.canvas.clientHeight * devicePixelRatio ** 2;
  }

  get ratio() {
    return devicePixelRatio * (this.hurried ? Math.sqrt(HURRIED_PIXELS / this.pixels) : 1);
  }

  paint() {
    const { gl, canvas } = this;
    if (!this.view || !this.xray || !canvas.clientWidth) return;
    const { ratio } = this;
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (canvas.width !== width || canvas.height !== height) {
      Object.assign(canvas, { width, height });
      this.whole = true;
    }
    gl.viewport(0, 0, width, height);
    this.restrict(ratio, height);
    const { left, top, size } = this.place();
    const { mode, blend, outline, share } = this.settings;
    const two = (name, values) => gl.uniform2f(this.uniform(name), ...values);
    const one = (name, value) => gl.uniform1f(this.uniform(name), value);
    // positions in units of the X-ray's size on the screen
    two("size", [canvas.clientWidth / size[0], canvas.clientHeight / size[1]]);
    two("offset", [left / size[0], top / size[1]]);
    const shorter = Math.min(this.view.width, this.view.height);
    two("aspect", [this.view.width / shorter, this.view.height / shorter]);
    two("xrayCover", this.xray.cover);
    two("drrCover", this.drr ? this.drr.cover : [1, 1]);
    const thick = parseFloat(getComputedStyle(document.documentElement).fontSize) / 10;
    two("line", [thick / size[0], thick / size[1]]);
    two("window", this.window);
    two("tone", this.tone);
    if (this.drr) gl.uniform4f(this.uniform("box"), ...this.box);
    one("blend", blend);
    one("share", share);
    one("square", 8);
    gl.uniform3f(this.uniform("edge"), ...this.edgeColour);
    gl.uniform1i(this.uniform("mode"), MODES[mode]);
    gl.uniform1i(this.uniform("hasDrr"), this.drr ? 1 : 0);
    gl.uniform1i(this.uniform("outline"), outline ? 1 : 0);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    this.drawOverlay();
    if (this.fresh) this.count += 1;
    this.fresh = false;
    this.onpaint?.();
  }

  // paint only around the bone, if nothing else has changed: without a GPU that is what takes time
  restrict(ratio, height) {
    const { gl, changed, whole } = this;
    Object.assign(this, { changed: [], whole: false });
    gl[whole ? "disable" : "enable"](gl.SCISSOR_TEST);
    if (whole) return;
    const { left, top, size } = this.place();
    const filled = changed.filter((box) => box[0] < box[2]);
    const end = (side, pick) => Math.round(pick(...filled.map((box) => box[side])) * size[side % 2] * ratio);
    const [x, right] = [end(0, Math.min) - 2, end(2, Math.max) + 2];
    const [y, bottom] = [end(1, Math.min) - 2, end(3, Math.max) + 2];
    if (!filled.length) gl.scissor(0, 0, 0, 0);
    else gl.scissor(Math.round(left * ratio) + x, height - Math.round(top * ratio) - bottom, right - x, bottom - y);
  }

  get edgeColour() {
    return [0.902, 0.624, 0];
  }

  // outlines of other bones: [{ colour, curves: [[x, y, ...], ...] }], as shares of the X-ray
  setOutlines(outlines) {
    const group = this.overlay.querySelector(".neighbours");
    group.replaceChildren(
      ...outlines.map(({ name, number, curves }) => {
        const path = document.createElementNS(SVG, "path");
        path.setAttribute("class", `neighbour n${number % 4}`);
        path.setAttribute("d", curves.map(asPath).join(""));
        const title = document.createElementNS(SVG, "title");
        title.textContent = name;
        path.append(title);
        return path;
      })
    );
    this.draw();
  }

  drawOverlay() {
    const { left, top, size } = this.place();
    const group = this.overlay.querySelector(".neighbours");
    group.setAttribute("transform", `translate(${left} ${top}) scale(${size[0]} ${size[1]})`);
  }
}

// a box around the bone in a DRR, with a margin, as shares of the X-ray: left, top, right, bottom
function boxOf({ width, height, grey, cover }) {
  const step = Math.max(1, Math.floor(Math.max(width, height) / 256));
  let [left, top, right, bottom] = [width, height, 0, 0];
  for (let row = 0; row < height; row += step) {
    for (let column = 0; column < width; column += step) {
      if (!grey[row * width + column]) continue;
      left = Math.min(left, column);
      right = Math.max(right, column);
      top = Math.min(top, row);
      bottom = Math.max(bottom, row);
    }
  }
  const [x, y] = [cover[0] / width, cover[1] / height];
  const margin = 3 * step;
  return [(left - margin) * x, (top - margin) * y, (right + 1 + margin) * x, (bottom + 1 + margin) * y];
}

function asPath(curve) {
  let text = "";
  for (let i = 0; i < curve.length; i += 2) text += `${i ? "L" : "M"}${curve[i]} ${curve[i + 1]}`;
  return `${text}Z`;
}

// nearest pixels are enough for a line through grey values
function reduced(image, longest) {
  const factor = Math.max(1, Math.max(image.width, image.height) / longest);
  const [width, height] = [Math.floor(image.width / factor), Math.floor(image.height / factor)];
  const grey = new Float32Array(width * height);
  for (let row = 0; row < height; row++) {
    const line = Math.floor((row + 0.5) * factor) * image.width;
    for (let column = 0; column < width; column++) {
      grey[row * width + column] = image.grey[line + Math.floor((column + 0.5) * factor)] / 65535;
    }
  }
  return { width, height, grey };
}

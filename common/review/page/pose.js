// Poses as the server sends them: volume_from_rig, 4 x 4, rows first, millimetres. A camera is
// volume_from_camera: x along image columns, y along image rows, z from source to detector.

export const RADIANS = Math.PI / 180;

export function multiply(a, b) {
  return a.map((row) => [0, 1, 2, 3].map((j) => row.reduce((sum, x, k) => sum + x * b[k][j], 0)));
}

// of a rigid transform
export function invert(m) {
  const turned = [0, 1, 2].map((i) => [m[0][i], m[1][i], m[2][i]]);
  const rows = turned.map((row) => [...row, -(row[0] * m[0][3] + row[1] * m[1][3] + row[2] * m[2][3])]);
  return [...rows, [0, 0, 0, 1]];
}

export function apply(m, p) {
  return [0, 1, 2].map((i) => m[i][0] * p[0] + m[i][1] * p[1] + m[i][2] * p[2] + m[i][3]);
}

export function translation([x, y, z]) {
  return [[1, 0, 0, x], [0, 1, 0, y], [0, 0, 1, z], [0, 0, 0, 1]];
}

// Rodrigues' formula; axis of length 1, angle in degrees
export function rotation([x, y, z], degrees) {
  const [c, s] = [Math.cos(degrees * RADIANS), Math.sin(degrees * RADIANS)];
  const t = 1 - c;
  return [
    [t * x * x + c, t * x * y - s * z, t * x * z + s * y, 0],
    [t * x * y + s * z, t * y * y + c, t * y * z - s * x, 0],
    [t * x * z - s * y, t * y * z + s * x, t * z * z + c, 0],
    [0, 0, 0, 1],
  ];
}

// rounding in many small steps would make a pose lose its rotation: make the axes orthogonal again
export function orthonormal(m) {
  const column = (j) => [m[0][j], m[1][j], m[2][j]];
  const unit = (v) => v.map((x) => x / Math.hypot(...v));
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const x = unit(column(0));
  const y = unit(column(1).map((value, i) => value - dot(x, column(1)) * x[i]));
  const z = [x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0]];
  return [...[0, 1, 2].map((i) => [x[i], y[i], z[i], m[i][3]]), [0, 0, 0, 1]];
}

// the pose after the bone moved by `motion`, a transform in the camera frame of a view
export function moved(pose, view, motion) {
  const rig = view.rig_from_camera;
  return orthonormal(multiply(pose, multiply(multiply(rig, invert(motion)), invert(rig))));
}

export function shifted(pose, view, millimetres) {
  return moved(pose, view, translation(millimetres));
}

// about the centre of the bone; axis in the camera frame
export function turned(pose, view, centre, axis, degrees) {
  const at = centreInCamera(pose, view, centre);
  const about = multiply(translation(at), multiply(rotation(axis, degrees), translation(at.map((x) => -x))));
  return moved(pose, view, about);
}

export function centreInCamera(pose, view, centre) {
  return apply(invert(multiply(pose, view.rig_from_camera)), centre);
}

// where the centre of the bone is in the image, (column, row), and the mm of a pixel there
export function projected(pose, view, centre) {
  const [x, y, z] = centreInCamera(pose, view, centre);
  const scale = view.sdd_mm / z;
  return {
    column: (x * scale) / view.pixel_mm[0] + view.principal_px[0],
    row: (y * scale) / view.pixel_mm[1] + view.principal_px[1],
    depth: z,
    mmPerPixel: [view.pixel_mm[0] / scale, view.pixel_mm[1] / scale],
  };
}

// how far the bone is moved and turned from one pose to another, in the first view's camera frame
export function difference(pose, other, view, centre) {
  const [a, b] = [centreInCamera(pose, view, centre), centreInCamera(other, view, centre)];
  const turn = multiply(invert(pose), other);
  const cosine = (turn[0][0] + turn[1][1] + turn[2][2] - 1) / 2;
  return {
    inPlane: Math.hypot(a[0] - b[0], a[1] - b[1]),
    depth: Math.abs(a[2] - b[2]),
    degrees: Math.acos(Math.min(1, Math.max(-1, cosine))) / RADIANS,
  };
}

export function same(a, b) {
  return a.every((row, i) => row.every((x, j) => Math.abs(x - b[i][j]) < 1e-9));
}

// Outlines of masks: polygons from the server, drawn as lines that stay sharp at any zoom.

/** One candidate's outline, in units of its picture. */
export class Outline {
  /**
   * @param {number[][]} polygons closed lines [x, y, x, y, …]
   * @param {number} subpixels what a coordinate is counted in: 2 for halves of a pixel
   * @param {number} stretch see Picture
   */
  constructor(polygons, subpixels, stretch) {
    this.polygons = polygons.map((flat) => pairs(flat, subpixels, stretch));
    this.path = new Path2D();
    for (const points of this.polygons) addRounded(this.path, points);
  }

  get empty() {
    return this.polygons.length === 0;
  }

  /** The point that lies farthest in a direction. */
  extreme([dx, dy]) {
    const along = ([x, y]) => x * dx + y * dy;
    return this.polygons.flat().reduce((best, point) => (along(point) > along(best) ? point : best));
  }
}

/** The smallest box around outlines, {x, y, width, height}; null where all are empty. */
export function boundsOf(outlines) {
  return boxAround(outlines.flatMap((outline) => outline.polygons.flat()));
}

/** The box around the largest piece of each outline: where the structure is, whatever specks lie elsewhere. */
export function coreOf(outlines) {
  return boxAround(outlines.flatMap(({ polygons }) => {
    const areas = polygons.map(area);
    return polygons[areas.indexOf(Math.max(...areas))] ?? [];
  }));
}

function area(points) {
  let doubled = 0;
  points.forEach(([x, y], i) => {
    const [nextX, nextY] = points[(i + 1) % points.length];
    doubled += x * nextY - nextX * y;
  });
  return Math.abs(doubled) / 2;
}

function boxAround(points) {
  if (points.length === 0) return null;
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const [x, y] of points) {
    [left, top] = [Math.min(left, x), Math.min(top, y)];
    [right, bottom] = [Math.max(right, x), Math.max(bottom, y)];
  }
  return { x: left, y: top, width: right - left, height: bottom - top };
}

/**
 * Stroke an outline over a dark casing, which keeps it visible on bright and on dark parts of an image.
 *
 * @param {CanvasRenderingContext2D} context transformed to units of the picture
 * @param {number} scale pixels of the screen in one such unit
 * @param {number} width of the line, in pixels of the screen
 * @param {boolean} dashed with the candidate's dash, where lines of several cross; a line alone hides least of the edge
 *   that it is compared with when it is whole
 */
export function strokeOutline(context, outline, style, scale, width, dashed) {
  context.lineJoin = "round";
  context.setLineDash([]);
  context.lineWidth = (width + 1.75) / scale;
  context.strokeStyle = "rgb(0 0 0 / 45%)";
  context.stroke(outline.path);
  context.lineWidth = width / scale;
  if (dashed) context.setLineDash(style.dash.map((length) => length / scale));
  context.strokeStyle = style.colour;
  context.stroke(outline.path);
}

function pairs(flat, subpixels, stretch) {
  const points = [];
  for (let i = 0; i < flat.length; i += 2) points.push([(stretch * flat[i]) / subpixels, flat[i + 1] / subpixels]);
  return points;
}

// Marching squares draw a curve as steps of half a pixel. Rounding each corner from half of its shorter side, and from
// half a pixel at most, turns the steps into a curve and leaves straight sides straight: no point moves by more than a
// quarter of a pixel.
const REACH = 0.5;

function addRounded(path, points) {
  points.forEach((corner, i) => {
    const before = points[(i + points.length - 1) % points.length];
    const after = points[(i + 1) % points.length];
    const start = towards(corner, before);
    if (i === 0) path.moveTo(...start);
    else path.lineTo(...start);
    path.quadraticCurveTo(...corner, ...towards(corner, after));
  });
  path.closePath();
}

function towards([x, y], [toX, toY]) {
  const length = Math.hypot(toX - x, toY - y);
  const share = Math.min(0.5, REACH / length);
  return [x + share * (toX - x), y + share * (toY - y)];
}

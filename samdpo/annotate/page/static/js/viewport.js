// Which part of an image is seen at which size: the arithmetic of zoom and pan.

const LARGEST = 40; // pixels of the screen for one unit of the picture, see Picture
const MARGIN = 0.25; // around what is zoomed to, as a share of it
const LEAST_SHOWN = 24; // units: smaller structures are not blown up further

/** Maps units of a picture to pixels of a canvas: canvas = scale * picture + (x, y). */
export class Viewport {
  constructor() {
    this.canvas = { width: 1, height: 1 };
    this.image = { width: 1, height: 1 };
    [this.scale, this.x, this.y] = [1, 0, 0];
  }

  get fittingScale() {
    return Math.min(this.canvas.width / this.image.width, this.canvas.height / this.image.height);
  }

  /** Whether the whole image is seen. */
  get whole() {
    return this.scale <= this.fittingScale * 1.001;
  }

  /** The part of the image that is seen, {x, y, width, height}. */
  get seen() {
    const [left, top] = this.toImage(0, 0);
    const [right, bottom] = this.toImage(this.canvas.width, this.canvas.height);
    return { x: left, y: top, width: right - left, height: bottom - top };
  }

  toImage(x, y) {
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }

  toCanvas([x, y]) {
    return [x * this.scale + this.x, y * this.scale + this.y];
  }

  /** Show the whole image. */
  fit() {
    this.scale = this.fittingScale;
    this.keepInside();
  }

  /** Show a part of the image as large as it goes, with a margin. */
  show({ x, y, width, height }, margin = MARGIN) {
    const shown = [width, height].map((side) => Math.max(side * (1 + 2 * margin), LEAST_SHOWN));
    this.scale = this.limited(Math.min(this.canvas.width / shown[0], this.canvas.height / shown[1]));
    this.x = this.canvas.width / 2 - this.scale * (x + width / 2);
    this.y = this.canvas.height / 2 - this.scale * (y + height / 2);
    this.keepInside();
  }

  /** Zoom by a factor; the point of the image under (x, y) stays there. */
  zoom(factor, x, y) {
    const before = this.scale;
    this.scale = this.limited(before * factor);
    this.x = x - ((x - this.x) * this.scale) / before;
    this.y = y - ((y - this.y) * this.scale) / before;
    this.keepInside();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.keepInside();
  }

  /** The canvas has another size; the centre and what share of the whole is seen stay. */
  resize(width, height) {
    const [centreX, centreY] = this.toImage(this.canvas.width / 2, this.canvas.height / 2);
    const zoomed = this.scale / this.fittingScale;
    this.canvas = { width, height };
    this.scale = this.limited(zoomed * this.fittingScale);
    this.x = width / 2 - centreX * this.scale;
    this.y = height / 2 - centreY * this.scale;
    this.keepInside();
  }

  limited(scale) {
    const fitting = this.fittingScale;
    return Math.min(Math.max(scale, fitting), Math.max(LARGEST, fitting));
  }

  // No more empty space than needed: an image smaller than the canvas is centred, a larger one covers it.
  keepInside() {
    this.x = kept(this.x, this.canvas.width, this.image.width * this.scale);
    this.y = kept(this.y, this.canvas.height, this.image.height * this.scale);
  }
}

function kept(offset, available, size) {
  if (size <= available) return (available - size) / 2;
  return Math.min(0, Math.max(available - size, offset));
}

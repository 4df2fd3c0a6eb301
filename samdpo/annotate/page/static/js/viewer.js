// The large view: image, outlines, window and zoom.

import { drawPlace, drawView, fitToScreen } from "./drawing.js";
import { attachGestures } from "./gestures.js";
import { coreOf } from "./outlines.js";
import { WHOLE_RANGE, clampWindow } from "./picture.js";
import { Viewport } from "./viewport.js";

const LINE = 2; // CSS pixels
const LINE_ALONE = 2.25;

export class Viewer extends EventTarget {
  /**
   * Sends "change" when zoom, window or the hiding of outlines change.
   *
   * @param {HTMLCanvasElement} canvas
   * @param {(at: object, touch: boolean) => object | null} grab see attachGestures
   */
  constructor(canvas, grab) {
    super();
    this.canvas = canvas;
    this.viewport = new Viewport();
    this.window = WHOLE_RANGE;
    this.hidden = false;
    this.only = null;
    this.place = null; // what somebody marks on the image, in place of the outlines; see drawPlace
    this.item = null;
    this.frame = null;
    new ResizeObserver(() => this.resize()).observe(canvas);
    attachGestures(canvas, {
      window: (right, down) => this.moveWindow(right, down),
      pan: (dx, dy) => this.move((viewport) => viewport.pan(dx, dy)),
      zoom: (factor, x, y) => this.move((viewport) => viewport.zoom(factor, x, y)),
      reset: () => this.reset(),
      grab,
    });
  }

  /** Show an item; the window stays as it was set, since the next image is of the same kind. */
  show(item) {
    this.item = item;
    this.only = null;
    this.place = null;
    if (item) this.move((viewport) => {
      viewport.image = item.picture.size;
      viewport.fit();
    });
    else this.redraw();
  }

  /** Show one candidate alone, or all with null. */
  showOnly(index) {
    if (this.only === index) return;
    this.only = index;
    this.redraw();
  }

  /** Show a place in place of the outlines, or the outlines again with null. */
  showPlace(place) {
    this.place = place;
    this.redraw();
  }

  toggleHidden() {
    this.hidden = !this.hidden;
    this.changed();
  }

  /** Zoom to the candidates, or back to the whole image. */
  toggleZoom() {
    const core = this.item && coreOf(this.item.outlines);
    this.move((viewport) => (viewport.whole && core ? viewport.show(core) : viewport.fit()));
  }

  reset() {
    this.window = WHOLE_RANGE;
    this.move((viewport) => viewport.fit());
  }

  /** Moves are shares of the canvas: right narrows the window (more contrast), down darkens. */
  moveWindow(right, down) {
    const { centre, width } = this.window;
    this.window = clampWindow({ centre: centre + down * width, width: width * Math.exp(-2 * right) });
    this.changed();
  }

  move(change) {
    change(this.viewport);
    this.changed();
  }

  resize() {
    const { width, height } = fitToScreen(this.canvas);
    this.move((viewport) => viewport.resize(width, height));
  }

  changed() {
    this.redraw();
    this.dispatchEvent(new Event("change"));
  }

  redraw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  draw() {
    if (!this.item) {
      this.canvas.getContext("2d").reset();
      return;
    }
    if (this.place) {
      const { outline, style } = this.place;
      const own = outline && !this.hidden ? [{ outline, style, width: LINE_ALONE, labelled: false }] : [];
      drawView(this.canvas, this.viewport, this.item.picture, this.window, own);
      drawPlace(this.canvas, this.viewport, this.item.picture, this.place);
      return;
    }
    const alone = this.only !== null;
    const lines = this.hidden ? [] : this.item.outlines
      .map((outline, i) => ({ outline, style: this.item.styles[i], width: alone ? LINE_ALONE : LINE, labelled: true }))
      .filter((_, i) => !alone || i === this.only);
    drawView(this.canvas, this.viewport, this.item.picture, this.window, lines);
  }
}

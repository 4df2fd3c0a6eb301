// "Where is it?": a box or a point on the image, and the outline that the model makes of it.

import { Refused } from "./api.js";
import { Outline } from "./outlines.js";
import { untilReached } from "./retry.js";

const STEP = 2; // pixels of the slice that an arrow key moves
const FAR = 12; // with Shift
const LEAST = 2; // pixels of a box's side
const SLIP = 5; // pixels of the screen that a click may move
const REACH = 14; // pixels of the screen from a corner that still hit it
const FINGER = 26; // likewise, by touch
const STYLE = { colour: "#f0e442", dash: [] };

export class Where {
  /**
   * @param {Viewer} viewer
   * @param {((id: number, place: object) => Promise<{outline: number[][]}>) | null} segment asks the model; null where
   *   there is none
   * @param {() => void} changed told when something is marked, drawn or taken back
   */
  constructor(viewer, segment, changed) {
    Object.assign(this, { viewer, segment, changed });
    this.item = null;
    this.forget();
  }

  get active() {
    return this.item !== null;
  }

  /** Ask where the structure is; with an earlier answer, show that again. */
  open(item, { box, point } = {}) {
    this.item = item;
    this.forget();
    this.box = box ?? null;
    this.point = point ?? null;
    this.first = point ? point.map((index) => index + 0.5) : null;
    this.mark();
  }

  close() {
    this.item = null;
    this.forget();
    this.viewer.showPlace(null);
  }

  /** Whether there is a box or a point. */
  get marked() {
    return this.box !== null || this.point !== null;
  }

  /** What is stored of it: a box, a point, or nothing. */
  answer() {
    if (this.box) return { box: this.box };
    return this.point ? { point: this.point } : {};
  }

  /** What to do now, as a sentence. */
  hint() {
    const plain = this.segment ? "" : " No outline is drawn: the model is not here.";
    if (this.box) return `To mend it drag a corner, or click again.${plain}`;
    if (this.point) return `A click on the opposite corner makes a box of it.${plain}`;
    return "Where is it? Click two opposite corners, drag a box, or click on it.";
  }

  /** What is seen on the image, for its corner. */
  status() {
    if (this.drawing) return "Drawing …";
    if (this.problem) return this.problem;
    return this.outline?.empty ? "The model finds nothing there" : "";
  }

  clear() {
    this.forget();
    this.mark();
  }

  // ---- pointer and keyboard -------------------------------------------------------------------------------------

  /** A drag that begins here; see attachGestures. */
  grab(at, touch) {
    if (!this.active) return null;
    this.cursor = null;
    const before = { box: this.box, point: this.point, first: this.first };
    const cancel = () => {
      Object.assign(this, before);
      this.show();
    };
    const corner = this.cornerAt(at, touch ? FINGER : REACH);
    const dragged = corner ?? (this.inBox(at) ? this.moving(at) : (to) => boxAround(this.pixel(at), this.pixel(to)));
    let moved = false;
    const move = (to) => {
      moved ||= Math.hypot(to.x - at.x, to.y - at.y) > SLIP;
      if (!moved) return;
      const box = dragged(to);
      if (box) Object.assign(this, { box, point: null, first: null, outline: null });
      this.show();
    };
    const drop = (to) => {
      move(to);
      if (!moved) {
        if (!corner) this.click(this.pixel(at));
      } else this.mark();
    };
    return { move, drop, cancel };
  }

  /** The first click is a point, the second one makes a box of both, the next begins anew. */
  click(pixel) {
    const box = this.first && boxAround(this.first, pixel);
    const [x, y] = pixel;
    const { width, height } = this.item;
    Object.assign(this, box ? { box, point: null, first: null } : {
      box: null, first: pixel, point: [Math.min(Math.floor(x), width - 1), Math.min(Math.floor(y), height - 1)],
    });
    this.mark();
  }

  /** Move the cursor of the keyboard; the first step shows it. */
  step(right, down, far) {
    const { width, height } = this.item;
    if (this.cursor) {
      const pixels = far ? FAR : STEP;
      this.cursor = [inside(this.cursor[0] + pixels * right, width), inside(this.cursor[1] + pixels * down, height)];
    } else this.showCursor();
    this.show();
  }

  /** A click at the cursor; without one it is shown. */
  set() {
    if (this.cursor) this.click(this.cursor);
    else this.showCursor();
    this.show();
  }

  showCursor() {
    const { x, y, width, height } = this.viewer.viewport.seen;
    this.cursor = [inside((x + width / 2) / this.item.picture.stretch, this.item.width),
                   inside(y + height / 2, this.item.height)].map(Math.round);
  }

  // ---- geometry -------------------------------------------------------------------------------------------------

  /** Pixels of the slice, where (0, 0) is the first one's outer corner. */
  pixel({ x, y }) {
    const [right, down] = this.viewer.viewport.toImage(x, y);
    return [inside(right / this.item.picture.stretch, this.item.width), inside(down, this.item.height)];
  }

  /** Of the box's corner that is hit, how a drag of it changes the box; null where none is. */
  cornerAt({ x, y }, reach) {
    if (!this.box) return null;
    const [x0, y0, x1, y1] = this.box;
    const corners = [[[x0, y0], [x1, y1]], [[x1, y0], [x0, y1]], [[x1, y1], [x0, y0]], [[x0, y1], [x1, y0]]];
    const far = ([[right, down]]) => {
      const [left, top] = this.viewer.viewport.toCanvas([right * this.item.picture.stretch, down]);
      return Math.hypot(left - x, top - y);
    };
    const nearest = corners.reduce((best, one) => (far(one) < far(best) ? one : best));
    return far(nearest) <= reach ? (to) => boxAround(nearest[1], this.pixel(to)) : null;
  }

  inBox(at) {
    const [x, y] = this.pixel(at);
    return this.box !== null && x > this.box[0] && x < this.box[2] && y > this.box[1] && y < this.box[3];
  }

  /** How a drag from here shifts the whole box, which stays inside the image. */
  moving(at) {
    const [x, y] = this.pixel(at);
    const [x0, y0, x1, y1] = this.box;
    const { width, height } = this.item;
    return (to) => {
      const [toX, toY] = this.pixel(to);
      const right = Math.round(Math.min(Math.max(toX - x, -x0), width - x1));
      const down = Math.round(Math.min(Math.max(toY - y, -y0), height - y1));
      return [x0 + right, y0 + down, x1 + right, y1 + down];
    };
  }

  // ---- what is shown --------------------------------------------------------------------------------------------

  forget() {
    this.latest = null; // the place that was asked about last
    Object.assign(this, { box: null, point: null, first: null, cursor: null, outline: null, drawing: false, problem: "" });
  }

  /** Show what is marked, and ask for its outline. */
  async mark() {
    const place = this.answer();
    this.latest = place;
    const asked = this.segment !== null && this.marked;
    Object.assign(this, { drawing: asked, outline: null, problem: "" });
    this.show();
    if (!asked) return;
    const { id, subpixels, picture } = this.item;
    try {
      const current = () => this.latest === place;
      const reply = await untilReached(() => (current() ? this.segment(id, place) : null));
      if (current()) this.outline = new Outline(reply.outline, subpixels, picture.stretch);
    } catch (error) {
      // Whoever is signed out is told when the answer is stored.
      if (this.latest === place && error instanceof Refused) this.problem = `No outline: ${error.message}`;
    }
    if (this.latest !== place) return;
    this.drawing = false;
    this.show();
  }

  show() {
    if (!this.active) return;
    const { box, point, cursor, outline } = this;
    this.viewer.showPlace({ box, point, cursor, outline, style: STYLE });
    this.changed();
  }
}

/** Whole pixels; null where a side would be too short. */
function boxAround(one, other) {
  const [x0, x1] = [one[0], other[0]].sort((a, b) => a - b).map(Math.round);
  const [y0, y1] = [one[1], other[1]].sort((a, b) => a - b).map(Math.round);
  return x1 - x0 >= LEAST && y1 - y0 >= LEAST ? [x0, y0, x1, y1] : null;
}

function inside(value, size) {
  return Math.min(Math.max(value, 0), size);
}

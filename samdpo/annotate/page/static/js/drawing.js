// One drawing for the large view and the small ones: image without smoothing, outlines, labels.

import { strokeOutline } from "./outlines.js";

/** Make a canvas as many pixels as it covers on the screen; returns its size in CSS pixels. */
export function fitToScreen(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const ratio = window.devicePixelRatio || 1;
  const [across, down] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== across || canvas.height !== down) [canvas.width, canvas.height] = [across, down];
  return { width: Math.max(1, width), height: Math.max(1, height) };
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {Viewport} viewport in CSS pixels of the canvas
 * @param {Picture} picture
 * @param {{centre: number, width: number}} grey window of grey levels
 * @param {{outline: Outline, style: object, width: number, labelled: boolean}[]} lines what to draw on it
 */
export function drawView(canvas, viewport, picture, grey, lines) {
  const context = canvas.getContext("2d");
  const ratio = canvas.width / viewport.canvas.width;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  const { scale, x, y } = viewport;
  context.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * x, ratio * y);
  context.imageSmoothingEnabled = false;
  context.drawImage(picture.through(grey), 0, 0, picture.size.width, picture.size.height);
  for (const { outline, style, width } of lines) {
    strokeOutline(context, outline, style, scale, width, lines.length > 1);
  }
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  for (const { outline, style, labelled } of lines) {
    if (labelled && !outline.empty) drawLabel(context, viewport, outline, style);
  }
}

const LABEL = 18; // CSS pixels

function drawLabel(context, viewport, outline, style) {
  const [dx, dy] = style.direction;
  const away = (LABEL * 0.85) / Math.hypot(dx, dy);
  const [onX, onY] = viewport.toCanvas(outline.extreme(style.direction));
  const x = inside(onX + dx * away, viewport.canvas.width);
  const y = inside(onY + dy * away, viewport.canvas.height);
  context.fillStyle = style.colour;
  context.beginPath();
  context.roundRect(x - LABEL / 2, y - LABEL / 2, LABEL, LABEL, 4);
  context.fill();
  context.fillStyle = "#000";
  context.font = "600 13px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(style.label, x, y + 0.5);
}

function inside(value, size) {
  return Math.min(Math.max(value, LABEL / 2 + 2), size - LABEL / 2 - 2);
}

const HANDLE = 9; // CSS pixels
const RING = 7;
const CROSS = 14;

/**
 * What somebody marks on the image: a box with its corners, a point, the cursor of the keyboard.
 *
 * @param {{box: number[] | null, point: number[] | null, cursor: number[] | null}} place in pixels of the slice
 */
export function drawPlace(canvas, viewport, picture, { box, point, cursor }) {
  const context = canvas.getContext("2d");
  const ratio = canvas.width / viewport.canvas.width;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  const at = ([x, y]) => viewport.toCanvas([x * picture.stretch, y]);
  if (box) {
    const [left, top] = at(box.slice(0, 2));
    const [right, bottom] = at(box.slice(2));
    cased(context, 1.5, [6, 4], () => context.rect(left, top, right - left, bottom - top));
    for (const [x, y] of [[left, top], [right, top], [right, bottom], [left, bottom]]) {
      context.fillStyle = "#fff";
      context.strokeStyle = "#000";
      context.lineWidth = 1.5;
      context.beginPath();
      context.rect(x - HANDLE / 2, y - HANDLE / 2, HANDLE, HANDLE);
      context.fill();
      context.stroke();
    }
  }
  if (point) {
    const [x, y] = at(point.map((index) => index + 0.5));
    cased(context, 2, [], () => context.arc(x, y, RING, 0, 2 * Math.PI));
    cased(context, 2, [], () => context.arc(x, y, 1, 0, 2 * Math.PI));
  }
  if (cursor) {
    const [x, y] = at(cursor);
    cased(context, 1.5, [], () => {
      context.moveTo(x - CROSS, y);
      context.lineTo(x + CROSS, y);
      context.moveTo(x, y - CROSS);
      context.lineTo(x, y + CROSS);
    });
  }
}

/** A white line over a dark casing. */
function cased(context, width, dash, trace) {
  for (const [colour, across, gaps] of [["rgb(0 0 0 / 60%)", width + 2, []], ["#fff", width, dash]]) {
    context.strokeStyle = colour;
    context.lineWidth = across;
    context.setLineDash(gaps);
    context.beginPath();
    trace();
    context.stroke();
  }
  context.setLineDash([]);
}

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

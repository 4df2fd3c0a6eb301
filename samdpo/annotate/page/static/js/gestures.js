// Mouse, pen and touch on an image: drag for the window, wheel and pinch for zoom, two fingers or right drag to move.
// Whoever grabs the pointer when it goes down gets its drag instead.

const WHEEL = 0.0016; // zoom per pixel of wheel movement
const LINE_HEIGHT = 16; // pixels in a wheel step that is counted in lines
const DOUBLE_TAP = 320; // milliseconds
const TAP_REACH = 24; // pixels between the two taps, and that a finger may move within one

/**
 * @param {HTMLElement} element
 * @param {{window: (right: number, down: number) => void, pan: (dx: number, dy: number) => void,
 *          zoom: (factor: number, x: number, y: number) => void, reset: () => void,
 *          grab: (at: {x: number, y: number}, touch: boolean) => Grip | null}} actions
 * A Grip has move(at), drop(at), and cancel(), of a drag that turns into a pinch.
 */
export function attachGestures(element, actions) {
  const pointers = new Map();
  let moves = false; // right, middle or Shift drag
  let pinched = false; // a finger that stays after a pinch does nothing more
  let tap = null; // where and when the last tap was
  let grip = null; // of who has grabbed the pointer

  const place = (event) => {
    const box = element.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };

  element.addEventListener("pointerdown", (event) => {
    element.setPointerCapture(event.pointerId);
    moves = event.button !== 0 || event.shiftKey;
    if (pointers.size === 0) {
      pinched = false;
      grip = moves ? null : actions.grab(place(event), event.pointerType === "touch");
    } else letGo();
    pointers.set(event.pointerId, { ...place(event), start: place(event) });
    event.preventDefault();
  });

  element.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = place(event);
    if (grip) grip.move(now);
    else if (pointers.size === 1) drag(now.x - before.x, now.y - before.y);
    else pinch(event.pointerId, before, now);
    pointers.set(event.pointerId, { ...now, start: before.start });
  });

  for (const end of ["pointerup", "pointercancel"]) {
    element.addEventListener(end, (event) => {
      const pointer = pointers.get(event.pointerId);
      pointers.delete(event.pointerId);
      if (!pointer) return;
      if (grip && end === "pointerup") {
        grip.drop(place(event));
        grip = null;
      } else if (grip) letGo();
      else if (end === "pointerup" && event.button === 0) noticeTap(event.timeStamp, place(event), pointer.start);
    });
  }

  element.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { x, y } = place(event);
    const pixels = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? event.deltaY * LINE_HEIGHT : event.deltaY;
    actions.zoom(Math.exp(-pixels * WHEEL), x, y);
  }, { passive: false });

  element.addEventListener("contextmenu", (event) => event.preventDefault());

  function letGo() {
    grip?.cancel();
    grip = null;
  }

  function drag(dx, dy) {
    if (pinched) return;
    if (moves) actions.pan(dx, dy);
    else actions.window(dx / element.clientWidth, dy / element.clientHeight);
  }

  function pinch(id, before, now) {
    const other = [...pointers].find(([key]) => key !== id)[1];
    const factor = distance(now, other) / Math.max(distance(before, other), 1);
    actions.zoom(factor, (now.x + other.x) / 2, (now.y + other.y) / 2);
    actions.pan((now.x - before.x) / 2, (now.y - before.y) / 2);
    pinched = true;
    tap = null;
  }

  // Not the browser's dblclick: it comes for mice alone where touch is handled here.
  function noticeTap(time, at, start) {
    if (distance(at, start) > TAP_REACH / 4) tap = null;
    else if (tap && time - tap.time < DOUBLE_TAP && distance(at, tap) < TAP_REACH) {
      tap = null;
      actions.reset();
    } else tap = { ...at, time };
  }
}

function distance(a, b) {
  return Math.hypot(a.x - b.x, a.y - b.y);
}

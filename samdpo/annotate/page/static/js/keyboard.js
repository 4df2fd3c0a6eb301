// Keys -> actions. What an action does is not known here.

const ACTIONS = {
  "=": "tie", "0": "none", s: "skip", u: "undo", h: "hide", z: "zoom", r: "reset", ",": "darker", ".": "brighter",
  "?": "help", Enter: "next", " ": "space", Escape: "back", Backspace: "clear", Delete: "clear",
  ArrowRight: "right", ArrowLeft: "left", ArrowDown: "down", ArrowUp: "up",
};
const REPEATING = new Set(["darker", "brighter", "left", "right", "down", "up"]);

/**
 * @param {(action: string, shift: boolean) => void} act
 * @param {(digit: number) => void} digit 1 to 8
 * @param {(letter: number) => boolean} letter 0 for A …; says whether it is one in use
 */
export function attachKeyboard({ act, digit, letter }) {
  window.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    // A button that was reached by Tab is pressed by Enter and Space, as everywhere.
    if ((event.key === "Enter" || event.key === " ") && document.activeElement?.matches("button:focus-visible")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const action = ACTIONS[key];
    if (event.repeat && !REPEATING.has(action)) return;
    if (/^[1-8]$/.test(key)) digit(Number(key));
    else if (/^[a-h]$/.test(key) && letter(key.charCodeAt(0) - 97)) event.preventDefault();
    else if (action) act(action, event.shiftKey);
    else return;
    event.preventDefault();
  });
}

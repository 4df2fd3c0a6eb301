// How each candidate is told apart: colour, dash and label, so that none of them is needed alone.

// Okabe & Ito 2008, "Color Universal Design", without black and the blue that is too dark for a dark page.
const COLOURS = ["#56b4e9", "#e69f00", "#cc79a7", "#009e73", "#f0e442", "#d55e00", "#ffffff", "#b3b3b3"];

// Lengths of line and gap in pixels of the screen.
const DASHES = [[], [11, 5], [3, 3], [13, 4, 3, 4], [6, 3], [18, 6], [3, 7], [9, 3, 3, 3, 3, 3]];

// Where on its outline a candidate's label sits, as a direction (x, y): different ones, so that labels do not overlap.
const DIRECTIONS = [[-1, -1], [1, -1], [1, 1], [-1, 1], [0, -1], [1, 0], [0, 1], [-1, 0]];

/** In rating mode digits are stars, so that candidates have letters. */
export function styleOf(index, mode) {
  return {
    colour: COLOURS[index],
    dash: DASHES[index],
    direction: DIRECTIONS[index],
    label: mode === "rating" ? String.fromCharCode(65 + index) : String(index + 1),
  };
}

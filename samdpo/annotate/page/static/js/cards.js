// The small views side by side, one for each candidate, with the buttons that place or rate it.

import { drawView, fitToScreen } from "./drawing.js";
import { element, lineSample } from "./elements.js";
import { boundsOf } from "./outlines.js";
import { Viewport } from "./viewport.js";

const LINE = 2; // CSS pixels
const STARS = [1, 2, 3, 4];

export class Cards {
  /**
   * @param {HTMLElement} list
   * @param {string} mode
   * @param {{look: (index: number | null) => void, press: (index: number, stars?: number) => void,
   *          accept: (index: number) => void}} actions look: show one alone, or none in particular with null; press: place
   *   it, choose it, or give it stars; accept: it is right as it is
   */
  constructor(list, mode, actions) {
    this.list = list;
    this.mode = mode;
    this.actions = actions;
    this.cards = [];
    this.resized = new ResizeObserver(() => this.redraw());
    this.redraw = () => {};
  }

  /** @param {object | null} item see Loader */
  show(item) {
    const count = item?.outlines.length ?? 0;
    if (count !== this.cards.length) this.build(count);
    this.list.dataset.count = count;
    this.cards.forEach((card, i) => this.dress(card, i, item));
  }

  /** Draw every view: the part of the image that the large view is zoomed to, else the part with candidates. */
  draw(item, window, seen, hidden) {
    const region = seen ?? boundsOf(item.outlines);
    this.redraw = () => {
      for (const [i, { canvas }] of this.cards.entries()) {
        const viewport = new Viewport();
        viewport.canvas = fitToScreen(canvas);
        viewport.image = item.picture.size;
        if (region) viewport.show(region, seen ? 0 : undefined);
        else viewport.fit();
        const line = { outline: item.outlines[i], style: item.styles[i], width: LINE, labelled: false };
        drawView(canvas, viewport, item.picture, window, hidden ? [] : [line]);
      }
    };
    this.redraw();
  }

  /** @param {{text?: string, rank?: number | null, byItself?: boolean, stars?: number | null}[]} marks */
  mark(marks, selected) {
    this.cards.forEach(({ card, place, text, stars }, i) => {
      const { text: said = "", rank = null, byItself = false, stars: given = null } = marks[i];
      card.classList.toggle("marked", rank !== null || given !== null);
      card.classList.toggle("by-itself", byItself);
      card.classList.toggle("selected", i === selected);
      card.dataset.rank = rank ?? "";
      if (place) {
        text.textContent = said;
        place.setAttribute("aria-pressed", String(rank !== null && !byItself));
      }
      stars.forEach((star, s) => {
        star.classList.toggle("lit", given !== null && s < given);
        star.setAttribute("aria-pressed", String(given === STARS[s]));
      });
    });
  }

  build(count) {
    this.resized.disconnect();
    this.cards = Array.from({ length: count }, (_, i) => this.makeCard(i));
    this.list.replaceChildren(...this.cards.map(({ card }) => card));
    for (const { canvas } of this.cards) this.resized.observe(canvas);
  }

  makeCard(index) {
    const { look, press, accept } = this.actions;
    const canvas = element("canvas", { "aria-hidden": "true" });
    const view = element("button", { type: "button", class: "small-view" }, canvas);
    const sample = lineSample();
    const key = element("kbd");
    const parts = { canvas, view, sample, key, place: null, right: null, text: null, stars: [] };
    const name = element("span", { class: "name" }, sample, key);
    if (this.mode === "rating") {
      parts.stars = STARS.map((s) => element("button", { type: "button", class: "star" }, "★"));
      parts.stars.forEach((star, s) => star.addEventListener("click", () => press(index, STARS[s])));
      const group = element("span", { class: "stars", role: "group" }, ...parts.stars);
      parts.card = element("li", { class: "candidate" }, view, element("div", { class: "foot" }, name, group));
    } else {
      parts.text = element("span", { class: "mark" });
      parts.place = element("button", { type: "button", class: "place foot" }, name, parts.text);
      parts.place.addEventListener("click", () => press(index));
      parts.right = element("button", { type: "button", class: "right" }, "✓");
      parts.right.addEventListener("click", () => accept(index));
      const foot = element("div", { class: "feet" }, parts.place, parts.right);
      parts.card = element("li", { class: "candidate" }, view, foot);
    }
    // A mouse looks by pointing and places by a click; a finger looks by a touch and places by the button below.
    view.addEventListener("click", (event) => {
      if (event.pointerType === "mouse" && this.mode !== "rating") press(index);
      else look(index);
    });
    parts.card.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && look(index));
    parts.card.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && look(null));
    this.lookWhileFocused(parts.card, index);
    return parts;
  }

  // Only where the keyboard has moved the focus: a click moves it, too, and must not take away what the pointer shows.
  lookWhileFocused(card, index) {
    let looking = false;
    card.addEventListener("focusin", (event) => {
      if (!event.target.matches(":focus-visible")) return;
      looking = true;
      this.actions.look(index);
    });
    card.addEventListener("focusout", (event) => {
      if (!looking || card.contains(event.relatedTarget)) return;
      looking = false;
      this.actions.look(null);
    });
  }

  dress({ card, view, sample, key, place, right, stars }, i, item) {
    const { colour, dash, label } = item.styles[i];
    card.style.setProperty("--colour", colour);
    card.classList.toggle("empty", item.outlines[i].empty);
    sample.show(colour, dash);
    key.textContent = label;
    view.setAttribute("aria-label", `Candidate ${label}: show it alone${item.outlines[i].empty ? "; it is empty" : ""}`);
    place?.setAttribute("aria-label", `Candidate ${label}`);
    right?.setAttribute("aria-label", `Candidate ${label} is right`);
    right?.setAttribute("title", `${label} is right as it is`);
    stars.forEach((star, s) => star.setAttribute("aria-label", `${STARS[s]} of 4 stars for candidate ${label}`));
  }
}

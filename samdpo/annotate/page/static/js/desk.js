// One person's work: an item on the desk, what is said about it, and the way to the next.

import { Refused, SignedOut, newKey } from "./api.js";
import { Cards } from "./cards.js";
import { Clock } from "./clock.js";
import { showHelp, showNotice } from "./dialogs.js";
import { newJudgement } from "./judgement.js";
import { Loader } from "./loader.js";
import { WHOLE_RANGE } from "./picture.js";
import { untilReached } from "./retry.js";
import { Status } from "./status.js";
import { Viewer } from "./viewer.js";
import { Where } from "./where.js";

const LOOK_AGAIN = 20_000; // milliseconds between questions whether somebody has left an item
const SOON = 250; // milliseconds in which storing needs no words
const BRIGHTNESS_STEP = 0.04; // of the window
const TOO_SOON = 300; // milliseconds after an item has come: a key that was pressed twice, not an answer to it
const ALL = "all";

const byId = (id) => document.getElementById(id);

export class Desk {
  constructor({ api, outbox, mode, volumes, decodes, reviews, ordered }) {
    Object.assign(this, { api, outbox, mode, reviews, ordered });
    this.loader = new Loader(api, mode);
    this.clock = new Clock();
    this.status = new Status(this.clock, volumes);
    this.viewer = new Viewer(byId("image"), (at, touch) => (this.busy ? null : this.where.grab(at, touch)));
    this.where = new Where(this.viewer, decodes ? api.segment : null, () => this.showMarks());
    this.cards = new Cards(byId("candidates"), mode, {
      look: (index) => this.look(index),
      press: (index, stars) => this.press(index, stars),
      accept: (index) => this.accept(index),
    });
    this.viewer.addEventListener("change", () => this.showView());
    this.item = null;
    this.busy = false;
  }

  /** Deliver what an earlier page could not, then take the next item. */
  start() {
    const waiting = this.outbox.waiting;
    return waiting ? this.during(() => this.deliver(waiting)) : this.takeNext();
  }

  takeNext() {
    return this.during(() => untilReached(this.api.next, this.told));
  }

  /** Whether a judgement is not stored yet. */
  get unsaved() {
    return this.outbox.waiting !== null;
  }

  // ---- what keys and buttons do ---------------------------------------------------------------------------------

  act(action, shift = false) {
    if (action === "help") showHelp();
    else if (action === "undo") this.undo();
    else if (this.item && !this.busy) this[action]?.(shift);
  }

  hide = () => this.viewer.toggleHidden();
  zoom = () => this.viewer.toggleZoom();
  reset = () => this.viewer.reset();
  darker = () => this.viewer.moveWindow(0, BRIGHTNESS_STEP);
  brighter = () => this.viewer.moveWindow(0, -BRIGHTNESS_STEP);
  left = (far) => (this.where.active ? this.where.step(-1, 0, far) : this.lookBy(-1));
  right = (far) => (this.where.active ? this.where.step(1, 0, far) : this.lookBy(1));
  up = (far) => (this.where.active ? this.where.step(0, -1, far) : this.lookBy(-1));
  down = (far) => (this.where.active ? this.where.step(0, 1, far) : this.lookBy(1));
  space = () => (this.where.active ? this.where.set() : this.next());
  back = () => this.where.active && this.none();
  clear = () => this.where.active && this.where.clear();
  skip = () => this.submit({ verdict: "skipped" });
  tie = () => this.change(() => this.judgement.toggleTie?.());

  /** None is right, which asks where it is; again: back to the candidates. */
  none = () => {
    this.judgement.toggleNone();
    if (this.judgement.none) this.where.open(this.item);
    else this.where.close();
    this.showMarks();
  };

  /** What the large button says. */
  next = () => {
    const answer = this.judgement.answer();
    if (answer) this.submit({ ...answer, ...this.where.answer() });
    else if (this.target !== null) this.accept(this.target);
    else this.urge();
  };

  /** The candidate that the large button calls right, or null. */
  get target() {
    return this.judgement.acceptable(this.looked === ALL ? null : this.looked);
  }

  accept(index) {
    if (!this.item || this.busy || this.where.active || performance.now() - this.shownAt < TOO_SOON) return;
    this.submit({ verdict: "accepted", best: index });
  }

  digit(number) {
    if (!this.item || this.busy || this.where.active) return;
    if (this.mode === "rating") {
      if (number <= 4) this.press(this.selected, number);
    } else if (number <= this.item.outlines.length) this.press(number - 1);
  }

  /** A letter chooses a candidate to rate; says whether it did. */
  letter(index) {
    if (this.mode !== "rating" || !this.item || this.where.active || index >= this.item.outlines.length) return false;
    this.look(index);
    return true;
  }

  /** Place a candidate, give it stars, or choose it as the best. */
  press(index, stars) {
    if (!this.item || this.busy || this.where.active) return;
    if (this.reviews) {
      this.accept(index);
      return;
    }
    this.change(() => (this.mode === "rating" ? this.judgement.press(stars, index) : this.judgement.press(index)));
    if (this.mode === "rating") this.selectNextOpen(index);
    if (this.mode === "best" && this.judgement.answer()) this.next();
  }

  /** Point at one candidate, which is shown alone, or at none with null. */
  look(index) {
    if (!this.item || this.where.active) return;
    if (index !== null) this.selected = index;
    this.pointed = index;
    if (index === null) this.looked = null;
    this.showMarks();
  }

  /** By keyboard: one candidate after the other alone, then all together. */
  lookBy(step) {
    const places = this.item.outlines.length + 1; // the last one is: all together
    const now = this.viewer.only ?? places - 1;
    const then = (now + step + places) % places;
    this.pointed = null;
    this.looked = then === places - 1 ? ALL : then;
    if (this.looked !== ALL) this.selected = this.looked;
    this.showMarks();
  }

  /** The candidate that the large view shows alone, or null: the one in question while nothing is said. */
  get alone() {
    if (this.pointed !== null) return this.pointed;
    if (this.looked !== null) return this.looked === ALL ? null : this.looked;
    return this.judgement.marks().some(({ rank }) => rank) ? null : this.target;
  }

  selectNextOpen(index) {
    const open = this.judgement.nextOpen(index);
    if (open === null || this.judgement.ratings[index] === null) return;
    if (this.viewer.only === null) this.selected = open;
    else if (this.pointed !== null) this.look(open);
    else [this.looked, this.selected] = [open, open];
    this.showMarks();
  }

  change(make) {
    make();
    this.showMarks();
  }

  // ---- from one item to the next --------------------------------------------------------------------------------

  submit(answer) {
    const judgement = {
      item: this.item.id, mode: this.mode, seconds: this.clock.seconds, client_key: newKey(), ...answer,
    };
    return this.during(() => this.deliver(judgement));
  }

  async deliver(judgement) {
    const reply = await this.outbox.deliver(judgement, this.told);
    this.status.showStored("stored");
    return reply;
  }

  undo() {
    const undoKey = newKey();
    return this.during(async () => {
      const reply = await untilReached(() => this.api.undo(undoKey), this.told);
      this.status.showStored("idle");
      return reply;
    });
  }

  /** Ask for something that is answered with the next item, one thing at a time; words where it takes long. */
  async during(ask) {
    if (this.busy) return;
    this.busy = true;
    clearTimeout(this.lookingAgain);
    const words = setTimeout(() => this.status.showStored("sending"), SOON);
    document.body.classList.add("busy");
    try {
      await this.show(await ask());
    } catch (error) {
      this.failed(error);
    } finally {
      clearTimeout(words);
      document.body.classList.remove("busy");
      this.busy = false;
    }
  }

  told = () => this.status.showStored("waiting");

  async failed(error) {
    if (error instanceof SignedOut) {
      await showNotice("You are signed out", "Sign in again to go on. What was not stored yet is kept in this browser "
        + "and is stored then.", "Sign in");
      window.location.assign("/sign-in");
    } else if (error instanceof Refused) {
      await showNotice("This was not stored", error.message);
      this.takeNext();
    } else {
      await showNotice("The page has a fault", `Load it again; nothing that is stored is lost. (${error.message})`);
      throw error;
    }
  }

  async show({ item: id, progress, upcoming, undone, outlook }) {
    this.status.show(progress);
    this.status.showOutlook(outlook);
    const item = id === null ? null : await this.loader.load(id);
    const back = undone?.item === id ? undone : null;
    this.where.close();
    this.item = item;
    Object.assign(this, { selected: 0, pointed: null, looked: null, shownAt: performance.now() });
    this.judgement = item && newJudgement(this.mode, item.outlines.length, this.ordered ? 0 : null);
    if (back) this.judgement.restore(back);
    this.clock.restart(back?.seconds);
    this.status.showItem(item);
    this.cards.show(item);
    this.viewer.show(item);
    document.body.classList.toggle("finished", item === null);
    if (item) {
      if (this.judgement.none) this.where.open(item, back);
      this.showMarks();
      this.loader.prefetch(upcoming);
    } else this.lookingAgain = setTimeout(() => this.takeNext(), LOOK_AGAIN);
  }

  // ---- what is seen ---------------------------------------------------------------------------------------------

  showView() {
    const { viewer, item } = this;
    pressed("hide", viewer.hidden);
    if (!item) return;
    const { centre, width } = viewer.window;
    byId("window").textContent = viewer.window === WHOLE_RANGE ? ""
      : `window ${Math.round(100 * width)} % · level ${Math.round(100 * centre)} %`;
    byId("image").classList.toggle("zoomed", !viewer.viewport.whole);
    document.querySelector("[data-action=zoom] span").textContent = viewer.viewport.whole ? "Zoom in" : "Zoom out";
    this.cards.draw(item, viewer.window, viewer.viewport.whole ? null : viewer.viewport.seen, viewer.hidden);
    this.showWhich();
  }

  showMarks() {
    const { judgement, mode, where } = this;
    this.viewer.showOnly(this.alone);
    this.cards.mark(judgement.marks(), mode === "rating" ? this.selected : this.viewer.only);
    document.body.classList.toggle("where", where.active);
    byId("image").dataset.outline = where.active && where.outline ? "drawn" : "";
    pressed("none", judgement.none);
    pressed("tie", judgement.tieNext === true);
    const { target } = this;
    const missing = judgement.missing();
    byId("note").textContent = this.item.note;
    byId("hint").textContent = where.active ? where.hint()
      : this.reviews ? "Is it right? If not, say where it is."
      : target !== null ? `Is ${this.labelOf(target)} right? ${missing}`
      : missing || "Complete – Enter stores it";
    byId("hint").classList.remove("urging");
    this.showNext(target, missing);
    this.showWhich();
  }

  /** What Enter does, on the large button. */
  showNext(target, missing) {
    const [key, text] = this.where.active
      ? ["Enter", this.where.marked ? "Store this place" : this.reviews ? "It is not here" : "I cannot say where"]
      : target !== null ? ["Space", `${this.reviews ? "It" : this.labelOf(target)} is right`]
      : ["Enter", { ranking: "Store the order", rating: "Store the stars", best: "Store the best" }[this.mode]];
    const button = document.querySelector("[data-action=next]");
    button.querySelector("kbd").textContent = key;
    button.querySelector("span").textContent = text;
    button.classList.toggle("ready", this.where.active || target !== null || missing === "");
  }

  labelOf(index) {
    return this.item.styles[index].label;
  }

  showWhich() {
    const { only, hidden } = this.viewer;
    byId("shown").textContent = hidden ? "Outlines are hidden"
      : this.where.active ? this.where.status()
      : only === null || (this.pointed ?? this.looked) === null ? "" : `Candidate ${this.labelOf(only)} alone`;
  }

  urge() {
    byId("hint").classList.remove("urging");
    requestAnimationFrame(() => byId("hint").classList.add("urging"));
  }
}

function pressed(action, on) {
  for (const button of document.querySelectorAll(`[data-action=${action}]`)) button.setAttribute("aria-pressed", on);
}

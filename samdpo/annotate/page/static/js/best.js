// Rules of best-only mode.

import { range } from "./ranges.js";

/** The best candidate alone. */
export class Best {
  constructor(count) {
    this.count = count;
    this.best = null;
    this.none = false;
  }

  press(candidate) {
    this.none = false;
    this.best = this.best === candidate ? null : candidate;
  }

  toggleNone() {
    Object.assign(this, { none: !this.none, best: null });
  }

  marks() {
    return range(this.count).map((i) => ({ text: i === this.best ? "best" : "", rank: i === this.best ? 1 : null }));
  }

  answer() {
    if (this.none) return { verdict: "none_acceptable" };
    return this.best === null ? null : { verdict: "ranked", best: this.best };
  }

  missing() {
    return this.answer() ? "" : "Which outline is best?";
  }

  restore({ verdict, best }) {
    this.none = verdict === "none_acceptable";
    this.best = best ?? null;
  }
}

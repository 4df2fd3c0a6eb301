// Rules of best-only mode.

import { range } from "./ranges.js";

/** The best candidate alone. */
export class Best {
  constructor(count, first) {
    Object.assign(this, { count, first });
    this.best = null;
    this.none = false;
    this.accepted = null; // what was called right before an undo
  }

  press(candidate) {
    Object.assign(this, { none: false, accepted: null });
    this.best = this.best === candidate ? null : candidate;
  }

  toggleNone() {
    Object.assign(this, { none: !this.none, best: null, accepted: null });
  }

  marks() {
    return range(this.count).map((i) => ({
      text: i === this.best ? "best" : i === this.accepted ? "right" : "", rank: i === this.best ? 1 : null,
    }));
  }

  /** The candidate of whom "is right" would be said now, or null; `looked` is one that is looked at by the keyboard. */
  acceptable(looked) {
    return this.none ? null : looked ?? this.accepted ?? this.best ?? this.first;
  }

  answer() {
    if (this.none) return { verdict: "none_acceptable" };
    return this.best === null ? null : { verdict: "ranked", best: this.best };
  }

  missing() {
    return this.answer() ? "" : this.first === null ? "Which one is best?" : "If not: which is best, or is none right?";
  }

  restore({ verdict, best }) {
    this.none = verdict === "none_acceptable";
    this.best = verdict === "ranked" ? best : null;
    this.accepted = verdict === "accepted" ? best : null;
  }
}

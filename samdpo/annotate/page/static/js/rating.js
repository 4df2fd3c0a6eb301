// Rules of rating mode.

import { range } from "./ranges.js";

/** Stars for each candidate, 1 (bad) to 4. */
export class Rating {
  constructor(count) {
    this.ratings = Array(count).fill(null);
    this.none = false;
  }

  press(stars, candidate) {
    this.none = false;
    this.ratings[candidate] = this.ratings[candidate] === stars ? null : stars;
  }

  toggleNone() {
    Object.assign(this, { none: !this.none, ratings: this.ratings.map(() => null) });
  }

  marks() {
    return this.ratings.map((stars) => ({ stars }));
  }

  /** The first candidate without stars, counted on from another; null where all have some. */
  nextOpen(after) {
    const count = this.ratings.length;
    return range(count).map((i) => (after + i) % count).find((i) => this.ratings[i] === null) ?? null;
  }

  /** Stars say it already. */
  acceptable() {
    return null;
  }

  answer() {
    if (this.none) return { verdict: "none_acceptable" };
    return this.ratings.includes(null) ? null : { verdict: "ranked", ratings: this.ratings };
  }

  missing() {
    const open = this.ratings.filter((stars) => stars === null).length;
    if (open === this.ratings.length) return this.none ? "" : "How good is each outline?";
    return open === 0 ? "" : `${open} still without stars`;
  }

  restore({ verdict, ratings }) {
    this.none = verdict === "none_acceptable";
    if (ratings) this.ratings = [...ratings];
  }
}

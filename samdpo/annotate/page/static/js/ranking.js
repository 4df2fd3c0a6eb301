// Rules of ranking mode.

import { range } from "./ranges.js";

const ORDINALS = ["1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th"];

/** Candidates in order, best first; those that tie share a place. */
export class Ranking {
  constructor(count, first) {
    Object.assign(this, { count, first });
    this.groups = []; // lists of candidates, best first
    this.tieNext = false;
    this.none = false;
    this.accepted = null; // what was called right before an undo
  }

  /** Place a candidate next, or with the last where a tie was asked for; take it back where it has a place. */
  press(candidate) {
    Object.assign(this, { none: false, accepted: null });
    const taken = this.groups.map((group) => group.filter((other) => other !== candidate)).filter((g) => g.length);
    const placed = taken.flat().length < this.groups.flat().length;
    this.groups = placed ? taken : withPlaced(this.groups, candidate, this.tieNext);
    this.tieNext = false;
  }

  toggleTie() {
    this.tieNext = !this.tieNext && this.groups.length > 0 && this.unplaced.length > 0;
  }

  toggleNone() {
    Object.assign(this, { none: !this.none, groups: [], tieNext: false, accepted: null });
  }

  get unplaced() {
    return range(this.count).filter((candidate) => !this.groups.some((group) => group.includes(candidate)));
  }

  /** Groups with the last candidate left, whose place is clear without a key. */
  get completed() {
    const [last, ...others] = this.unplaced;
    const clear = last !== undefined && others.length === 0 && this.groups.length > 0;
    return clear ? withPlaced(this.groups, last, this.tieNext) : this.groups;
  }

  /** For each candidate its rank from 1, or null. */
  get ranks() {
    return range(this.count).map((candidate) => {
      const rank = this.completed.findIndex((group) => group.includes(candidate));
      return rank < 0 ? null : rank + 1;
    });
  }

  marks() {
    const open = this.unplaced;
    const place = (rank) => ORDINALS[rank - 1] + (this.completed[rank - 1].length > 1 ? " =" : "");
    return this.ranks.map((rank, i) => ({
      text: i === this.accepted ? "right" : rank === null ? "" : place(rank),
      rank,
      byItself: rank !== null && open.includes(i),
    }));
  }

  /** The candidate of whom "is right" would be said now, or null; `looked` is one that is looked at by the keyboard. */
  acceptable(looked) {
    const placed = this.groups.flat();
    if (this.none || this.tieNext || placed.length > 1 || this.answer()) return null;
    return placed[0] ?? looked ?? this.accepted ?? this.first;
  }

  answer() {
    if (this.none) return { verdict: "none_acceptable" };
    return this.ranks.includes(null) ? null : { verdict: "ranked", ranks: this.ranks };
  }

  missing() {
    if (this.answer()) return "";
    if (this.groups.length === 0) {
      return this.first === null ? "Which one is best?" : "If not: number them, best first, or none is right.";
    }
    return this.tieNext ? `Which one is ${ORDINALS[this.groups.length - 1]} too?`
      : `Which is ${ORDINALS[this.groups.length]}?`;
  }

  restore({ verdict, ranks, best }) {
    this.none = verdict === "none_acceptable";
    this.accepted = verdict === "accepted" ? best : null;
    if (!ranks) return;
    const places = new Set(ranks);
    this.groups = [...places].sort((a, b) => a - b)
      .map((rank) => range(this.count).filter((candidate) => ranks[candidate] === rank));
  }
}

function withPlaced(groups, candidate, tied) {
  return tied ? [...groups.slice(0, -1), [...groups.at(-1), candidate]] : [...groups, [candidate]];
}

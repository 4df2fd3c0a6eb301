// What a person has said so far about one item. No page, no server: just the rules.
//
// Ranking, Rating and Best are made with the number of candidates and the one that is in question while nothing is said
// (null where none is), and have in common:
//   press(…)        place a candidate, give it stars, choose it; again: take it back
//   toggleNone()    none is acceptable, which takes the place of any marks
//   marks()         what is shown at each candidate
//   acceptable(i)   the candidate that one key calls right, or null
//   answer()        what is stored, or null while something is missing
//   missing()       what is missing, as a sentence; "" where nothing is
//   restore(answer) as it was when it was stored

import { Best } from "./best.js";
import { Ranking } from "./ranking.js";
import { Rating } from "./rating.js";

const MODES = { ranking: Ranking, rating: Rating, best: Best };

/** An empty judgement about this many candidates; see above. */
export function newJudgement(mode, count, first) {
  return new MODES[mode](count, first);
}

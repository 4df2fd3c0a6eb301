// Try again until the server answers.

import { Unreachable } from "./api.js";

const FIRST = 500; // milliseconds
const LONGEST = 8000;

/**
 * Repeat an attempt while the server is unreachable: after half a second, one, two, … eight, or once the browser says
 * that the network is back.
 *
 * @param {() => Promise<T>} attempt must be harmless when it is done twice
 * @param {(error: Unreachable) => void} onFailure told after each attempt that failed
 * @returns {Promise<T>} rejects with any other error
 * @template T
 */
export async function untilReached(attempt, onFailure = () => {}) {
  for (let pause = FIRST; ; pause = Math.min(2 * pause, LONGEST)) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      onFailure(error);
      await pauseOrOnline(pause);
    }
  }
}

function pauseOrOnline(milliseconds) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      window.removeEventListener("online", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    window.addEventListener("online", done);
  });
}

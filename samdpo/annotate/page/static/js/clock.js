// How long somebody has looked at an item; stands still while the page is hidden.

export class Clock {
  constructor() {
    this.past = 0; // milliseconds before the last pause
    this.since = performance.now();
    document.addEventListener("visibilitychange", () => (document.hidden ? this.pause() : this.resume()));
  }

  /** Start anew; an item that comes back after an undo goes on from the time it had. */
  restart(seconds = 0) {
    this.past = 1000 * seconds;
    this.since = document.hidden ? null : performance.now();
  }

  get seconds() {
    return (this.past + (this.since === null ? 0 : performance.now() - this.since)) / 1000;
  }

  pause() {
    this.past = 1000 * this.seconds;
    this.since = null;
  }

  resume() {
    this.since ??= performance.now();
  }
}

/** 7 s, 1 min 5 s */
export function spoken(seconds) {
  const whole = Math.round(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

// A judgement on its way to the server. It is kept in the browser until the server has said that it is stored, so that
// a lost network, a reload or a new sign-in does not lose it; its client_key makes sure that it counts once.

import { Refused } from "./api.js";
import { untilReached } from "./retry.js";

export class Outbox {
  /**
   * @param {Storage} storage of the browser
   * @param {string} key under which the judgement is kept; one for each person and candidate set
   * @param {(judgement: object) => Promise<object>} send
   */
  constructor(storage, key, send) {
    this.storage = storage;
    this.key = key;
    this.send = send;
  }

  /** The judgement of which the server has not said that it is stored, or null. */
  get waiting() {
    try {
      return JSON.parse(this.storage.getItem(this.key));
    } catch {
      return null;
    }
  }

  /**
   * Send a judgement until it is stored.
   *
   * @returns {Promise<object>} the server's reply; rejects with SignedOut, which keeps the judgement, or Refused, which
   *   does not
   */
  async deliver(judgement, onFailure) {
    this.storage.setItem(this.key, JSON.stringify(judgement));
    try {
      const reply = await untilReached(() => this.send(judgement), onFailure);
      this.storage.removeItem(this.key);
      return reply;
    } catch (error) {
      if (error instanceof Refused) this.storage.removeItem(this.key);
      throw error;
    }
  }
}

// Items with their pixels, loaded ahead so that the next one is there at once.

import { Outline } from "./outlines.js";
import { Picture } from "./picture.js";
import { untilReached } from "./retry.js";
import { styleOf } from "./styles.js";

const KEPT = 8; // items; the oldest is forgotten

export class Loader {
  constructor(api, mode) {
    this.api = api;
    this.mode = mode;
    this.items = new Map(); // id -> promise of an item
  }

  /** Load items that probably come next; a failure shows when they are needed. */
  prefetch(ids) {
    for (const id of ids) this.load(id).catch(() => {});
  }

  /** An item ready to be shown; waits for the network where needed. */
  load(id) {
    if (!this.items.has(id)) {
      const item = this.make(id);
      item.catch(() => this.items.delete(id));
      this.items.set(id, item);
      if (this.items.size > KEPT) this.items.delete(this.items.keys().next().value);
    }
    return this.items.get(id);
  }

  async make(id) {
    const [content, pixels] = await Promise.all([
      untilReached(() => this.api.item(id)), untilReached(() => this.api.pixels(id)),
    ]);
    const picture = new Picture(content, pixels);
    const outlines = content.candidates.map((p) => new Outline(p, content.subpixels, picture.stretch));
    return {
      ...content,
      outlines,
      styles: outlines.map((_, i) => styleOf(i, this.mode)),
      picture,
    };
  }
}

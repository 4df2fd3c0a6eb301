// The bar at the top: how far, how fast, and whether everything is stored.

import { spoken } from "./clock.js";

export class Status {
  constructor(clock, volumes) {
    this.clock = clock;
    this.volumes = volumes;
    this.element = (id) => document.getElementById(id);
    this.running = false;
    setInterval(() => this.running && this.showSeconds(), 1000);
  }

  /** @param {{judged: number, skipped: number, left: number, median_seconds: number | null}} progress */
  show({ judged, skipped, left, median_seconds: median }) {
    const bar = this.element("progress");
    bar.max = Math.max(judged + skipped + left, 1);
    bar.value = judged + skipped;
    this.element("judged").textContent = judged;
    this.element("left").textContent = left;
    this.element("median").textContent = median === null ? "–" : spoken(median);
  }

  /** @param {{sentence: string, stop: boolean} | null} outlook what the latest answers say about the next ones */
  showOutlook(outlook) {
    for (const place of document.querySelectorAll(".outlook")) {
      place.querySelector(".sentence").textContent = outlook?.sentence ?? "";
      place.querySelector(".stop").hidden = !outlook?.stop;
    }
  }

  showItem(item) {
    this.running = item !== null;
    this.element("structure").textContent = item?.structure ?? "";
    this.element("case").textContent = !item ? ""
      : this.volumes ? `${item.case} · slice ${item.slice + 1}` : item.case;
    this.showSeconds();
  }

  showSeconds() {
    this.element("seconds").textContent = this.running ? spoken(this.clock.seconds) : "–";
  }

  /** @param {"stored" | "sending" | "waiting" | "idle"} state */
  showStored(state) {
    const stored = this.element("stored");
    stored.dataset.state = state;
    stored.textContent = { stored: "Stored", sending: "Storing …", waiting: "Not stored yet – trying again",
                           idle: "" }[state];
  }
}

// Start of the page: what the server wrote into it, and who listens to what.

import { Api } from "./api.js";
import { Desk } from "./desk.js";
import { showHelp } from "./dialogs.js";
import { attachKeyboard } from "./keyboard.js";
import { Outbox } from "./outbox.js";

const { mode, name, set, volumes, decodes, reviews, ordered } = document.body.dataset;
const api = new Api(document.querySelector("meta[name=csrf-token]").content);
const outbox = new Outbox(window.localStorage, `samdpo outbox ${set} ${name}`, api.judge);
const desk = new Desk({
  api, outbox, mode, volumes: volumes === "true", decodes: decodes === "true", reviews: reviews === "true",
  ordered: ordered === "true",
});

attachKeyboard({
  act: (action, shift) => desk.act(action, shift),
  digit: (number) => desk.digit(number),
  letter: (index) => desk.letter(index),
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.action) desk.act(button.dataset.action);
  // A button that was clicked gives the keyboard back, so that Enter and Space mean what the large button says.
  if (event.detail > 0 && !button.closest("dialog")) button.blur();
});

document.getElementById("help-button").addEventListener("click", showHelp);
document.getElementById("sign-out").addEventListener("click", async () => {
  await api.signOut().catch(() => {}); // without a server there is nothing to sign out of
  window.location.assign("/sign-in");
});
window.addEventListener("beforeunload", (event) => {
  if (desk.unsaved) event.preventDefault();
});

desk.start();

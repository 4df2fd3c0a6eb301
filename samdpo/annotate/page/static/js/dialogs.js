// The help, and notices that must be read before the work goes on.

const help = document.getElementById("help");
const notice = document.getElementById("notice");

export function showHelp() {
  help.showModal();
}

/** @returns {Promise<void>} when the person has read it */
export function showNotice(title, text, button = "Go on") {
  document.getElementById("notice-title").textContent = title;
  document.getElementById("notice-text").textContent = text;
  const close = document.getElementById("notice-button");
  close.textContent = button;
  notice.showModal();
  return new Promise((resolve) => {
    notice.addEventListener("close", () => resolve(), { once: true });
    close.addEventListener("click", () => notice.close(), { once: true });
  });
}

// "?" closes the help that it has opened; a click beside it does, too.
help.addEventListener("keydown", (event) => {
  if (event.key === "?") help.close();
});
help.addEventListener("click", (event) => {
  if (event.target === help) help.close();
});

// The end of what a job printed, as it grows.

import { poll } from "./api.js";
import { h } from "./dom.js";
import { bytes, plain } from "./words.js";

const MOST_CHARACTERS = 400000, LIVE = 2000, RESTING = 15000;
// Colours and cursor movements of a terminal, bells, and returns of a progress line: only what was left standing is shown.
const ESCAPES = /\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]|[\x07\x08]/g;

export function logPanel(address, ended, signal, trouble) {
  const text = h("pre", { class: "log", role: "log", tabindex: 0, "aria-label": "What the job printed" });
  const note = h("span", { class: "soft" });
  const following = h("input", { type: "checkbox", checked: true });
  const element = h("section", { hidden: true }, h("div", { class: "title-row" }, h("h2", {}, "Log"), note, h("label", { class: "check" }, following, "keep to the end")), text);
  let offset = null, pending = "";

  following.onchange = () => { if (following.checked) toEnd(); };
  text.addEventListener("scroll", () => {
    const atEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 24;
    if (atEnd !== following.checked) following.checked = atEnd;
  });

  const toEnd = () => { text.scrollTop = text.scrollHeight; };
  new ResizeObserver(() => { if (following.checked) toEnd(); }).observe(text);

  // Text without what a terminal would obey; a line that was begun is kept back until it is whole or more comes.
  function cleaned(piece) {
    const lines = (pending + piece).replaceAll("\r\n", "\n").split("\n");
    pending = lines.pop();
    return lines.map(last).join("\n") + (lines.length ? "\n" : "");
  }
  const last = (line) => plain(line.replace(ESCAPES, "").replace(/^.*\r(?=.)/, ""));

  const whole = document.createTextNode(""), begun = document.createTextNode("");
  text.append(whole, begun);

  poll(() => (offset === null ? address : `${address}?offset=${offset}`), (answer) => {
    if (answer.anew) { whole.data = ""; pending = ""; }
    if (offset === null || answer.anew) note.textContent = answer.start > 0 ? `the last ${bytes(answer.size - answer.start)} of ${bytes(answer.size)}` : "";
    offset = answer.end;
    const more = whole.data + cleaned(answer.text);
    if (answer.text || answer.anew) {
      const keep = following.checked;
      whole.data = more.length > MOST_CHARACTERS ? more.slice(more.indexOf("\n", more.length - MOST_CHARACTERS) + 1) : more;
      begun.data = last(pending.slice(-4000));
      element.hidden = false;
      if (keep) toEnd();
    }
    if (answer.end < answer.size && answer.text) return 50;
    return ended() ? RESTING : LIVE;
  }, trouble, signal);
  return { element };
}

// The frame: which view is shown, the token, and whether the service answers.

import { Missing, Refused, takeTokenFromAddress, token } from "./api.js";
import { h, show } from "./dom.js";
import { jobView } from "./job.js";
import { listView } from "./list.js";

const content = document.getElementById("content"), health = document.getElementById("health"), leave = document.getElementById("leave");
let current = new AbortController(), shownAt = null, answered = null;

function open(first = false) {
  current.abort();
  current = new AbortController();
  const view = h("div", { class: "view" }), with_ = { signal: current.signal, trouble };
  content.replaceChildren(view);
  leave.hidden = !token.get();
  const job = /^#\/jobs\/([^/]+)$/.exec(location.hash);
  if (job) jobView(view, safelyDecoded(job[1]), with_);
  else listView(view, with_);
  if (!first) {
    content.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  shownAt = location.hash;
}

const safelyDecoded = (text) => {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
};

function trouble(error) {
  if (error === null) {
    answered = new Date();
    say("live", "live");
  } else if (error instanceof Refused) {
    askForToken(token.get() ? "The service refused this token." : "");
  } else if (error instanceof Missing) {
    current.abort();
    say("", "");
    show(content, h("div", { class: "view" }, h("p", { class: "crumb" }, h("a", { href: "#/" }, "← Jobs")), h("h1", {}, "Not here"), h("p", { class: "sub" }, error.message)));
  } else {
    const seen = answered ? `; this is as of ${answered.toLocaleTimeString()}` : "";
    const network = error instanceof TypeError || error.name === "TimeoutError";
    say("away", network ? `no answer, trying again${seen}` : `${error.message}${seen}`);
  }
}

function say(kind, text) {
  health.className = `health ${kind}`;
  if (health.textContent !== text) health.textContent = text;
}

function askForToken(refusal) {
  current.abort();
  say("", "");
  leave.hidden = true;
  document.title = "Token · Hogshead";
  const input = h("input", { type: "password", id: "token", name: "token", autocomplete: "current-password", required: true, spellcheck: "false", "aria-describedby": "hint", "aria-invalid": refusal ? "true" : null });
  const form = h("form", {
    class: "token",
    onsubmit: (event) => {
      event.preventDefault();
      token.set(input.value.trim());
      open();
    },
  },
  h("h1", {}, "Which token?"),
  refusal && h("p", { class: "warning bad", role: "alert" }, refusal),
  h("label", { for: "token" }, "Token of the service"),
  h("div", { class: "field" }, input, h("button", { type: "submit", class: "button" }, "Show jobs")),
  h("p", { id: "hint", class: "note" }, "It is the one that ", h("code", {}, "hogshead serve"), " was started with; ", h("code", {}, "hogshead init"), " has put it into ", h("code", {}, "secrets/token"), ". This tab keeps it until it is closed."));
  content.replaceChildren(h("div", { class: "view" }, form));
  input.focus();
}

leave.addEventListener("click", () => {
  token.forget();
  askForToken("");
});
addEventListener("hashchange", () => {
  if (location.hash.startsWith("#token=")) takeTokenFromAddress();
  if (location.hash !== shownAt) open();
});
takeTokenFromAddress();
open(true);

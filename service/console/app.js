// The page at /: which of its four parts is shown, the key, and what is said of the service as a whole.

import { announce, events, giveKey, json } from "./api.js";
import { byId, complain, count, quiet, tell } from "./ui.js";
import * as enroll from "./enroll.js";
import * as gallery from "./gallery.js";
import * as health from "./health.js";
import * as search from "./search.js";

const PAGES = { search, enroll, gallery, health };
let shown = null;

// #gallery/ann%2F1 -> ["gallery", "ann/1"]
function place() {
  const [name, ...rest] = location.hash.slice(1).split("/");
  try {
    return [name in PAGES ? name : "search", decodeURIComponent(rest.join("/"))];
  } catch {
    return ["search", ""];
  }
}

function turn() {
  if (location.hash === "#main") return; // the link past the header
  const [name, detail] = place();
  if (shown !== name) {
    PAGES[shown]?.hide?.();
    quiet();
    shown = name;
    for (const page of Object.keys(PAGES)) byId(page).hidden = page !== name;
    window.scrollTo(0, 0);
    for (const link of document.querySelectorAll("nav a")) {
      if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    document.title = `${name[0].toUpperCase()}${name.slice(1)} · Person re-identification`;
  }
  PAGES[name].show(detail).catch(complain);
}

async function showFacts() {
  announce("gallery-known", await json("/gallery/stats"));
}

function askForKey(wasWrong) {
  for (const box of document.querySelectorAll("dialog[open]")) box.close();
  byId("key-form").hidden = false;
  byId("key-problem").textContent = wasWrong ? "The service does not know that key." : "";
  byId("key").value = "";
  byId("key").focus();
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  try {
    giveKey(byId("key").value.trim());
  } catch (error) {
    byId("key-problem").textContent = error.message;
  }
});
events.addEventListener("key-wanted", ({ detail }) => askForKey(detail));
events.addEventListener("key-given", () => {
  byId("key-form").hidden = true;
  byId("main").focus();
});
events.addEventListener("gone", () => (byId("gone").hidden = false));
events.addEventListener("back", () => {
  byId("gone").hidden = true;
  tell("The service answers again.");
  showFacts().then(turn).catch(complain);
});
events.addEventListener("gallery-known", ({ detail }) => {
  byId("facts").textContent = `${count(detail.identities, "identity", "identities")} · ${count(detail.entries, "crop")}`;
});
events.addEventListener("changed", () => showFacts().catch(complain));
byId("notice-close").addEventListener("click", quiet);
window.addEventListener("hashchange", turn);
// A crop that misses its place must not replace the page.
for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());

for (const page of Object.values(PAGES)) page.start();
turn();
showFacts().catch(complain);

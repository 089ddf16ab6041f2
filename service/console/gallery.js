// Gallery: identities a page at a time; the page's size bounds the work, however many there are.

import { announce, events, identityPath, json, query, sendJson } from "./api.js";
import { openIdentity } from "./identity.js";
import { newestCrop } from "./pictures.js";
import { offer } from "./samples.js";
import { byId, complain, confirmed, count, h, number, span, tell } from "./ui.js";

const PAGE = 60;
const PAUSE_MS = 200; // of typing, before it is looked up
const state = { cursors: [null], next: null, stats: null, shown: null, drawn: null, dragged: null, isStale: false, asked: 0, open: null };

const HOW_SEEN = (identity) => `${identity.camids.length ? identity.camids.join(", ") : "camera unknown"}`;

function tile(identity) {
  const link = h("a", { class: "pid", href: `#gallery/${encodeURIComponent(identity.pid)}` }, identity.pid);
  const item = h(
    "li",
    { class: "tile", draggable: "true" },
    newestCrop(identity.pid),
    h("div", { class: "words" }, link, h("div", { class: "seen" }, count(identity.entries, "crop")), h("div", { class: "seen" }, HOW_SEEN(identity)), h("div", { class: "seen" }, span(identity.first_seen, identity.last_seen))),
  );
  item.addEventListener("dragstart", (event) => {
    state.dragged = identity;
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData("text/plain", identity.pid);
    item.classList.add("dragged");
  });
  item.addEventListener("dragend", () => {
    state.dragged = null;
    item.classList.remove("dragged");
    if (state.isStale) load().catch(complain);
  });
  item.addEventListener("dragover", (event) => {
    if (!state.dragged || state.dragged.pid === identity.pid) return;
    event.preventDefault();
    item.classList.add("over");
  });
  item.addEventListener("dragleave", () => item.classList.remove("over"));
  item.addEventListener("drop", (event) => {
    event.preventDefault();
    item.classList.remove("over");
    if (state.dragged && state.dragged.pid !== identity.pid) merge(state.dragged, identity).catch(complain);
  });
  return item;
}

export async function merge(from, into) {
  const isAgreed = await confirmed({
    title: "Make one identity of both?",
    words: [
      `The ${count(from.entries, "crop")} of ${from.pid} will be ${into.pid}'s, and the name ${from.pid} is gone.`,
      "This cannot be taken back: nothing remembers whose each crop was.",
    ],
    action: `Merge into ${into.pid}`,
  });
  if (!isAgreed) return false;
  const { identity, moved, dropped } = await sendJson("PATCH", identityPath(from.pid), { pid: into.pid, merge: true });
  const twice = dropped ? `, ${number(dropped)} dropped because they stood there already` : "";
  tell(`${from.pid} is now ${identity.pid}: ${count(moved, "crop")} moved${twice}.`);
  announce("changed");
  await load();
  return true;
}

export async function load() {
  const mine = ++state.asked;
  const fields = { limit: PAGE, prefix: byId("prefix").value, cursor: state.cursors.at(-1) };
  const page = await json(`/gallery/identities${query(fields)}`);
  if (mine !== state.asked) return;
  if (!page.identities.length && state.cursors.length > 1) {
    state.cursors.pop(); // the last of this page has gone
    await load();
    return;
  }
  if (!draw(page.identities)) return;
  state.next = page.next_cursor;
  showPager();
}

// Leaves what is right as it stands; and what is being dragged, for the browser would let go of it: that is done later.
function draw(identities) {
  const wanted = JSON.stringify(identities);
  state.isStale = Boolean(state.dragged) && wanted !== state.drawn;
  if (wanted === state.drawn || state.isStale) return !state.isStale;
  const held = byId("identities").contains(document.activeElement) ? document.activeElement.hash : null;
  byId("identities").replaceChildren(...identities.map(tile));
  const again = [...document.querySelectorAll("#identities a")].find((link) => link.hash === held);
  if (held) (again ?? byId("gallery-title")).focus(); // where whoever uses a keyboard was
  state.drawn = wanted;
  state.shown = identities.length;
  return true;
}

function showPager() {
  const { shown } = state;
  const before = (state.cursors.length - 1) * PAGE;
  const isAll = !byId("prefix").value;
  const total = isAll && state.stats ? ` of ${number(state.stats.identities)}` : "";
  byId("pager").hidden = !shown || (state.cursors.length === 1 && !state.next);
  byId("page-words").textContent = `${number(before + 1)} – ${number(before + shown)}${total}`;
  byId("previous").disabled = state.cursors.length === 1;
  byId("next").disabled = !state.next;
  byId("gallery-hint").hidden = !shown;
  const none = isAll ? offer("The gallery is empty") : h("p", { class: "placeholder hint" }, "No identity's name begins like this.");
  byId("gallery-empty").replaceChildren(...(shown ? [] : [none]));
}

async function turnTo(cursors) {
  state.cursors = cursors;
  await load();
  byId("gallery").scrollIntoView();
  byId("gallery-title").focus({ preventScroll: true });
}

function lookUp() {
  clearTimeout(lookUp.timer);
  lookUp.timer = setTimeout(() => {
    state.cursors = [null];
    load().catch(complain);
  }, PAUSE_MS);
}

export function start() {
  byId("prefix").addEventListener("input", lookUp);
  byId("next").addEventListener("click", () => turnTo([...state.cursors, state.next]).catch(complain));
  byId("previous").addEventListener("click", () => turnTo(state.cursors.slice(0, -1)).catch(complain));
  events.addEventListener("gallery-known", ({ detail }) => {
    const isNew = state.stats && state.stats.entries !== detail.entries;
    state.stats = detail;
    if (state.shown === null || byId("gallery").hidden) return;
    if (isNew) load().catch(complain);
    else showPager();
  });
}

// detail: the pid of an identity to open.
export async function show(detail) {
  if (detail && state.open?.pid === detail) return;
  state.open?.box.close();
  state.drawn = null; // whoever turns to this page sees it anew, pictures that did not come included
  const listed = load();
  if (detail) await open(detail);
  await listed;
}

async function open(pid) {
  const box = await openIdentity(pid, {
    merge,
    onClose: () => {
      if (state.open?.box === box) state.open = null;
      if (location.hash === `#gallery/${encodeURIComponent(pid)}`) location.hash = "#gallery";
    },
  });
  state.open = { pid, box };
}

export function hide() {
  state.open?.box.close();
}

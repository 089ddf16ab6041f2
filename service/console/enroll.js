// Enroll: many files or a folder, with progress, duplicates and failures by name.

import { announce, events } from "./api.js";
import { dropZone, isPicture, pasteZone } from "./files.js";
import { chosenPicture } from "./pictures.js";
import { offer } from "./samples.js";
import { sendAll } from "./sending.js";
import { byId, complain, count, h, momentIn, number } from "./ui.js";

const NAMED = 8; // identities that are listed by name before anything is sent
const STATES = { waiting: "waiting", sending: "sending …", enrolled: "enrolled", duplicate: "stood already", failed: "failed" };
const list = { items: [], left: 0, under: null };

function pidOf(item) {
  return byId("by-folder").checked ? item.folder : byId("pid").value.trim();
}

function inState(...states) {
  return list.items.filter((item) => states.includes(item.state));
}

function take(chosen) {
  if (list.under) return complain({ status: 0, message: "Wait until these are enrolled, or stop." });
  const pictures = chosen.filter(({ file }) => isPicture(file));
  list.left += chosen.length - pictures.length;
  if (inState("waiting", "failed").length === 0) list.items = []; // a new list, not one more on a finished one
  list.items.push(...pictures.map(({ file, folder }) => ({ file, folder, state: "waiting", words: "", row: null })));
  const folders = new Set(list.items.map((item) => item.folder));
  if (folders.size > 1 && !folders.has(null)) byId("by-folder").checked = true;
  if (folders.size === 1 && !folders.has(null) && !byId("pid").value) byId("pid").value = [...folders][0].slice(0, 128);
  showRows();
  return showForm();
}

function rowOf(item) {
  const state = h("span", { class: "state" });
  const who = h("span", { class: "seen" });
  const picture = chosenPicture(item.file, "");
  item.row = h("li", {}, picture, h("span", { class: "file" }, h("span", { class: "file-name" }, item.file.name), who), state);
  Object.assign(item, { stateWords: state, whoWords: who });
  showState(item);
  return item.row;
}

function showState(item) {
  item.row.className = item.state;
  item.stateWords.textContent = item.words || STATES[item.state];
  item.whoWords.textContent = (item.pid ?? pidOf(item)) || "";
}

function showRows() {
  byId("sent").replaceChildren(...list.items.map((item) => item.row ?? rowOf(item)));
}

function namedWords() {
  if (!byId("by-folder").checked) return "";
  const pids = [...new Set(list.items.map((item) => item.folder).filter(Boolean))].sort();
  if (!list.items.length) return "Each crop's own folder is its identity's name.";
  const alone = list.items.filter((item) => !item.folder).length;
  const more = pids.length > NAMED ? `, and ${number(pids.length - NAMED)} more` : "";
  const words = pids.length ? `${count(pids.length, "identity", "identities")}: ${pids.slice(0, NAMED).join(", ")}${more}.` : "";
  return alone ? `${words} ${count(alone, "file")} came without a folder and cannot be named this way.` : words;
}

function showForm() {
  const [waiting, failed] = [inState("waiting").length, inState("failed").length];
  byId("progress").hidden = !list.items.length;
  byId("enroll-empty").hidden = Boolean(list.items.length);
  byId("pid-part").hidden = byId("by-folder").checked;
  byId("named").textContent = namedWords();
  byId("send").textContent = waiting ? `Enroll ${count(waiting, "crop")}` : "Enroll";
  byId("send").disabled = !waiting || list.under !== null;
  byId("stop").hidden = list.under === null;
  byId("retry").hidden = !failed || list.under !== null;
  byId("retry").textContent = `Retry ${number(failed)} failed`;
  byId("clear").hidden = list.under !== null;
  for (const item of list.items) if (item.state === "waiting") showState(item);
  showSummary();
}

function showSummary() {
  const words = [];
  for (const [state, one] of [["enrolled", "enrolled"], ["duplicate", "stood already"], ["failed", "failed"], ["waiting", "waiting"]]) {
    const many = inState(state).length;
    if (many) words.push(`${number(many)} ${one}`);
  }
  if (list.left) words.push(`${count(list.left, "file")} left out: no picture`);
  byId("progress-words").textContent = words.join(", ");
  byId("bar").max = Math.max(1, list.items.length);
  byId("bar").value = list.items.length - inState("waiting", "sending").length;
}

async function send(items) {
  const nameless = items.filter((item) => !pidOf(item));
  if (nameless.length) {
    if (!byId("by-folder").checked) byId("pid").focus();
    const where = byId("by-folder").checked ? `${nameless[0].file.name} came without a folder` : "the identity has no name yet";
    return complain({ status: 0, message: `Who is on them? ${where}.` });
  }
  const labels = { camid: byId("camid").value.trim(), captured_at: momentIn(byId("captured")) };
  for (const item of items) Object.assign(item, { pid: pidOf(item), state: "waiting", words: "" });
  list.under = new AbortController();
  showForm();
  const set = (item, outcome) => {
    Object.assign(item, outcome);
    showState(item);
    plan(); // a batch's files end together
  };
  await sendAll(items, labels, {
    signal: list.under.signal,
    onStart: (item) => set(item, { state: "sending", words: "" }),
    onEnd: set,
  });
  for (const item of inState("waiting")) item.pid = null; // it may still be named otherwise
  list.under = null;
  showForm();
  for (const item of inState("failed")) byId("sent").prepend(item.row);
  if (!byId("retry").hidden) byId("retry").focus();
  return announce("changed");
}

let isPlanned = false;
function plan() {
  if (isPlanned) return;
  isPlanned = true;
  requestAnimationFrame(() => {
    isPlanned = false;
    showSummary();
  });
}

function clear() {
  Object.assign(list, { items: [], left: 0 });
  showRows();
  showForm();
  byId("files").focus();
}

export function start() {
  dropZone(byId("enroll"), [byId("files"), byId("folder")], take);
  pasteZone(() => !byId("enroll").hidden, take);
  byId("pick-folder").addEventListener("click", () => byId("folder").click());
  byId("enroll-form").addEventListener("submit", (event) => {
    event.preventDefault();
    send(inState("waiting")).catch(complain);
  });
  byId("retry").addEventListener("click", () => send(inState("failed")).catch(complain));
  byId("stop").addEventListener("click", () => list.under?.abort());
  byId("clear").addEventListener("click", clear);
  for (const id of ["by-name", "by-folder"]) byId(id).addEventListener("change", showForm);
  byId("pid").addEventListener("input", showForm);
  events.addEventListener("gallery-known", ({ detail }) => {
    const words = h("p", { class: "placeholder hint" }, "The files you choose will be listed here, each with what became of it.");
    byId("enroll-empty").replaceChildren(detail.entries === 0 ? offer("Nobody is enrolled yet") : words);
  });
}

export async function show() {
  showForm();
}

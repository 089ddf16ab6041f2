// One identity, opened: its crops, its name, merging and deleting, without a mouse where wanted.

import { announce, call, identityPath, json, query, sendJson } from "./api.js";
import { crop } from "./pictures.js";
import { busy, complain, confirmed, count, dialog, h, moment, span, tell } from "./ui.js";

const PAGE = 48; // crops
const SUGGESTED = 12;

function entryTile(entry, actions) {
  const item = h(
    "li",
    { class: "entry" },
    crop(entry.entry_id, `entry ${entry.entry_id}`),
    h("div", { class: "seen" }, entry.camid ?? "camera unknown", h("br"), entry.captured_at ? moment(entry.captured_at) : "time unknown"),
    h("div", { class: "actions" },
      h("a", { class: "button quiet", href: `#search/${entry.entry_id}`, "aria-label": `Search with entry ${entry.entry_id}` }, "Search"),
      h("button", { class: "quiet", type: "button", "aria-label": `Delete entry ${entry.entry_id}`, click: (event) => busy(event.currentTarget, () => actions.deleteEntry(entry, item)) }, "Delete"),
    ),
  );
  return item;
}

async function deleteEntry(entry, item, identity) {
  const words = [`Entry ${entry.entry_id} of ${identity.pid} goes, with its vector and its picture. This cannot be taken back.`];
  if (!(await confirmed({ title: "Delete this crop?", words, action: "Delete it", isDanger: true }))) return;
  await call(`/gallery/entries/${entry.entry_id}`, { method: "DELETE" });
  item.remove();
  tell(`Entry ${entry.entry_id} is deleted.`);
  announce("changed");
}

export function receiptWords(receipt) {
  const parts = [[receipt.entries, "entry", "entries"], [receipt.vectors, "vector"], [receipt.crops, "picture"], [receipt.answers, "remembered answer"]];
  return `${receipt.pid} is erased: ${parts.map(([many, ...words]) => count(many, ...words)).join(", ")}.`;
}

async function erase(identity) {
  const isAgreed = await confirmed({
    title: `Erase ${identity.pid}?`,
    words: [
      `${count(identity.entries, "crop")}, their vectors and pictures are erased everywhere in this gallery. This cannot be taken back.`,
      "Snapshots and exports made before still hold them.",
    ],
    action: `Erase ${identity.pid}`,
    isDanger: true,
  });
  if (!isAgreed) return false;
  const receipt = await json(identityPath(identity.pid), { method: "DELETE" });
  tell(receiptWords(receipt));
  announce("changed");
  return true;
}

function renameForm(identity, done) {
  const field = h("input", { maxlength: "128", required: true, autocomplete: "off", value: identity.pid });
  const button = h("button", {}, "Rename");
  const submit = (event) => {
    event.preventDefault();
    busy(button, async () => {
      const { identity: renamed } = await sendJson("PATCH", identityPath(identity.pid), { pid: field.value.trim() });
      tell(`${identity.pid} is now ${renamed.pid}.`);
      announce("changed");
      done();
    });
  };
  return h("form", { class: "line", submit }, h("label", {}, "Name ", field), button);
}

function mergeForm(identity, merge, done) {
  const names = h("datalist", { id: "others" });
  const field = h("input", { maxlength: "128", required: true, autocomplete: "off", list: "others", placeholder: "another identity" });
  const suggest = async () => {
    const { identities } = await json(`/gallery/identities${query({ prefix: field.value, limit: SUGGESTED })}`);
    names.replaceChildren(...identities.filter(({ pid }) => pid !== identity.pid).map(({ pid }) => h("option", { value: pid })));
  };
  const button = h("button", { class: "quiet" }, "Merge …");
  const submit = (event) => {
    event.preventDefault();
    busy(button, async () => {
      const { identity: into } = await json(`${identityPath(field.value.trim())}${query({ limit: 1 })}`);
      if (into.pid === identity.pid) return complain({ status: 0, message: `${into.pid} is this identity itself.` });
      if (await merge(identity, into)) done();
      return undefined;
    });
  };
  field.addEventListener("input", () => suggest().catch(complain));
  field.addEventListener("focus", () => suggest().catch(complain), { once: true });
  return h("form", { class: "line", submit }, h("label", {}, "Merge into ", field), names, button);
}

// Shows the identity in a dialog; resolves to the dialog once it is filled.
export async function openIdentity(pid, { merge, onClose }) {
  const { identity, entries, next_cursor } = await json(`${identityPath(pid)}${query({ limit: PAGE })}`);
  const list = h("ul", { class: "entries", "aria-label": "Crops, newest first" });
  const actions = { deleteEntry: (entry, item) => deleteEntry(entry, item, identity) };
  const add = (some) => list.append(...some.map((entry) => entryTile(entry, actions)));
  add(entries);
  const more = h("button", { class: "quiet", type: "button", click: () => busy(more, next) }, "More crops");
  let cursor = next_cursor;
  const next = async () => {
    const page = await json(`/gallery${query({ pid, limit: PAGE, cursor })}`);
    add(page.entries);
    cursor = page.next_cursor;
    more.hidden = !cursor;
  };
  more.hidden = !cursor;
  const done = () => box.close();
  const eraseButton = h("button", { class: "danger", type: "button", click: () => busy(eraseButton, async () => (await erase(identity)) && done()) }, "Erase this identity …");
  const facts = `${count(identity.entries, "crop")} · ${identity.camids.join(", ") || "camera unknown"} · ${span(identity.first_seen, identity.last_seen)}`;
  const body = h("div", {},
    h("p", { class: "hint" }, facts),
    h("div", { class: "manage" }, renameForm(identity, done), mergeForm(identity, merge, done), eraseButton),
    list,
    more,
  );
  const box = dialog(identity.pid, body, { isWide: true, onClose });
  return box;
}

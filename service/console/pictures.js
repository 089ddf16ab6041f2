// Stored crops, fetched with the key when they come into view, a few at a time.

import { call, json, query } from "./api.js";
import { h } from "./ui.js";

const AT_ONCE = 6;
const MARGIN = "300px";
const waiting = [];
let underWay = 0;
const loaders = new WeakMap();

const watcher = new IntersectionObserver(
  (seen) => {
    for (const { target, isIntersecting } of seen) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      waiting.push(target);
    }
    pump();
  },
  { rootMargin: MARGIN },
);

function pump() {
  while (underWay < AT_ONCE && waiting.length) {
    const frame = waiting.shift();
    if (!frame.isConnected) continue;
    underWay += 1;
    loaders.get(frame)().catch(() => frame.classList.add("lost")).finally(() => {
      underWay -= 1;
      pump();
    });
  }
}

function whenSeen(frame, load) {
  loaders.set(frame, load);
  watcher.observe(frame);
  return frame;
}

async function show(frame, entryId, alt) {
  const url = URL.createObjectURL(await (await call(`/gallery/entries/${entryId}/crop`)).blob());
  const picture = h("img", { alt, src: url, draggable: "false" });
  picture.addEventListener("load", () => URL.revokeObjectURL(url));
  picture.addEventListener("error", () => frame.classList.add("lost"));
  frame.replaceChildren(picture);
}

// A frame that fills itself with an entry's crop; without one it keeps its drawn figure.
export function crop(entryId, alt) {
  const frame = h("span", { class: "crop" });
  return whenSeen(frame, () => show(frame, entryId, alt));
}

export function newestCrop(pid) {
  const frame = h("span", { class: "crop" });
  return whenSeen(frame, async () => {
    const [newest] = (await json(`/gallery${query({ pid, limit: 1 })}`)).entries;
    if (newest?.has_crop) await show(frame, newest.entry_id, "");
    else frame.classList.add("lost");
  });
}

// The other crops of an identity, small, in one row.
export function otherCrops(pid, shownId, most) {
  const row = h("span", { class: "others" });
  return whenSeen(row, async () => {
    const { entries } = await json(`/gallery${query({ pid, limit: most + 1 })}`);
    const others = entries.filter((entry) => entry.entry_id !== shownId && entry.has_crop).slice(0, most);
    row.replaceChildren(...others.map((entry) => crop(entry.entry_id, `${pid}, another crop`)));
  });
}

// A picture that is still only here, as it was chosen.
export function chosenPicture(file, alt) {
  const url = URL.createObjectURL(file);
  const frame = h("span", { class: "crop" });
  const picture = h("img", { alt, loading: "lazy", src: url });
  picture.addEventListener("load", () => URL.revokeObjectURL(url));
  picture.addEventListener("error", () => {
    URL.revokeObjectURL(url);
    frame.replaceChildren();
    frame.classList.add("lost");
  });
  frame.append(picture);
  return frame;
}

// What a search found: the decision in words, cards, and two orders beside each other.

import { crop, otherCrops } from "./pictures.js";
import { cosineBar, count, h, hiddenText, moment } from "./ui.js";

const OTHERS = 3;

function verdict(answer) {
  const [best, second] = answer.matches;
  if (!best && answer.searched.entries === 0) return ["Nobody to compare with", "No enrolled crop passes the filters."];
  if (!best) return ["Unknown", "Nobody was found."];
  if (answer.threshold === null) return ["Unknown", "This model has no calibrated threshold: judge the cosines yourself."];
  const [cosine, bound] = [best.cosine.toFixed(3), answer.threshold.toFixed(3)];
  if (answer.decision === "match") return [best.pid, `A match: its cosine ${cosine} reaches the threshold ${bound}.`];
  if (answer.decision === "ambiguous") {
    const other = second ? second.pid : "another";
    return [`${best.pid} or ${other}`, `Ambiguous: both reach the threshold ${bound}, too close to each other to tell.`];
  }
  return ["Unknown", `The closest, ${best.pid}, has cosine ${cosine}, under the threshold ${bound}.`];
}

// asked: a picture of who was searched for, where the answer stands out of its sight.
export function verdictBox(answer, asked) {
  const [decision, reason] = verdict(answer);
  return h("div", { class: `verdict ${answer.decision}` }, h("strong", {}, decision), h("span", {}, reason), asked);
}

export function identityLink(pid) {
  return h("a", { class: "pid", href: `#gallery/${encodeURIComponent(pid)}` }, pid);
}

function seen(match) {
  const words = [match.camid, match.captured_at && moment(match.captured_at)].filter(Boolean);
  return words.length ? words.join(" · ") : "camera and time unknown";
}

function card(match, threshold) {
  const words = h(
    "div",
    { class: "words" },
    h("div", { class: "who" }, h("span", { class: "rank" }, hiddenText("rank "), String(match.rank)), identityLink(match.pid)),
    cosineBar(match.cosine, threshold),
    h("div", { class: "seen" }, seen(match)),
    h("div", { class: "seen" }, match.entries === 1 ? "1 crop" : count(match.entries, "crop")),
  );
  if (match.entries > 1) words.append(otherCrops(match.pid, match.entry_id, OTHERS));
  const isOver = threshold !== null && match.cosine >= threshold;
  return h("li", { class: `match-card${isOver ? " over" : ""}` }, crop(match.entry_id, `closest crop of ${match.pid}`), words);
}

export function cards(answer) {
  return h("ol", { class: "matches", "aria-label": "Matches, the closest first" }, ...answer.matches.map((match) => card(match, answer.threshold)));
}

function move(was, is) {
  if (was === undefined) return h("span", { class: "move up" }, "new");
  if (was === is) return h("span", { class: "move" }, "=", hiddenText(" unmoved"));
  const isUp = was > is;
  return h("span", { class: `move ${isUp ? "up" : "down"}` }, `${isUp ? "▲" : "▼"} ${Math.abs(was - is)}`, hiddenText(` from rank ${was}`));
}

function row(match, threshold, moved) {
  return h(
    "li",
    { class: "row-match", "data-pid": match.pid },
    h("span", { class: "rank" }, String(match.rank)),
    crop(match.entry_id, ""),
    h("div", { class: "words" }, identityLink(match.pid), cosineBar(match.cosine, threshold), h("div", { class: "seen" }, seen(match))),
    moved,
  );
}

function order(title, hint, rows) {
  return h("section", { class: "order" }, h("h2", {}, title), h("p", { class: "hint" }, hint), h("ol", { class: "rows" }, ...rows));
}

// The same people in the order of their cosines and re-ranked, with how far each has moved.
export function bothOrders(plain, reranked) {
  const was = new Map(plain.matches.map((match) => [match.pid, match.rank]));
  const both = h(
    "div",
    { class: "orders" },
    order("By cosine", "How alike each is to the query.", plain.matches.map((match) => row(match, plain.threshold, null))),
    order(
      "Re-ranked",
      "Also by how much their neighbours agree.",
      reranked.matches.map((match) => row(match, reranked.threshold, move(was.get(match.pid), match.rank))),
    ),
  );
  const mark = (event) => {
    const pid = event.target.closest?.("[data-pid]")?.dataset.pid;
    for (const one of both.querySelectorAll("[data-pid]")) one.classList.toggle("same", one.dataset.pid === pid);
  };
  for (const name of ["pointerover", "focusin", "pointerleave"]) both.addEventListener(name, mark);
  return both;
}

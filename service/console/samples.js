// The drawn sample people, for whoever has nobody enrolled yet.

import { announce, call, json } from "./api.js";
import { busy, h, tell } from "./ui.js";

const FOLDER = "/console/samples/";
const HERE = "reid-samples"; // this tab has enrolled them

async function picture(file) {
  return new File([await (await call(FOLDER + file)).blob()], file, { type: "image/jpeg" });
}

async function enrollSamples() {
  const { enroll } = await json(`${FOLDER}samples.json`);
  const form = new FormData();
  for (const { file, pid, camid, captured_at } of enroll) {
    form.append("crops", await picture(file));
    for (const [name, value] of Object.entries({ pid, camid, captured_at })) form.append(name, value);
  }
  await json("/gallery", { method: "POST", body: form });
  sessionStorage.setItem(HERE, "yes");
  tell("Five drawn people are enrolled.");
  announce("changed");
}

// What an empty gallery says: how to fill it, and drawn people to begin with.
export function offer(title) {
  const button = h("button", { type: "button", click: () => busy(button, enrollSamples) }, "Enroll five drawn people");
  return h(
    "div",
    { class: "empty" },
    h("div", { class: "faces", "aria-hidden": "true" }, ...[6, 1, 15, 12, 18].map((n) => h("img", { src: `${FOLDER}person-${String(n).padStart(2, "0")}-entrance.jpg`, alt: "" }))),
    h("h2", {}, title),
    h("p", {}, "Enroll people first; then a crop of one of them finds the others, from whichever camera. Drawn people let you see it within a minute: nobody real is shown, and they are deleted like everybody else."),
    h("p", { class: "actions" }, button, h("a", { class: "button quiet", href: "#enroll" }, "Enroll your own crops")),
  );
}

// Crops of the sample people from a camera that was not enrolled, one of them a stranger.
export async function questions(onChosen) {
  if (!sessionStorage.getItem(HERE)) return null;
  const { search } = await json(`${FOLDER}samples.json`);
  const ask = ({ file }, number) =>
    h(
      "button",
      { class: "sample", type: "button", "aria-label": `Search with sample ${number + 1}`, click: async (event) => {
        const chosen = await busy(event.currentTarget, () => picture(file));
        if (chosen) onChosen([{ file: chosen, folder: null }]);
      } },
      h("img", { src: FOLDER + file, alt: "", width: 48, height: 96 }),
    );
  return h("div", {}, h("p", { class: "hint" }, "Samples from a third camera. One is a stranger:"), h("div", { class: "sample-row" }, ...search.map(ask)));
}

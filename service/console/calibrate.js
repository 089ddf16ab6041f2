// New thresholds from the enrolled people: shown beside those in use, and taken only when somebody says so.

import { announce, json } from "./api.js";
import { histogram } from "./histogram.js";
import { calibrationOf, rateWords } from "./thresholds.js";
import { busy, count, dialog, h, number, tell } from "./ui.js";

function figure(cosine, interval = null) {
  const sure = interval ? h("span", { class: "seen" }, ` ${interval[0].toFixed(3)} – ${interval[1].toFixed(3)}`) : null;
  return h("td", { class: "figure" }, cosine === undefined ? "none" : cosine.toFixed(3), sure);
}

function row(name, old, made, interval) {
  return h("tr", {}, h("th", { scope: "row" }, name), figure(old), figure(made, interval));
}

// used: the thresholds in use, or null; made: what POST /calibration answers.
function comparison(used, made) {
  const old = new Map(used?.rates ?? []);
  const found = new Map(made.rates.map((rate) => [rate.far, rate]));
  const rates = [...new Set([...old.keys(), ...found.keys()])].sort((a, b) => a - b);
  const head = ["Strangers accepted", "In use", "New, and how sure"].map((words) => h("th", { scope: "col" }, words));
  return h(
    "table",
    { class: "compared" },
    h("caption", { class: "hint" }, "From which cosine on two crops are taken for one person, with 95 % intervals"),
    h("thead", {}, h("tr", {}, ...head)),
    h(
      "tbody",
      {},
      ...rates.map((rate) => row(rateWords(rate), old.get(rate), found.get(rate)?.threshold, found.get(rate)?.threshold_interval)),
      row("Unless a search says otherwise", used?.default, made.threshold),
      row("Ambiguous when nearer than", used?.margin, made.margin),
    ),
  );
}

function measuredWords(made) {
  const pairs = `${count(made.genuine_pairs, "pair")} of one person, ${number(made.impostor_pairs)} of two`;
  return `Measured on ${made.source}, ${count(made.crops, "crop")}: ${pairs}. Nothing has changed yet.`;
}

function found(used, made) {
  return [
    comparison(used, made),
    h(
      "div",
      {},
      histogram(made),
      ...made.warnings.map((words) => h("p", { class: "warning" }, `Take care: ${words}.`)),
      h("p", { class: "hint" }, "They are measured once more as the gallery then stands. Once used, every search goes by them, here and from programs. The way back is by hand: remove the service's own calibration file and start it again."),
    ),
  ];
}

// Measures, which changes nothing; what was found is shown, or why nothing could be.
export async function calibrate() {
  const said = h("p", { role: "status" }, "The enrolled crops are compared with one another, which changes nothing. It takes seconds, with 1,000 people up to half a minute; searches go on meanwhile.");
  const place = h("div", { class: "measured" }, h("progress", { "aria-label": "Comparing crops" }));
  const use = async () => {
    said.textContent = "Measured once more, to be kept …";
    const made = await json("/calibration?apply=true", { method: "POST" }).catch((error) => {
      said.textContent = "Nothing was taken: searches go by the thresholds they had.";
      throw error;
    });
    tell(`Searches go by a cosine of ${made.threshold.toFixed(3)} from now on, from ${made.source}.`);
    announce("calibrated");
    box.close();
  };
  const cancel = h("button", { class: "quiet", type: "button", click: () => box.close() }, "Cancel");
  const go = h("button", { type: "button", disabled: true, click: () => busy(go, use) }, "Use the new ones");
  const under = new AbortController();
  const body = h("div", {}, said, place, h("div", { class: "actions" }, cancel, go));
  const box = dialog("Thresholds from the enrolled people", body, { isWide: true, onClose: () => under.abort() });
  try {
    const [model, made] = await Promise.all([json("/model"), json("/calibration", { method: "POST", signal: under.signal })]);
    said.textContent = measuredWords(made);
    place.replaceChildren(...found(calibrationOf(model), made));
    go.disabled = false;
  } catch (error) {
    if (error.name === "AbortError") return;
    said.textContent = "";
    place.replaceChildren(h("p", { class: "wrong", role: "alert" }, error.message));
    go.hidden = true;
  }
}

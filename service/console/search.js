// Search: crops of one person, or an enrolled entry, against the gallery.

import { call, events, json, query } from "./api.js";
import { dropZone, isPicture, pasteZone } from "./files.js";
import { filters, suggestCameras } from "./filters.js";
import { bothOrders, cards, verdictBox } from "./matches.js";
import { chosenPicture, crop } from "./pictures.js";
import { offer, questions } from "./samples.js";
import { calibrationOf, cosineAt, meaning, oneIn, rateAt, reachedAt } from "./thresholds.js";
import { byId, complain, count, h, quiet, released } from "./ui.js";

const MATCHES = 24;
const NARROW = "(max-width: 48rem)"; // the answer stands below the question
const CAMERAS_FROM = 500; // identities whose cameras are suggested
const state = {
  crops: [], // [{ file, problem }]
  entryId: null, // asked instead of crops
  isFarChosen: false, // else the model's own threshold holds
  calibration: null,
  histogram: null, // of the pairs that it was made from, where it is known
  isOutdated: false, // what is shown was decided by thresholds of before
  stats: null,
  readFilters: () => ({}),
  under: null, // the search under way, to be called off by the next
};

function rate() {
  const rates = state.calibration.rates;
  return Math.min(rates.at(-1)[0], Math.max(rates[0][0], 10 ** Number(byId("far").value)));
}

function showFar() {
  const { calibration, stats } = state;
  byId("far-part").hidden = !calibration;
  if (!calibration) return;
  const cosine = state.isFarChosen ? cosineAt(calibration.rates, rate()) : calibration.default;
  const accepted = `${oneIn(rate(), "stranger")} accepted`;
  byId("far-rate").textContent = accepted;
  byId("far").setAttribute("aria-valuetext", accepted);
  const reached = state.histogram && reachedAt(state.histogram, cosine);
  byId("far-words").textContent = meaning(rate(), cosine, stats?.identities ?? 0, reached);
  byId("far-reset").hidden = !state.isFarChosen;
}

function setFarToDefault() {
  const { rates, default: usual } = state.calibration;
  byId("far").value = Math.log10(rateAt(rates, usual));
  state.isFarChosen = false;
  showFar();
}

async function showCalibration() {
  const calibration = calibrationOf(await json("/model"));
  if (!calibration) return showFar();
  const measured = await call("/calibration", { isProbe: true }).catch(() => null); // 404 where the manifest's thresholds are used
  const histogram = measured?.ok ? (await measured.json()).histogram : null;
  Object.assign(state, { calibration, histogram });
  const { rates } = calibration;
  Object.assign(byId("far"), { min: Math.log10(rates[0][0]), max: Math.log10(rates.at(-1)[0]) });
  return setFarToDefault();
}

function ask(rerank, signal) {
  const fields = { k: MATCHES, ...state.readFilters(), far: state.isFarChosen ? rate() : null, rerank };
  if (state.entryId !== null) return json(`/search${query({ entry_id: state.entryId, ...fields })}`, { signal });
  const body = new FormData();
  for (const { file } of state.crops) body.append("crops", file);
  return json(`/search${query(fields)}`, { method: "POST", body, signal });
}

// isAsked: with a new query, rather than by a control that should stay in view.
async function run({ isAsked = false } = {}) {
  state.under?.abort();
  if (!state.crops.length && state.entryId === null) return;
  const mine = (state.under = new AbortController());
  quiet();
  byId("matches").classList.add("stale"); // a failed search must not stand above the last one's matches
  try {
    const isBoth = byId("rerank").checked;
    const plain = await ask(false, mine.signal);
    const reranked = isBoth ? await ask(true, mine.signal) : null;
    await released(byId("matches"));
    if (mine !== state.under) return;
    showAnswer(plain, reranked);
    if (isAsked && matchMedia(NARROW).matches) byId("verdict").scrollIntoView();
  } catch (error) {
    if (mine !== state.under) return;
    noteProblems(error.body?.rejected ?? []);
    clearAnswer();
    complain(error);
  }
}

function clearAnswer() {
  for (const part of ["verdict", "matches"]) byId(part).replaceChildren();
  byId("matches").classList.remove("stale");
  byId("took").textContent = "";
}

function showAnswer(plain, reranked) {
  const answer = reranked ?? plain;
  noteProblems(answer.rejected ?? []);
  byId("verdict").replaceChildren(verdictBox(answer, askedAgain()));
  byId("matches").replaceChildren(reranked ? bothOrders(plain, reranked) : cards(plain));
  byId("matches").classList.remove("stale");
  const { embed, search, rerank } = answer.took_ms;
  const steps = [["embedding", embed], ["search", search], ["re-ranking", rerank]].filter(([, ms]) => ms !== null);
  const compared = count(answer.searched.entries, "crop");
  byId("took").textContent = `Compared with ${compared}: ${steps.map(([name, ms]) => `${name} ${ms.toFixed(1)} ms`).join(", ")}.`;
  if (answer.threshold_source) byId("took").textContent += ` Threshold from: ${answer.threshold_source}.`;
}

function askedAgain() {
  if (!matchMedia(NARROW).matches) return null;
  const good = state.crops.find((one) => !one.problem);
  const picture = good ? chosenPicture(good.file, "") : crop(state.entryId, "");
  picture.classList.add("asked-again");
  return picture;
}

function noteProblems(rejected) {
  state.crops.forEach((one, index) => (one.problem = rejected.find((bad) => bad.index === index)?.error.message ?? null));
  showAsked();
}

function showAsked() {
  const place = byId("asked");
  place.hidden = !state.crops.length && state.entryId === null;
  byId("drop").classList.toggle("small", !place.hidden);
  const drop = (one) => {
    state.crops = state.crops.filter((other) => other !== one);
    showAsked();
    if (state.crops.length) run();
    else {
      state.under?.abort();
      state.under = null;
      clearAnswer();
      showEmpty();
    }
    byId("query").focus();
  };
  const shown = state.crops.map((one) =>
    h(
      "div",
      { class: `asked-crop${one.problem ? " bad" : ""}` },
      (one.frame ??= chosenPicture(one.file, `query crop ${one.file.name}`)),
      h("button", { class: "icon", type: "button", "aria-label": `Without ${one.file.name}`, click: () => drop(one) }, "×"),
      one.problem ? h("p", { class: "wrong" }, `${one.file.name}: ${one.problem}`) : null,
    ),
  );
  if (state.entryId !== null) shown.push(h("div", { class: "asked-crop" }, crop(state.entryId, `entry ${state.entryId}`), h("p", { class: "hint" }, `entry ${state.entryId}`)));
  place.replaceChildren(...shown);
}

function take(files) {
  const pictures = files.filter(({ file }) => isPicture(file));
  if (!pictures.length) return complain({ status: 0, message: "That is no picture. JPEG, PNG, WebP and BMP can be searched." });
  Object.assign(state, { crops: pictures.map(({ file }) => ({ file, problem: null })), entryId: null });
  if (location.hash.startsWith("#search/")) history.replaceState(null, "", "#search");
  showAsked();
  return run({ isAsked: true });
}

function showEmpty() {
  if (!state.stats || byId("verdict").children.length || !byId("asked").hidden) return;
  const isEmpty = state.stats.entries === 0;
  const words = h("p", { class: "placeholder hint" }, "Matches will stand here, the closest first.");
  byId("matches").replaceChildren(isEmpty ? offer("Nobody is enrolled yet") : words);
}

async function showExamples() {
  const row = state.stats?.entries ? await questions(take) : null;
  byId("examples").replaceChildren(...(row ? [row] : []));
}

async function learn(stats) {
  state.stats = stats;
  showFar();
  showEmpty();
  await showExamples();
  suggestCameras((await json(`/gallery/identities${query({ limit: CAMERAS_FROM })}`)).identities);
}

export function start() {
  dropZone(byId("search"), [byId("query")], take);
  pasteZone(() => !byId("search").hidden, take);
  state.readFilters = filters(() => run());
  byId("rerank").addEventListener("change", () => run());
  byId("far").addEventListener("input", () => {
    state.isFarChosen = true;
    showFar();
  });
  byId("far").addEventListener("change", () => run());
  byId("far-reset").addEventListener("click", () => {
    setFarToDefault();
    byId("far").focus();
    run();
  });
  events.addEventListener("calibrated", () => Object.assign(state, { calibration: null, isFarChosen: false, isOutdated: true }));
  events.addEventListener("gallery-known", ({ detail }) => learn(detail).catch(complain));
}

// detail: an entry's number, when the gallery asks who looks like it.
export async function show(detail) {
  if (/^[1-9]\d*$/.test(detail) && Number(detail) !== state.entryId) {
    Object.assign(state, { crops: [], entryId: Number(detail) });
    showAsked();
    run({ isAsked: true });
  }
  if (!state.calibration) await showCalibration();
  if (!state.isOutdated) return;
  state.isOutdated = false;
  await run();
}

// The page at /: drop a crop, see the ranked identities. Everything it shows is put in as text, never as markup.

const byId = (id) => document.getElementById(id);
const KEY = "reid-api-key";
const MATCHES = 24;
let pictureUrls = [];
let searching = 0;

class Refused extends Error {}

async function call(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) {
    sessionStorage.removeItem(KEY);
    byId("key-form").hidden = false;
    byId("key").focus();
  }
  if (!answer.ok) {
    const body = await answer.json().catch(() => null);
    const asksForKey = answer.status === 401 && !key; // the form that has just appeared says it all
    throw new Refused(asksForKey ? "" : (body?.error?.message ?? `the service answered ${answer.status}`));
  }
  return answer;
}

function complain(error) {
  byId("problem").textContent = error instanceof Refused ? error.message : "The service does not answer. Is it running?";
  byId("problem").hidden = !byId("problem").textContent;
}

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function shape(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  return made;
}

async function showFacts() {
  const [stats, model] = await Promise.all([call("/gallery/stats"), call("/model")]);
  const [counts, facts] = [await stats.json(), await model.json()];
  for (const name of ["entries", "identities", "cameras"]) byId(name).textContent = counts[name].toLocaleString();
  byId("model").textContent = `${facts.architecture ?? ""} ${facts.model_id.slice(0, 12)}`.trim();
  byId("model").title = facts.model_id;
}

// The bar runs from cosine 0 to 1; the mark is the threshold.
function cosineBar(cosine, threshold) {
  const bar = shape("svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  const share = (value) => 100 * Math.min(1, Math.max(0, value));
  bar.append(shape("rect", { class: "track", width: 100, height: 10, rx: 2 }));
  bar.append(shape("rect", { class: "value", width: share(cosine), height: 10, rx: 2 }));
  if (threshold !== null) bar.append(shape("rect", { class: "mark", x: share(threshold) - 0.75, width: 1.5, height: 10 }));
  return bar;
}

async function showPicture(frame, entryId) {
  try {
    const picture = new Image();
    const url = URL.createObjectURL(await (await call(`/gallery/entries/${entryId}/crop`)).blob());
    pictureUrls.push(url);
    picture.src = url;
    picture.alt = "stored crop";
    frame.replaceChildren(picture);
  } catch {
    frame.textContent = "no picture kept";
  }
}

function card(match, threshold) {
  const item = element("li", threshold !== null && match.cosine >= threshold ? "over" : "");
  const frame = element("div", "picture", "…");
  const words = element("div", "words");
  const seen = [match.camid, match.captured_at && new Date(match.captured_at).toLocaleString()].filter(Boolean);
  const count = match.entries === 1 ? "1 entry" : `${match.entries} entries`;
  const cosine = element("div", "cosine");
  cosine.append(cosineBar(match.cosine, threshold), element("span", "", match.cosine.toFixed(3)));
  words.append(
    element("div", "pid", `${match.rank}. ${match.pid}`),
    element("div", "seen", [...seen, count].join(" · ")),
    cosine,
  );
  item.append(frame, words);
  showPicture(frame, match.entry_id);
  return item;
}

function verdict(answer) {
  const [best, second] = answer.matches;
  const bound = answer.threshold === null ? null : answer.threshold.toFixed(3);
  if (!best) return ["Unknown", "Nobody is enrolled yet."];
  if (bound === null) return ["Unknown", "This model has no calibrated threshold: judge the cosines yourself."];
  if (answer.decision === "match") return [best.pid, `Its cosine ${best.cosine.toFixed(3)} reaches the threshold ${bound}.`];
  if (answer.decision === "ambiguous") {
    return [`${best.pid} or ${second?.pid ?? "another"}`, `Both reach the threshold ${bound}, too close to each other to tell.`];
  }
  return ["Unknown", `The closest, ${best.pid}, has cosine ${best.cosine.toFixed(3)}, under the threshold ${bound}.`];
}

function showAnswer(answer) {
  const [decision, reason] = verdict(answer);
  byId("decision").textContent = decision;
  byId("reason").textContent = reason;
  byId("verdict").className = `verdict ${answer.decision}`;
  byId("verdict").hidden = false;
  byId("empty").hidden = true;
  pictureUrls.forEach((url) => URL.revokeObjectURL(url));
  pictureUrls = [];
  byId("matches").replaceChildren(...answer.matches.map((match) => card(match, answer.threshold)));
  const { embed, search } = answer.took_ms;
  byId("took").textContent = `embedding ${embed.toFixed(1)} ms, search ${search.toFixed(1)} ms`;
  if (answer.rejected.length) complain(new Refused(`${answer.rejected.length} crop(s) could not be used: ${answer.rejected[0].error.message}`));
}

function formOf(files, fields = {}) {
  const form = new FormData();
  for (const file of files) form.append("crops", file);
  for (const [name, value] of Object.entries(fields)) if (value) form.append(name, value);
  return form;
}

async function search(files) {
  if (!files.length) return;
  const mine = ++searching;
  const picture = byId("query-picture");
  URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(files[0]);
  picture.hidden = false;
  byId("problem").hidden = true;
  byId("verdict").hidden = true; // a failed search must not stand above the last one's matches
  byId("matches").replaceChildren();
  try {
    const answer = await (await call(`/search?k=${MATCHES}`, { method: "POST", body: formOf(files) })).json();
    if (mine === searching) showAnswer(answer);
  } catch (error) {
    complain(error);
  }
}

async function enroll(event) {
  event.preventDefault();
  const button = event.target.querySelector("button");
  button.disabled = true;
  byId("problem").hidden = true;
  byId("enrolled").textContent = "";
  try {
    const body = formOf(byId("files").files, { pid: byId("pid").value, camid: byId("camid").value });
    const { results } = await (await call("/gallery", { method: "POST", body })).json();
    const failed = results.filter((result) => result.error);
    const stood = results.filter((result) => result.duplicate).length;
    const enrolled = results.length - failed.length - stood;
    byId("enrolled").textContent = `${enrolled} enrolled` + (stood ? `, ${stood} stood already` : "");
    byId("files").value = "";
    if (failed.length) complain(new Refused(`${failed.length} crop(s) failed: ${failed[0].error.message}`));
    await showFacts();
  } catch (error) {
    complain(error);
  } finally {
    button.disabled = false;
  }
}

byId("query-picture").addEventListener("error", (event) => (event.target.hidden = true));
const drop = byId("drop");
drop.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  search([...event.dataTransfer.files]);
});
byId("query").addEventListener("change", (event) => {
  search([...event.target.files]);
  event.target.value = "";
});
byId("enroll-form").addEventListener("submit", enroll);
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, byId("key").value.trim());
  byId("key-form").hidden = true;
  byId("problem").hidden = true;
  showFacts().catch(complain);
});
showFacts().catch(complain);

// Elements, words and dialogs. Everything from outside is put in as text, never as markup.

const RELEASE_MS = 50; // between two looks

export const byId = (id) => document.getElementById(id);

function make(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(name, value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// h("button", { class: "quiet", click: run }, "words", element)
export function h(name, attributes = {}, ...children) {
  return make(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return make(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

export function number(value, digits = 0) {
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export function count(value, one, many = `${one}s`) {
  return `${number(value)} ${value === 1 ? one : many}`;
}

function clock() {
  return new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
}

export function moment(text) {
  return clock().format(new Date(text));
}

export function span(first, last) {
  return first ? clock().formatRange(new Date(first), new Date(last)) : "time unknown";
}

// What a datetime-local field holds, with this browser's offset; null when it is empty.
export function momentIn(field) {
  return field.value ? new Date(field.value).toISOString() : null;
}

export function hiddenText(words) {
  return h("span", { class: "unseen" }, words);
}

function notice(words, kind) {
  const bar = byId("notice");
  const box = [...document.querySelectorAll("dialog[open]")].at(-1);
  if (box) box.firstChild.after(bar); // behind an open dialog nobody sees or hears it
  byId("notice-words").textContent = words;
  bar.className = `notice ${kind}`;
  bar.hidden = false;
}

export function tell(words) {
  notice(words, "told");
}

export function complain(error) {
  if (error.name === "AbortError") return;
  if (error.status === undefined) console.error(error);
  notice(error.status === undefined ? "The page stumbled; reload it. The browser's console says where." : error.message, "problem");
}

export function quiet() {
  byId("notice").hidden = true;
}

// Waits while a button is held down on a place: what is replaced between press and release loses the click.
export async function released(place) {
  while (place.matches(":active")) await new Promise((resume) => setTimeout(resume, RELEASE_MS));
}

// Runs what a control asks for: it is disabled meanwhile, and what goes wrong is said.
export async function busy(control, work) {
  if (control) control.disabled = true;
  try {
    return await work();
  } catch (error) {
    complain(error);
    return undefined;
  } finally {
    if (control) control.disabled = false;
    if (document.activeElement === document.body) control?.focus(); // disabling it took the focus away
  }
}

export function dialog(title, body, { onClose = () => {}, isWide = false } = {}) {
  const heading = h("h2", { id: `dialog-${++dialog.made}`, tabindex: "-1" }, title);
  const close = h("button", { class: "icon", type: "button", "aria-label": "Close", click: () => box.close() }, "×");
  const box = h(
    "dialog",
    { "aria-labelledby": heading.id, class: isWide ? "wide" : null },
    h("div", { class: "dialog-head" }, heading, close),
    body,
  );
  box.addEventListener("click", (event) => event.target === box && box.close());
  box.addEventListener("close", () => {
    if (box.contains(byId("notice"))) byId("main").before(byId("notice"));
    box.remove();
    onClose();
  });
  document.body.append(box);
  box.showModal();
  heading.focus();
  return box;
}
dialog.made = 0;

// Asks before something that cannot be taken back; resolves to whether it was agreed to.
export function confirmed({ title, words, action, isDanger = false }) {
  return new Promise((resolve) => {
    let isAgreed = false;
    const agree = () => {
      isAgreed = true;
      box.close();
    };
    const keep = h("button", { class: "quiet", type: "button", click: () => box.close() }, "Cancel");
    const go = h("button", { class: isDanger ? "danger" : null, type: "button", click: agree }, action);
    const body = h("div", {}, ...words.map((line) => h("p", {}, line)), h("div", { class: "actions" }, keep, go));
    const box = dialog(title, body, { onClose: () => resolve(isAgreed) });
    keep.focus();
  });
}

// The bar runs from cosine 0 to 1; the mark is the threshold. The figure beside it says the same to whoever cannot see it.
export function cosineBar(cosine, threshold) {
  const share = (value) => 100 * Math.min(1, Math.max(0, value));
  const bar = svg(
    "svg",
    { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "track", width: 100, height: 10, rx: 2 }),
    svg("rect", { class: "value", width: share(cosine), height: 10, rx: 2 }),
  );
  if (threshold !== null) bar.append(svg("rect", { class: "mark", x: share(threshold) - 0.75, width: 1.5, height: 10 }));
  const isOver = threshold !== null && cosine >= threshold;
  const words = threshold === null ? "" : isOver ? " reaches the threshold" : " is under the threshold";
  const figure = h("span", { class: "figure" }, hiddenText("cosine "), cosine.toFixed(3), hiddenText(words));
  return h("div", { class: `cosine${isOver ? " over" : ""}` }, bar, figure);
}

// The filters of a search: cameras as chips, and the times between which a crop was seen.

import { byId, count, h, momentIn } from "./ui.js";

// A field whose values are gathered below it; each is taken away by its own button.
function chips(field, place, onChange) {
  const chosen = new Set();
  const show = () => {
    const drop = (value) => {
      chosen.delete(value);
      show();
      field.focus();
      onChange();
    };
    place.replaceChildren(
      ...[...chosen].map((value) =>
        h("button", { class: "chip", type: "button", "aria-label": `Without ${value}`, click: () => drop(value) }, value, " ×"),
      ),
    );
  };
  const take = () => {
    const value = field.value.trim();
    field.value = "";
    if (!value || chosen.has(value)) return;
    chosen.add(value);
    show();
    onChange();
  };
  field.addEventListener("change", take);
  field.addEventListener("keydown", (event) => event.key === "Enter" && take());
  return chosen;
}

// Returns a function that gives the parameters as they stand.
export function filters(onChange) {
  const changed = () => {
    const given = Object.values(read()).flat().filter(Boolean).length;
    byId("filters-set").textContent = given ? `${count(given, "filter")} set` : "";
    onChange();
  };
  const only = chips(byId("only"), byId("only-chosen"), changed);
  const except = chips(byId("except"), byId("except-chosen"), changed);
  for (const name of ["since", "until"]) byId(name).addEventListener("change", changed);
  const read = () => ({
    camid: [...only],
    exclude_camid: [...except],
    since: momentIn(byId("since")),
    until: momentIn(byId("until")),
  });
  return read;
}

export function suggestCameras(identities) {
  const cameras = new Set(identities.flatMap((identity) => identity.camids));
  byId("cameras").replaceChildren(...[...cameras].sort().map((camid) => h("option", { value: camid })));
}

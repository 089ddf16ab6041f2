// The calibration's histogram: how alike crops of one person are, and crops of two.

import { count, h, svg } from "./ui.js";

const [WIDTH, HEIGHT] = [300, 90];
const LOWEST = -0.5; // hardly a pair is less alike

function outline(counts, { from, step }, name) {
  const most = Math.max(...counts);
  const x = (cosine) => (WIDTH * (cosine - LOWEST)) / (1 - LOWEST);
  const points = counts.map((many, index) => [x(from + index * step), x(from + (index + 1) * step), HEIGHT - (many / most) * (HEIGHT - 4)]);
  const line = points.filter(([left]) => left >= 0).flatMap(([left, right, top]) => [`${left.toFixed(1)},${top.toFixed(1)}`, `${right.toFixed(1)},${top.toFixed(1)}`]);
  return svg("polygon", { class: name, points: `0,${HEIGHT} ${line.join(" ")} ${WIDTH},${HEIGHT}` });
}

// Both heights are shares of their own kind: there are far more pairs of strangers.
export function histogram({ histogram: bins, threshold, identities }) {
  const at = (WIDTH * (threshold - LOWEST)) / (1 - LOWEST);
  const graph = svg(
    "svg",
    { class: "histogram", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    outline(bins.impostor, bins, "impostor"),
    outline(bins.genuine, bins, "genuine"),
    svg("line", { x1: at, x2: at, y1: 0, y2: HEIGHT }),
  );
  const key = h(
    "p",
    { class: "hint key" },
    h("span", { class: "impostor" }, "two people"),
    h("span", { class: "genuine" }, "one person"),
    h("span", { class: "bound" }, `threshold ${threshold.toFixed(3)}`),
  );
  return h("div", {}, graph, key, h("p", { class: "hint" }, `Pairs of crops of ${count(identities, "identity", "identities")} by cosine, from ${LOWEST} to 1.`));
}

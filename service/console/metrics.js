// Prometheus' text form, and what two readings of it say of the time between them.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const QUIET = new Set(["/metrics", "/livez", "/readyz"]); // asked by probes and by this page itself

// [{ name, labels, value }]
export function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const found = line.startsWith("#") ? null : LINE.exec(line);
    if (!found) continue;
    const labels = Object.fromEntries([...(found[2] ?? "").matchAll(LABEL)].map(([, name, value]) => [name, value]));
    samples.push({ name: found[1], labels, value: Number(found[3].replace("Inf", "Infinity")) });
  }
  return samples;
}

function total(samples, name) {
  return samples.filter((one) => one.name === name && !QUIET.has(one.labels.route)).reduce((sum, one) => sum + one.value, 0);
}

// upper bound -> how many lie at or below it
function buckets(samples, name) {
  const found = new Map();
  for (const one of samples) {
    if (one.name !== `${name}_bucket` || QUIET.has(one.labels.route)) continue;
    const bound = Number(one.labels.le.replace("Inf", "Infinity"));
    found.set(bound, (found.get(bound) ?? 0) + one.value);
  }
  return [...found].sort((a, b) => a[0] - b[0]);
}

// The value that `share` of the new observations do not exceed, as near as the buckets tell; null without any.
export function quantile(before, now, name, share) {
  const earlier = new Map(buckets(before, name));
  const fresh = buckets(now, name).map(([bound, many]) => [bound, many - (earlier.get(bound) ?? 0)]);
  const wanted = share * (fresh.at(-1)?.[1] ?? 0);
  if (wanted <= 0) return null;
  let [low, below] = [0, 0];
  for (const [bound, many] of fresh) {
    if (many >= wanted) return bound === Infinity ? low : low + ((wanted - below) / (many - below)) * (bound - low);
    [low, below] = [bound, many];
  }
  return low;
}

export function increase(before, now, name) {
  return total(now, name) - total(before, name);
}

export function mean(before, now, name) {
  const many = increase(before, now, `${name}_count`);
  return many > 0 ? increase(before, now, `${name}_sum`) / many : null;
}

export function gauge(samples, name) {
  return samples.find((one) => one.name === name)?.value ?? null;
}

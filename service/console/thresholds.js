// What a threshold means: false-accept rates, cosines and words.

import { number } from "./ui.js";

// null where the model has no calibration. rates: [[rate, cosine]] by rising rate.
export function calibrationOf(model) {
  const known = model.thresholds;
  const rates = Object.entries(known?.far ?? {}).map(([rate, cosine]) => [Number(rate), cosine]).sort((a, b) => a[0] - b[0]);
  if (rates.length < 2) return null;
  return { rates, default: known.default, margin: known.margin, source: known.source ?? "" };
}

// Between two known rates the cosine is linear in the rate's logarithm, as in the service.
export function cosineAt(rates, rate) {
  for (let i = 1; i < rates.length; i++) {
    const [[low, lowCosine], [high, highCosine]] = [rates[i - 1], rates[i]];
    if (rate <= high) return lowCosine + ((Math.log(rate) - Math.log(low)) / (Math.log(high) - Math.log(low))) * (highCosine - lowCosine);
  }
  return rates.at(-1)[1];
}

export function rateAt(rates, cosine) {
  for (let i = 1; i < rates.length; i++) {
    const [[low, lowCosine], [high, highCosine]] = [rates[i - 1], rates[i]];
    if (cosine >= highCosine) {
      const share = Math.min(1, Math.max(0, (cosine - lowCosine) / (highCosine - lowCosine)));
      return Math.exp(Math.log(low) + share * (Math.log(high) - Math.log(low)));
    }
  }
  return rates.at(-1)[0];
}

// "About 1 stranger in 1,000": the nearest round number, since no more is known.
export function oneIn(rate, noun = "") {
  const times = 1 / rate;
  if (times < 1.5) return `Nearly every ${noun}`;
  const size = 10 ** Math.max(0, Math.floor(Math.log10(times)) - 1);
  return `About 1 ${noun} in ${number(Math.round(times / size) * size)}`;
}

export const percent = (share) => `${number(100 * share, 1)} %`;

// 0.001 -> "0.1 %, 1 in 1,000"
export function rateWords(rate) {
  return `${(100 * rate).toLocaleString("en", { maximumFractionDigits: 4 })} %, 1 in ${number(1 / rate)}`;
}

// The share of pairs of one person that reach a cosine, from a calibration's histogram.
export function reachedAt({ genuine, from, step }, cosine) {
  let [all, over] = [0, 0];
  genuine.forEach((many, index) => {
    const low = from + index * step;
    all += many;
    over += many * Math.min(1, Math.max(0, (low + step - cosine) / step));
  });
  return over / all;
}

// One search compares with everybody, so its own rate grows with the gallery.
// reached: of pairs of one person, null where nobody knows.
export function meaning(rate, cosine, identities, reached = null) {
  let words = `Compared with one person: a cosine of ${cosine.toFixed(3)} is enough.`;
  if (reached !== null) words += ` Of pairs of one person's crops, from two cameras, ${percent(reached)} reach it.`;
  if (identities < 2) return words;
  const any = 1 - (1 - rate) ** identities;
  return `${words} Compared with all ${number(identities)} here, ${oneIn(any, "stranger").toLowerCase()} is taken for somebody.`;
}

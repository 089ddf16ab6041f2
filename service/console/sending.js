// Enrolling many crops: in batches, a few under way at a time, each file with its own end.

import { json } from "./api.js";

const BATCH = 16; // crops: what the runtime takes at once
const BATCH_BYTES = 8_000_000;
const AT_ONCE = 2;
const TRIES_WHEN_FULL = 20;

function batches(items) {
  const made = [];
  let bytes = 0;
  for (const item of items) {
    const last = made.at(-1);
    if (!last || last.length === BATCH || bytes + item.file.size > BATCH_BYTES) {
      made.push([item]);
      bytes = item.file.size;
    } else {
      last.push(item);
      bytes += item.file.size;
    }
  }
  return made;
}

function wait(seconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}

function formOf(items, labels) {
  const form = new FormData();
  for (const { file, pid } of items) {
    form.append("crops", file);
    form.append("pid", pid);
  }
  for (const [name, value] of Object.entries(labels)) if (value) form.append(name, value);
  return form;
}

async function post(items, labels, signal) {
  for (let tries = 1; ; tries++) {
    try {
      return (await json("/gallery", { method: "POST", body: formOf(items, labels) })).results;
    } catch (error) {
      if (error.body?.results) return error.body.results; // every crop failed, each for its own reason
      if (error.status !== 503 || tries === TRIES_WHEN_FULL || signal.aborted) throw error;
      await wait(error.retryAfterS ?? 1, signal);
    }
  }
}

// A batch that is refused as a whole is halved, until whoever spoils it stands alone.
async function sendBatch(items, labels, onEnd, signal) {
  try {
    const results = await post(items, labels, signal);
    items.forEach((item, index) => onEnd(item, outcome(results[index])));
  } catch (error) {
    const mayBeOneOfThem = [413, 422].includes(error.status) && items.length > 1;
    if (!mayBeOneOfThem) {
      items.forEach((item) => onEnd(item, { state: "failed", words: error.message }));
      return;
    }
    const half = Math.ceil(items.length / 2);
    await sendBatch(items.slice(0, half), labels, onEnd, signal);
    await sendBatch(items.slice(half), labels, onEnd, signal);
  }
}

function outcome(result) {
  if (result.error) return { state: "failed", words: result.error.message };
  if (result.duplicate) return { state: "duplicate", words: `stood already, as entry ${result.entry_id}` };
  return { state: "enrolled", words: `enrolled as entry ${result.entry_id}` };
}

// items: [{ file, pid }]; onStart(item) and onEnd(item, { state, words }) tell how it goes. After an abort no further batch
// begins; those under way end, since nobody could tell what had become of them.
export async function sendAll(items, labels, { onStart, onEnd, signal }) {
  const left = batches(items);
  const worker = async () => {
    while (left.length && !signal.aborted) {
      const batch = left.shift();
      batch.forEach(onStart);
      await sendBatch(batch, labels, onEnd, signal);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}

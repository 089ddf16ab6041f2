// Calls to the service: the key, errors in the service's own words, and whether it answers at all.

const KEY = "reid-api-key"; // kept by the tab, gone with it
const PROBE_MS = 1500;
const SANE_KEY = /^[\x21-\x7e]+$/;

// key-wanted (detail: whether one was wrong), key-given, gone, back, changed (the gallery), gallery-known (detail: its stats), calibrated
export const events = new EventTarget();
let keyWanted = null;
let isGone = false;

export function announce(name, detail) {
  events.dispatchEvent(new CustomEvent(name, { detail }));
}

// An answer that is no success; status 0 when there was none.
export class Refused extends Error {
  constructor(message, { status = 0, body = null, retryAfterS = null } = {}) {
    super(message);
    Object.assign(this, { status, body, retryAfterS });
  }
}

// Waits for a key where the service wants one, and then goes on as if nothing had been.
export async function call(path, { headers = {}, isProbe = false, ...options } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const allHeaders = key ? { ...headers, Authorization: `Bearer ${key}` } : headers;
    const answer = await reach(path, { ...options, headers: allHeaders });
    if (answer.ok || isProbe) return answer;
    if (answer.status !== 401) throw await refusal(answer);
    await newKey(key);
  }
}

export async function json(path, options) {
  return (await call(path, options)).json();
}

export function sendJson(method, path, body) {
  return json(path, { method, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
}

async function reach(path, options) {
  try {
    const answer = await fetch(path, options);
    if (isGone) comeBack();
    return answer;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (!isGone) watch();
    throw new Refused("The service does not answer. Is it running?");
  }
}

async function refusal(answer) {
  const body = await answer.json().catch(() => null);
  const message = body?.error?.message ?? `The service answered ${answer.status}.`;
  return new Refused(message, { status: answer.status, body, retryAfterS: Number(answer.headers.get("Retry-After")) || null });
}

function newKey(tried) {
  const kept = sessionStorage.getItem(KEY);
  if (kept !== null && kept !== tried) return null; // another call has got one meanwhile
  sessionStorage.removeItem(KEY);
  if (keyWanted === null) {
    keyWanted = new Promise((resolve) => events.addEventListener("key-given", resolve, { once: true }));
    announce("key-wanted", tried !== null); // once: a second time, what is being typed would be gone
  }
  return keyWanted;
}

export function giveKey(key) {
  if (!SANE_KEY.test(key)) throw new Refused("A key has neither spaces nor letters beyond ASCII.");
  sessionStorage.setItem(KEY, key);
  keyWanted = null;
  announce("key-given");
}

function watch() {
  isGone = true;
  announce("gone");
  const timer = setInterval(async () => {
    const answer = await fetch("/livez").catch(() => null);
    if (answer?.ok && isGone) comeBack();
    if (!isGone) clearInterval(timer);
  }, PROBE_MS);
}

function comeBack() {
  isGone = false;
  announce("back");
}

// Leaves out what is empty; a list is repeated.
export function query(fields) {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(fields)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "" && one !== false) given.append(name, one);
    }
  }
  return given.size ? `?${given}` : "";
}

export function identityPath(pid) {
  // A browser takes these out of every path, escaped or not.
  if (pid === "." || pid === "..") throw new Refused(`A browser cannot ask for an identity called "${pid}"; use the command line.`);
  return `/gallery/identities/${encodeURIComponent(pid)}`;
}

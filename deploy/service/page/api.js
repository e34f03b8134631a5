// Asking the service. The token stays in this tab: it is kept in sessionStorage and sent as a header, never in an address.

const KEY = "hogshead-token";
const PATIENCE = 20000;

export class Refused extends Error {}
export class Missing extends Error {}

let ahead = 0; // milliseconds that the service's clock is ahead of ours

export const now = () => (Date.now() + ahead) / 1000;

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

// #token=… of an address that somebody was given; it does not stay in the address.
export function takeTokenFromAddress() {
  const found = /^#token=(.+)$/.exec(location.hash);
  if (!found) return;
  let given = found[1];
  try {
    given = decodeURIComponent(given);
  } catch { /* not encoded */ }
  token.set(given.trim());
  history.replaceState(null, "", `${location.pathname}${location.search}#/`);
}

export async function get(path, { etag = "", signal } = {}) {
  const headers = {};
  // A header is made of Latin-1; a token that is not cannot be right.
  if (/[^\x20-\x7e]/.test(token.get())) throw new Refused("the token is wrong: tokens are of plain letters and digits");
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  if (etag) headers["If-None-Match"] = etag;
  const patience = AbortSignal.timeout(PATIENCE);
  const response = await fetch(path, { headers, cache: "no-store", signal: signal ? AbortSignal.any([signal, patience]) : patience });
  const served = Date.parse(response.headers.get("Date") ?? "");
  if (served && Math.abs(served - Date.now() - ahead) > 1500) ahead = served - Date.now();
  if (response.status === 304) return { etag, same: true };
  const data = await response.json().catch(() => ({}));
  if (response.ok) return { data, etag: response.headers.get("ETag") ?? "" };
  const message = data.error ?? `${response.status} ${response.statusText}`;
  if (response.status === 401) throw new Refused(message);
  if (response.status === 404) throw new Missing(message);
  throw new Error(message);
}

const visible = (signal) => new Promise((resolve) => {
  if (!document.hidden) return resolve();
  document.addEventListener("visibilitychange", resolve, { once: true, signal });
  signal.addEventListener("abort", resolve, { once: true });
});

const pause = (milliseconds, signal) => new Promise((resolve) => {
  const done = () => { clearTimeout(timer); signal.removeEventListener("abort", done); resolve(); };
  const timer = setTimeout(done, milliseconds);
  signal.addEventListener("abort", done);
});

// Ask again and again, until `signal`. `path` may be a function; `take(data)` returns milliseconds until the next time, or null for
// never; `trouble(error)` hears of every failure, and of null when all is well again.
export async function poll(path, take, trouble, signal) {
  let etag = "", asked = "", wait = 2000, failures = 0;
  while (!signal.aborted) {
    await visible(signal);
    if (signal.aborted) return;
    const address = typeof path === "function" ? path() : path;
    if (address !== asked) etag = "";
    asked = address;
    try {
      const answer = await get(address, { etag, signal });
      if (signal.aborted) return;
      failures = 0;
      trouble(null);
      if (!answer.same) {
        wait = take(answer.data);
        etag = answer.etag;
      }
      if (wait === null) return;
    } catch (error) {
      if (signal.aborted) return;
      trouble(error);
      if (error instanceof Refused || error instanceof Missing) return;
      failures += 1;
    }
    await pause(failures ? Math.min(1000 * 2 ** failures, 15000) : wait, signal);
  }
}

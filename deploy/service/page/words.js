// Numbers, times and sizes as a person reads them.

const DASH = "–";

export function number(value) {
  if (value === null || value === undefined) return DASH;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2);
  if (size >= 1e4) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(4)));
}

export function count(value) {
  return value === null || value === undefined ? DASH : Math.round(value).toLocaleString("en");
}

export function si(value) {
  if (value === null || value === undefined) return DASH;
  for (const [bound, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= bound) return `${Number((value / bound).toPrecision(3))}${letter}`;
  }
  return String(Number(value.toPrecision(3)));
}

export function bytes(value) {
  if (value === null || value === undefined) return DASH;
  for (const [bound, unit] of [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (value >= bound) return `${Number((value / bound).toPrecision(3))} ${unit}`;
  }
  return `${Math.round(value)} B`;
}

export function plural(value, word) {
  return `${count(value)} ${word}${value === 1 ? "" : "s"}`;
}

// 7 s, 12:05, 3 h 4 min, 2 d 3 h
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return DASH;
  if (seconds < 10) return `${Number(seconds.toPrecision(2))} s`;
  const total = Math.round(seconds);
  if (total < 60) return `${total} s`;
  const pad = (value) => String(value).padStart(2, "0");
  const minutes = Math.floor(total / 60), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
  if (days) return `${days} d ${hours % 24} h`;
  if (hours) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return `${minutes}:${pad(total % 60)}`;
}

export function ago(seconds) {
  if (seconds < 5) return "just now";
  for (const [bound, word] of [[86400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]]) {
    if (seconds >= bound) return `${plural(Math.floor(seconds / bound), word)} ago`;
  }
  return "just now";
}

// Characters that are not seen but change what is: controls (but tab and ends of lines), marks and turns of the direction of
// writing, spaces without width, halves of a character.
const UNSEEN = /[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

// A text with such characters written as their codes: what a person reads is what stands there.
export const plain = (text) => text.replace(UNSEEN, (letter) => `\\u${letter.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`);

export const date = (seconds) => new Date(seconds * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });

export const words = (name) => String(name).replaceAll("_", " ");

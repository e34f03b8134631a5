// Elements are only ever made here, and text is only ever put in as text: nothing that a job says can become markup.

import { plain } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const READ = ["title", "aria-label"]; // attributes that a person reads
const HANDLERS = ["onclick", "oninput", "onchange", "onsubmit"];

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element[name] = value;
    // The page's policy forbids style attributes; this is the way that it allows.
    else if (name === "style") for (const [key, given] of Object.entries(value)) element.style.setProperty(key, given);
    else element.setAttribute(name, value === true ? "" : READ.includes(name) ? seen(value) : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(seen(child));
  }
  return element;
}

const seen = (child) => (typeof child === "string" ? plain(child) : child);

export const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

export const s = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// Make `live`'s content like `children`, touching only what differs: focus, selection and scroll positions stay.
export function show(live, ...children) {
  const fresh = document.createDocumentFragment();
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) fresh.append(seen(child));
  }
  morphChildren(live, fresh);
}

function morphChildren(live, fresh) {
  const wanted = [...fresh.childNodes];
  const keyed = new Map([...live.children].filter((node) => node.dataset?.key).map((node) => [node.dataset.key, node]));
  let at = live.firstChild;
  for (const node of wanted) {
    const key = node.dataset?.key;
    let match = key ? keyed.get(key) : at;
    if (match && !key && match.dataset?.key) match = null;
    if (match && alike(match, node)) {
      if (match === at) at = at.nextSibling;
      else live.insertBefore(match, at);
      morph(match, node);
    } else {
      live.insertBefore(node, at);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName;

function morph(live, fresh) {
  if (live.nodeType === Node.TEXT_NODE) {
    if (live.data !== fresh.data) live.data = fresh.data;
    return;
  }
  for (const { name } of [...live.attributes]) {
    const kept = name === "style" || (name === "open" && live.nodeName === "DETAILS");
    if (!kept && !fresh.hasAttribute(name)) live.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (name !== "style" && live.getAttribute(name) !== value) live.setAttribute(name, value);
  }
  if (live.style && live.style.cssText !== fresh.style.cssText) live.style.cssText = fresh.style.cssText;
  for (const name of HANDLERS) live[name] = fresh[name];
  morphChildren(live, fresh);
}

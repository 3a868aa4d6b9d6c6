"use strict";
// What the page is made of, and how it spells numbers and colours. Texts in it are strangers': they become text nodes alone.
const DATA = JSON.parse(document.getElementById("data").textContent);

const byId = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = name.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", name.slice(4))
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function significant(value) {
  return Number(value.toPrecision(3)).toString();
}

function showBytes(size) {
  for (const [factor, unit] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]])
    if (size >= factor) return `${significant(size / factor)} ${unit}`;
  return `${size} B`;
}

function showCount(count) {
  for (const [factor, prefix] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (count >= factor) return `${significant(count / factor)} ${prefix}`;
  return `${count}`;
}

const KINDS = {
  f64: "float64", f32: "float32", f16: "16 bits", b8: "8 bits", b4: "4 bits and fewer", other: "other",
};

/** Which of the kinds of precision an element type is. */
function kindOf(type) {
  if (type === "float64") return "f64";
  if (type === "float32") return "f32";
  if (/float16$/.test(type) || /^u?int16$/.test(type)) return "f16";
  if (/^float8/.test(type) || /^u?int8$/.test(type)) return "b8";
  if (/^(u?int|float)[2-6]/.test(type) && !/^u?int(32|64)$/.test(type)) return "b4";
  return "other";
}

let palette = {};

/** Read the colours of the theme for the canvas, which takes no variables. */
function readPalette() {
  const probe = element("span");
  document.body.append(probe);
  const names = ["back", "card", "text", "soft", "line", "accent", "good", "bad", "amber", "node-text", ...Object.keys(KINDS)];
  palette = Object.fromEntries(names.map((name) => {
    probe.style.color = `var(--${name})`;
    return [name, getComputedStyle(probe).color];
  }));
  probe.remove();
}

"use strict";
// Every text from outside goes through textContent or an attribute of an element made here; nothing is parsed as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 50;
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
let shown = [], page = 0;

function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) element[name] = value;
  element.append(...children);
  return element;
}

function shape(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const textOf = (outcome) => (outcome.d || []).map((p) => (typeof p === "string" ? p : p[1])).join("");
const rate = (row, o) => (o.e || 0) / Math.max(1, row.l);
const confidence = (o, missing) => (o.c === undefined ? missing : o.c);
const order = {
  order: () => 0,
  errors: (a, b, r) => (b.o[r].e || 0) - (a.o[r].e || 0),
  rate: (a, b, r) => rate(b, b.o[r]) - rate(a, a.o[r]),
  unsure: (a, b, r) => confidence(a.o[r], 2) - confidence(b.o[r], 2),
  sure: (a, b, r) => confidence(b.o[r], -1) - confidence(a.o[r], -1),
  long: (a, b) => b.l - a.l,
};
const kept = {
  all: () => true,
  wrong: (row, r) => row.o[r].e > 0,
  right: (row, r) => !(row.o[r].e > 0),
  marked: (row, r) => row.o[r].x !== undefined,
  differ: (row) => new Set(row.o.map(textOf)).size > 1,
};

function update() {
  const run = Number($("run").value), find = $("find").value.toLowerCase();
  const matches = (row) => !find || row.i.toLowerCase().includes(find) || row.r.toLowerCase().includes(find) ||
    row.o.some((o) => textOf(o).toLowerCase().includes(find));
  shown = data.rows.filter((row) => kept[$("show").value](row, run) && matches(row));
  const compare = order[$("sort").value];
  if ($("sort").value !== "order") shown.sort((a, b) => compare(a, b, run));
  page = 0;
  draw();
}

function draw() {
  const pages = Math.max(1, Math.ceil(shown.length / PAGE)), first = page * PAGE;
  $("count").textContent = `${shown.length.toLocaleString("en")} of ${data.rows.length.toLocaleString("en")} lines`;
  $("rows").replaceChildren(...shown.slice(first, first + PAGE).map(line));
  $("where").textContent = `${page + 1} of ${pages}`;
  $("back").disabled = page === 0;
  $("next").disabled = page + 1 >= pages;
  $("pages").hidden = pages === 1;
}

function line(row) {
  const run = Number($("run").value), picture = shot(row, row.o[run]);
  const head = make("div", { className: "head" }, make("span", { className: "id", textContent: row.i }));
  if (row.g) head.append(make("span", { textContent: row.g }));
  const own = row.o[run];
  head.append(make("span", { textContent: own.e ? `${own.e} wrong, ${(100 * rate(row, own)).toFixed(1)} %` : "right" }));
  if (own.c !== undefined) head.append(make("span", { textContent: `confidence ${own.c.toFixed(3)}` }));
  for (const mark of own.x || []) head.append(make("span", { className: "mark", textContent: mark }));
  const text = make("div", { className: "text" });
  text.append(make("span", { textContent: "reference" }), make("span", { className: "said reference", textContent: row.r }));
  row.o.forEach((outcome, number) => {
    const label = data.runs.length > 1 ? data.runs[number] : "read";
    text.append(make("span", { textContent: label }), said(outcome, number === run ? picture : null));
    if (outcome.f) text.append(make("span"), make("span", { className: "note", textContent: outcome.f }));
  });
  const item = make("li", {}, head);
  if (picture.element) item.append(picture.element);
  item.append(text);
  row.o.forEach((outcome, number) => {
    if (outcome.n) item.append(alternatives(outcome.n, data.runs.length > 1 ? data.runs[number] : ""));
  });
  return item;
}

function alternatives(found, name) {
  const list = make("ol", {}, ...found.map(([text, p]) => make("li", {},
    make("span", { className: "said", textContent: text }), ` ${(100 * p).toFixed(1)} %`)));
  return make("details", {}, make("summary", { textContent: `${name}${name && ": "}${found.length} alternatives` }), list);
}

// What was read, with the differences from the reference; each character is underlined by its confidence.
function said(outcome, picture) {
  const box = make("span", { className: "said read" });
  let at = 0;
  const letters = (text, parent) => {
    for (const character of text) {
      const letter = make("b", { textContent: character }), place = at++;
      if (outcome.k) {
        const value = Number(outcome.k.slice(2 * place, 2 * place + 2)) / 100;
        letter.title = `confidence ${value.toFixed(2)}`;
        if (value < 0.95) letter.style.borderBottomColor = `hsl(${Math.round(120 * value)} 75% 45%)`;
      }
      if (picture && picture.look) {
        letter.addEventListener("mouseenter", () => picture.look(place));
        letter.addEventListener("click", () => picture.look(place));
      }
      parent.append(letter);
    }
  };
  for (const part of outcome.d || []) {
    if (typeof part === "string") letters(part, box);
    else {
      if (part[0]) box.append(make("del", { textContent: part[0], title: "stands there and was not read" }));
      if (part[1]) { const ins = make("ins"); letters(part[1], ins); box.append(ins); }
    }
  }
  return box;
}

// The image with the boxes of its words; pointing at a character shows where the model looked for it.
function shot(row, outcome) {
  if (!row.m) return {};
  const image = make("img", { src: `data:image/webp;base64,${row.m}`, alt: row.i, width: row.w, height: row.h, loading: "lazy" });
  const frame = make("div", { className: "shot" }, image);
  const element = make("div", { className: "strip" }, frame);
  if (!outcome.b) return { element };
  const drawing = shape("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none" });
  const boxes = outcome.b.map(([left, right]) =>
    shape("rect", { class: "box", x: left, y: 3, width: Math.max(1, right - left), height: 94 }));
  const heat = shape("g", {});
  drawing.append(heat, ...boxes);
  frame.append(drawing);
  const words = [];
  let word = -1, inside = false;
  for (const character of textOf(outcome)) {
    const space = /\s/.test(character);
    if (!space && !inside) word++;
    inside = !space;
    words.push(space ? -1 : word);
  }
  const look = (place) => {
    boxes.forEach((box, i) => box.classList.toggle("here", i === words[place]));
    let before = 0;
    const token = (outcome.a || []).find((t) => (before += t[0]) > place);
    heat.replaceChildren(...(token ? spots(token, outcome.q) : []));
  };
  return { element, look };
}

function spots(token, [rows, columns, left, right]) {
  const found = [], wide = (right - left) / columns, high = 100 / rows;
  for (let i = 1; i < token.length; i += 2) {
    const [patch, share] = [token[i], token[i + 1]];
    found.push(shape("rect", { class: "heat", x: left + (patch % columns) * wide, y: Math.floor(patch / columns) * high,
      width: wide, height: high, "fill-opacity": Math.min(0.75, 0.1 + share / 60) }));
  }
  return found;
}

data.runs.forEach((name, i) => $("run").append(make("option", { value: i, textContent: name })));
$("run").parentElement.hidden = data.runs.length < 2;
for (const id of ["run", "show", "sort"]) $(id).addEventListener("change", update);
$("find").addEventListener("input", update);
const turn = (by) => { page += by; draw(); $("lines").scrollIntoView(); };
$("back").addEventListener("click", () => turn(-1));
$("next").addEventListener("click", () => turn(1));
update();

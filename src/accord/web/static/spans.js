// Marking passages good or bad. A passage is chosen by selecting words with the mouse, a finger or the caret, or
// with the arrow keys, sentence by sentence (H). It is known by its words and which occurrence of them it is,
// counted in the text as the page shows it: the server finds it in the text that the model wrote.

import { toast } from "./core.js";

const $ = (id) => document.getElementById(id);
const marker = $("marker"); // absent when the project does not ask for passages
const LONGEST = 5_000;
const MOST = 50;

let marks = []; // {position, start, end, label, note, quote, occurrence}; start is -1 when it is not on the page
let chosen = null; // {position, start, end}
let unit = "sentence";
let leaving = 0;

const body = (position) => $(`answer-${position}`);
const letter = (position) => String.fromCharCode(65 + position);

// ------------------------------------------------------------------------------------------- places

function textNodes(root) {
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const found = [];
  for (let at = 0; walker.nextNode(); at += walker.currentNode.data.length) found.push([walker.currentNode, at]);
  return found;
}

function rangeOf({ position, start, end }) {
  const range = document.createRange();
  let begun = false;
  for (const [node, at] of textNodes(body(position))) {
    if (!begun && start < at + node.data.length) range.setStart(node, start - at), (begun = true);
    if (begun && end <= at + node.data.length) return range.setEnd(node, end - at), range;
  }
  return null;
}

// What of a range lies in one answer, without spaces at its ends.
function placeOf(range) {
  const host = range.startContainer.nodeType === Node.TEXT_NODE ? range.startContainer.parentElement : range.startContainer;
  const root = host.closest?.(".answer .body");
  if (!root) return null;
  const before = document.createRange();
  before.selectNodeContents(root);
  const whole = before.cloneRange();
  before.setEnd(range.startContainer, range.startOffset);
  let start = before.toString().length;
  const inside = range.cloneRange();
  if (range.compareBoundaryPoints(Range.END_TO_END, whole) > 0) inside.setEnd(whole.endContainer, whole.endOffset);
  const words = inside.toString();
  start += words.length - words.trimStart().length;
  return words.trim() ? { position: Number(root.id.slice(7)), start, end: start + words.trim().length } : null;
}

const wordsAt = ({ position, start, end }) => body(position).textContent.slice(start, end);

function occurrenceOf({ position, start, end }) {
  const text = body(position).textContent;
  const quote = text.slice(start, end);
  let count = 0;
  for (let at = text.indexOf(quote); at >= 0 && at < start; at = text.indexOf(quote, at + 1)) count += 1;
  return { quote, occurrence: count };
}

function find({ position, quote, occurrence }) {
  const text = body(position).textContent;
  let start = text.indexOf(quote);
  for (let n = 0; n < occurrence && start >= 0; n += 1) start = text.indexOf(quote, start + 1);
  return { start, end: start + quote.length };
}

// Sentences, or words, of an answer; none goes beyond a line, a cell or a list's entry.
function units(position) {
  const text = body(position).textContent;
  const found = [];
  let at = 0;
  for (const line of text.split("\n")) {
    for (const piece of pieces(line)) {
      const words = piece.segment.trim();
      const start = at + piece.index + piece.segment.length - piece.segment.trimStart().length;
      if (words && piece.isWordLike !== false) found.push({ position, start, end: start + words.length });
    }
    at += line.length + 1;
  }
  return found;
}

function pieces(line) {
  if (window.Intl?.Segmenter) return new Intl.Segmenter(undefined, { granularity: unit }).segment(line);
  const pattern = unit === "word" ? /[\p{L}\p{N}'’-]+/gu : /[^.!?]+[.!?]*\s*/gu;
  return [...line.matchAll(pattern)].map((match) => ({ segment: match[0], index: match.index }));
}

const everyUnit = () => [...document.querySelectorAll(".answer:not([hidden]) .body")].flatMap((root) => units(Number(root.id.slice(7))));

// ------------------------------------------------------------------------------------------- drawing

function draw() {
  for (const old of document.querySelectorAll(".answer .body mark")) {
    const parent = old.parentNode;
    old.replaceWith(...old.childNodes);
    parent.normalize();
  }
  for (const mark of marks.filter((each) => each.start >= 0)) {
    for (const [node, at] of textNodes(body(mark.position))) {
      const from = Math.max(mark.start - at, 0);
      const to = Math.min(mark.end - at, node.data.length);
      if (from >= to || !node.data.slice(from, to).trim()) continue;
      const range = document.createRange();
      range.setStart(node, from);
      range.setEnd(node, to);
      const element = document.createElement("mark");
      element.className = mark.label;
      range.surroundContents(element);
    }
  }
  for (const list of document.querySelectorAll(".marks")) {
    const mine = marks.filter((mark) => list.id === `marks-${mark.position}`);
    list.replaceChildren(...mine.map(entry));
    list.hidden = !mine.length;
  }
}

function entry(mark) {
  const line = document.createElement("li");
  const badge = document.createElement("span");
  badge.className = `badge ${mark.label}`;
  badge.textContent = mark.label;
  const passage = document.createElement("bdi");
  passage.className = "passage";
  const short = mark.quote.length > 90 ? `${mark.quote.slice(0, 90)}…` : mark.quote;
  passage.textContent = `“${short}”`;
  const note = document.createElement("input");
  Object.assign(note, { type: "text", value: mark.note, maxLength: 2000, dir: "auto", placeholder: "Note (optional)" });
  note.setAttribute("aria-label", `Note on the ${mark.label} passage “${short}”`);
  note.addEventListener("input", () => (mark.note = note.value));
  note.addEventListener("keydown", (event) => {
    if (!["Enter", "Escape"].includes(event.key) || event.ctrlKey || event.metaKey || event.isComposing) return;
    event.preventDefault();
    event.stopPropagation();
    if (marker.hidden) $("title").focus({ preventScroll: true });
    else marker.focus({ preventScroll: true });
  });
  const remove = document.createElement("button");
  Object.assign(remove, { type: "button", className: "plain", textContent: "Remove" });
  remove.setAttribute("aria-label", `Remove the mark on “${short}”`);
  remove.addEventListener("click", () => {
    drop(mark);
    $("open-marker").focus({ preventScroll: true });
  });
  line.append(badge, passage, note, remove);
  return line;
}

// ------------------------------------------------------------------------------------------- marking

function drop(mark) {
  marks = marks.filter((each) => each !== mark);
  draw();
  if (chosen) select(chosen);
}

const same = (mark) => chosen && ["position", "start", "end"].every((name) => mark[name] === chosen[name]);
const covering = () => marks.find(same) ?? marks.find((m) => chosen && m.position === chosen.position && m.start < chosen.end && chosen.start < m.end);

function put(label) {
  if (!chosen) return;
  if (chosen.end - chosen.start > LONGEST) return toast(`Mark less: a passage has at most ${LONGEST} characters`);
  const known = marks.find(same);
  if (!known && marks.length >= MOST) return toast(`At most ${MOST} passages can be marked`);
  if (known) known.label = label;
  else marks.push({ ...chosen, ...occurrenceOf(chosen), label, note: "" });
  marks.sort((a, b) => a.position - b.position || a.start - b.start || a.end - b.end);
  draw();
  select(chosen);
  say(`Marked ${label}: `);
}

function say(words = "") {
  const quote = chosen ? wordsAt(chosen) : "";
  const side = chosen ? `Answer ${letter(chosen.position)}: ` : "";
  $("marker-quote").textContent = `${words}${side}“${quote.length > 200 ? `${quote.slice(0, 200)}…` : quote}”`;
}

function select(place) {
  chosen = place;
  const range = rangeOf(place);
  if (!range) return;
  const selection = getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
  const box = range.getBoundingClientRect();
  const free = innerHeight - $("judge").offsetHeight;
  if (box.top < 80 || box.bottom > free - 10) scrollBy(0, box.top - Math.max(80, (free - box.height) / 2));
}

export function open() {
  if (!marker) return;
  clearTimeout(leaving);
  const selection = getSelection();
  const place = selection.rangeCount && !selection.isCollapsed ? placeOf(selection.getRangeAt(0)) : null;
  const first = place ?? chosen ?? everyUnit()[0];
  if (!first) return;
  marker.hidden = false;
  document.body.classList.add("choosing");
  marker.focus({ preventScroll: true });
  select(first);
  say();
}

function close() {
  marker.hidden = true;
  document.body.classList.remove("choosing");
  chosen = null;
  getSelection().removeAllRanges();
}

function done() {
  close();
  $("title").focus({ preventScroll: true });
}

function move(step, more) {
  const all = everyUnit();
  const at = chosen ?? all[0];
  if (!at) return;
  const inside = all.filter((u) => u.position === at.position && u.start < at.end && at.start < u.end);
  const last = all.indexOf(inside.at(-1));
  const first = all.indexOf(inside[0]);
  let next = null;
  if (!more) next = all[step > 0 ? last + 1 : first - 1];
  else if (step > 0 && all[last + 1]?.position === at.position) next = { ...at, end: all[last + 1].end };
  else if (step < 0 && last > first) next = { ...at, end: all[last - 1].end };
  if (next) select(next);
  say();
}

function change() {
  unit = unit === "word" ? "sentence" : "word";
  const all = everyUnit();
  select(all.find((u) => chosen && u.position === chosen.position && u.end > chosen.start) ?? all[0]);
  say(unit === "word" ? "By words. " : "By sentences. ");
}

function note() {
  const mark = covering();
  if (!mark) return say("Not marked yet. ");
  const index = marks.filter((each) => each.position === mark.position).indexOf(mark);
  $(`marks-${mark.position}`).children[index].querySelector("input").focus();
}

function remove() {
  const mark = covering();
  if (!mark) return say("Not marked. ");
  drop(mark);
  say("Removed. ");
}

const KEYS = {
  ArrowRight: (event) => move(1, event.shiftKey),
  ArrowDown: (event) => move(1, event.shiftKey),
  ArrowLeft: (event) => move(-1, event.shiftKey),
  ArrowUp: (event) => move(-1, event.shiftKey),
  g: () => put("good"),
  b: () => put("bad"),
  n: note,
  w: change,
  Delete: remove,
  Backspace: remove,
  Escape: done,
};

// ------------------------------------------------------------------------------------------- wiring

export function read() {
  return marks.map(({ position, quote, occurrence, label, note: words }) => ({ position, quote, occurrence, label, note: words }));
}

export function write(list) {
  if (!marker) return;
  close();
  unit = "sentence";
  marks = (list ?? []).map((mark) => ({ note: "", ...mark, ...find(mark) }));
  draw();
}

if (marker) {
  $("open-marker").addEventListener("click", open);
  $("close-marker").addEventListener("click", done);
  // A tap on a button must not end the selection that it is about.
  marker.addEventListener("pointerdown", (event) => event.preventDefault());
  marker.addEventListener("click", (event) => {
    const label = event.target.closest("[data-mark]")?.dataset.mark;
    if (label) put(label);
  });
  marker.addEventListener("keydown", (event) => {
    const act = KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    act(event);
  });
  document.addEventListener("selectionchange", () => {
    const selection = getSelection();
    if (marker.contains(document.activeElement) || document.activeElement?.matches("input[type=text], textarea")) return;
    clearTimeout(leaving);
    const place = selection.rangeCount && !selection.isCollapsed ? placeOf(selection.getRangeAt(0)) : null;
    if (place) {
      chosen = place;
      marker.hidden = false;
      document.body.classList.add("choosing");
      say();
    } else if (!marker.hidden) {
      leaving = setTimeout(close, 300); // browsers of phones end the selection before they press a button
    }
  });
}

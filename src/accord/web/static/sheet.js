// The rater's sheet: what is shown of a question, and what the fields around it say.

import { setHtml } from "./core.js";
import * as spans from "./spans.js";

const $ = (id) => document.getElementById(id);
const form = $("judge");
const BETTER = ["", "slightly better", "better", "much better"];

export function sentence(choice) {
  if (choice === null) return "";
  if (choice === "bad") return "Both are bad";
  return choice === 0 ? "They are equally good" : `${choice > 0 ? "A" : "B"} is ${BETTER[Math.abs(choice)]}`;
}

function rendered(html) {
  const holder = document.createElement("template");
  setHtml(holder, html);
  // Copies, since players that were made in a template's document do not load where they are put later.
  return [...document.importNode(holder.content, true).childNodes];
}

// Parse a question's HTML ahead of time, so that showing it is only a matter of moving nodes.
export function prepare(question) {
  question.nodes ??= {
    prompt: question.prompt.map(({ role, html }) => {
      const turn = document.createElement("div");
      turn.className = `turn ${["user", "system"].includes(role) ? role : "other"}`;
      const who = document.createElement("p");
      who.className = "role";
      who.textContent = { user: "Person", assistant: "Assistant", system: "Instructions", tool: "Tool" }[role] ?? role;
      turn.append(who, ...rendered(html));
      return turn;
    }),
    answers: question.answers.map(({ html }) => rendered(html)),
  };
  return question;
}

let count = 2; // answers on the page

export function lay(question) {
  count = question.answers.length;
  const { prompt, answers } = prepare(question).nodes;
  $("prompt").replaceChildren(...prompt);
  answers.forEach((nodes, position) => $(`answer-${position}`).replaceChildren(...nodes));
}

export function choice() {
  const chosen = form.querySelector('input[name="strength"]:checked');
  return chosen ? (chosen.value === "bad" ? "bad" : Number(chosen.value)) : null;
}

export function choose(value) {
  const input = form.querySelector(`input[name="strength"][value="${value}"]`);
  if (!input) return;
  input.checked = true;
  input.focus({ preventScroll: true });
  mark();
}

export function mark() {
  const now = choice();
  document.querySelector(".answer.a").classList.toggle("wins", now !== null && now > 0);
  document.querySelector(".answer.b").classList.toggle("wins", now !== null && now < 0);
  $("said").textContent = sentence(now);
}

export function read() {
  const flags = Array.from({ length: count }, (_, p) => [...document.querySelectorAll(`input[name="flag-${p}"]:checked`)].map((box) => box.value));
  const ratings = {};
  for (const row of document.querySelectorAll("[data-attribute]")) {
    const chosen = row.querySelector("input:checked");
    if (chosen) (ratings[row.dataset.attribute] ??= Array(count).fill(null))[row.dataset.position] = Number(chosen.value);
  }
  const edit = $("edit");
  const written = edit && !edit.hidden ? { position: Number(edit.dataset.position), text: edit.value } : null;
  const now = choice();
  return { strength: now === "bad" ? 0 : now, both_bad: now === "bad", flags, ratings, comment: $("comment")?.value ?? "", edit: written, spans: spans.read() };
}

const EMPTY = { strength: null, both_bad: false, flags: [[], []], ratings: {}, comment: "", edit: null, spans: [] };

export function write(values) {
  const sheet = { ...EMPTY, ...values };
  const chosen = sheet.both_bad ? "bad" : sheet.strength === null ? null : String(sheet.strength);
  for (const input of form.querySelectorAll('input[name="strength"]')) input.checked = input.value === chosen;
  for (const box of document.querySelectorAll('input[name^="flag-"]')) {
    box.checked = Boolean(sheet.flags?.[box.name.slice(5)]?.includes(box.value));
  }
  for (const row of document.querySelectorAll("[data-attribute]")) {
    const value = sheet.ratings?.[row.dataset.attribute]?.[row.dataset.position];
    for (const input of row.querySelectorAll("input")) input.checked = Number(input.value) === value;
  }
  if ($("comment")) $("comment").value = sheet.comment ?? "";
  writeEdit(sheet.edit);
  spans.write(sheet.spans);
  mark();
}

export function writeEdit(edit) {
  const field = $("edit");
  if (!field) return;
  field.hidden = $("drop-edit").hidden = !edit;
  field.value = edit?.text ?? "";
  field.dataset.position = edit?.position ?? "";
}

// Seconds somebody was really at it: the page in view, the last sign of life under half a minute ago.
export function stopwatch(idle = 30_000) {
  let spent = 0;
  let last = performance.now();
  const step = () => {
    const now = performance.now();
    if (!document.hidden && document.hasFocus()) spent += Math.min(now - last, idle);
    last = now;
  };
  for (const kind of ["keydown", "pointerdown", "pointermove", "scroll", "focus", "blur"]) {
    addEventListener(kind, step, { passive: true, capture: kind === "scroll" });
  }
  document.addEventListener("visibilitychange", () => (document.hidden ? step() : (last = performance.now())));
  return {
    restart: (from = 0) => ((spent = from), (last = performance.now())),
    seconds: () => (step(), Math.min(86_400, Math.round(spent / 10) / 100)),
  };
}

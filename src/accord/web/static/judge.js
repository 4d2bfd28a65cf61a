// Judging: one question at a time, the next ones already here. Nothing waits for the network between a key
// press and the next question; answers travel behind (outbox.js).

import { api, toast } from "./core.js";
import { Outbox } from "./outbox.js";
import * as ranking from "./ranking.js";
import * as sheet from "./sheet.js";
import * as spans from "./spans.js";

const $ = (id) => document.getElementById(id);
const page = $("main");
const project = page.dataset.project + page.dataset.lane; // of which questions: one's own queue, or adjudication
const mine = `${project}-${page.dataset.me}`; // what the browser keeps is of one person, on one project
const WANT = 3;

const watch = sheet.stopwatch();
const done = new Set(); // assignments answered or skipped in this tab, which a late lease reply may still list
let queue = []; // the first one is on the screen
let shown = null;
let asking = null;
let number = 0;

// ------------------------------------------------------------------------------------------- showing

function show() {
  const question = queue[0] ?? null;
  $("question").hidden = $("judge").hidden = !question;
  $("idle").hidden = Boolean(question);
  if (question === shown) return;
  shown = question;
  if (!question) return;
  number += 1;
  ranking.stage(question);
  sheet.lay(question);
  write(question.draft ?? question.earlier ?? {});
  watch.restart(question.spent ?? 0);
  const again = Boolean(question.earlier);
  $("title").textContent = again ? "Your earlier answer" : ranks() ? ranking.TITLE : "Which answer is better?";
  notice(again ? "Change it and submit, or press Esc to leave it as it was." : newerGuideline(question));
  document.body.dataset.shown = question.assignment;
  document.body.dataset.number = number;
  scrollTo(0, 0);
  $("title").focus({ preventScroll: true });
}

const ranks = () => shown?.kind === "ranking";

function write(values) {
  sheet.write(values);
  if (ranks()) ranking.write(values);
}

function read() {
  const { strength, both_bad, ...beside } = sheet.read();
  return ranks() ? { ...beside, ...ranking.read() } : { ...beside, strength, both_bad };
}

function newerGuideline(question) {
  const have = Number(page.dataset.guideline);
  return question.guideline > have ? `The guideline has changed to version ${question.guideline}. Reload this page to read it.` : "";
}

function notice(words) {
  $("notice").textContent = words;
  $("notice").hidden = !words;
}

function showProgress({ answered, skipped, left }) {
  $("progress").textContent = `${answered} answered${skipped ? `, ${skipped} skipped` : ""} · ${left} left`;
  $("bar").max = Math.max(answered + left, 1);
  $("bar").value = answered;
  $("undo").disabled = $("idle-undo").hidden = !answered;
}

function idle(title, words) {
  $("idle-title").textContent = title;
  $("idle-text").textContent = words;
}

const NOTHING_LEFT = ["That is all for now", "There is nothing more for you to judge. This page looks again by itself."];
const PAUSED = ["The project is paused", "Its manager has stopped handing out questions. What you answered is safe."];

// ------------------------------------------------------------------------------------------- asking

function take({ questions, progress }) {
  showProgress(progress);
  for (const question of questions) {
    const known = queue.find((q) => q.assignment === question.assignment && !q.earlier);
    if (known) known.expires_at = question.expires_at;
    else if (!done.has(question.assignment)) queue.push(sheet.prepare(question));
  }
  if (!queue.length) idle(...(page.dataset.state === "paused" ? PAUSED : NOTHING_LEFT));
  show();
}

function refill() {
  asking ??= api("POST", `/api/v1/projects/${project}/lease`, { want: WANT })
    .then(take)
    .catch((error) => {
      if (error.status === 401) location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
      else if (error.code === "csrf") location.reload();
      else if (!queue.length) idle(...(error.code === "paused" ? PAUSED : ["The server does not answer", `${error.status ? error.message : ""} Trying again.`]));
      show();
    })
    .finally(() => (asking = null));
  return asking;
}

const outbox = new Outbox(`accord-outbox-${mine}`, (state, detail) => {
  $("saving").dataset.state = state;
  $("saving").textContent = state === "late" ? "Not saved yet, trying again" : "";
  if (state === "refused") toast(detail.message);
  if (state === "saved" && detail.progress) showProgress(detail.progress);
  if (state !== "late" && queue.length < WANT) refill();
});

// ------------------------------------------------------------------------------------------- answering

function submit() {
  const question = queue[0];
  if (!question) return;
  if (ranks() && !ranking.ready()) return;
  const answer = read();
  if (answer.strength === null) {
    $("said").textContent = "Choose from 1 to 7 first";
    return;
  }
  if (answer.edit && !answer.edit.text.trim()) answer.edit = null;
  if (!$("comment")) delete answer.comment;
  const more = { seconds: watch.seconds(), key: crypto.randomUUID?.() ?? uuid(), revises: question.earlier?.judgement ?? null };
  leave(question);
  outbox.push(`/api/v1/assignments/${question.assignment}/judgement`, { ...answer, ...more });
}

function skip(reason) {
  const question = queue[0];
  if (!question || question.earlier) return;
  leave(question);
  outbox.push(`/api/v1/assignments/${question.assignment}/skip`, { reason });
}

function leave(question) {
  queue.shift();
  done.add(question.assignment);
  if (!queue.length) idle("One moment", "The next question is on its way.");
  show();
}

async function undo() {
  await outbox.flush(); // the last answer must have arrived before it can be called back
  const current = queue[0];
  const before = current?.earlier?.judgement ?? null;
  let reply;
  try {
    reply = await api("POST", `/api/v1/projects/${project}/undo`, { before });
  } catch (error) {
    toast(error.status === 404 ? "There is nothing further back" : error.message);
    return;
  }
  if (current !== queue[0]) return; // somebody went on in the meantime
  if (current?.earlier) queue.shift();
  else if (current) Object.assign(current, { draft: read(), spent: watch.seconds() * 1000 });
  queue.unshift(sheet.prepare(reply.question));
  show();
}

function leaveAsItWas() {
  if (!queue[0]?.earlier) return;
  queue.shift();
  if (!queue.length) idle(...NOTHING_LEFT);
  show();
}

// crypto.randomUUID exists on https and localhost only; a laboratory's plain http has getRandomValues.
function uuid() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
}

// ------------------------------------------------------------------------------------------- panels

function readGuideline(open) {
  $("guideline").hidden = !open;
  $("open-guideline").setAttribute("aria-expanded", String(open));
  document.body.classList.toggle("reading", open);
  if (open) $("guideline").focus();
  else {
    localStorage.setItem(`accord-read-${mine}`, page.dataset.guidelineId);
    $("guideline-new").hidden = true;
    $("title").focus({ preventScroll: true });
  }
}

function openSkip() {
  if (queue[0]?.earlier) return leaveAsItWas();
  if (!queue[0]) return;
  $("skip-dialog").querySelector("input").checked = true;
  $("skip-dialog").returnValue = "";
  $("skip-dialog").showModal();
}

function toggleMore() {
  $("more").open = !$("more").open;
  if (!$("more").open) return $("title").focus({ preventScroll: true });
  $("more").querySelector("input, textarea, button")?.focus();
  $("more").scrollIntoView({ block: "nearest" });
}

// ------------------------------------------------------------------------------------------- keys

const KEYS = {
  ...Object.fromEntries([1, 2, 3, 4, 5, 6, 7].map((k) => [k, () => sheet.choose(4 - k)])),
  b: () => sheet.choose("bad"),
  u: undo,
  s: openSkip,
  m: toggleMore,
  h: spans.open,
  g: () => readGuideline($("guideline").hidden),
  "?": () => $("help-dialog").showModal(),
};

function typing(target) {
  return target.closest?.("textarea, select, input:not([type=radio], [type=checkbox])");
}

function keyInSkip(event) {
  const reasons = $("skip-dialog").querySelectorAll('input[name="reason"]');
  if (!typing(event.target) && reasons[event.key - 1]) {
    event.preventDefault();
    reasons[event.key - 1].checked = true;
    reasons[event.key - 1].focus();
  }
}

addEventListener("keydown", (event) => {
  if (event.isComposing || event.repeat) return;
  if ($("skip-dialog").open) return keyInSkip(event);
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return event.preventDefault(), submit();
  if (ranks() && !typing(event.target) && ranking.key(event, $("use-keys").checked)) return event.preventDefault();
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    if (!$("guideline").hidden) return readGuideline(false);
    if (typing(event.target)) return event.target.blur();
    return leaveAsItWas();
  }
  if (typing(event.target)) return;
  if (event.key === "Enter" && !event.target.closest("a, button:not(.rank), summary, audio, video")) return event.preventDefault(), submit();
  // By position too: on a French keyboard the unshifted 1 is "&".
  const key = event.key in KEYS || event.shiftKey ? event.key.toLowerCase() : event.code.replace(/^(Digit|Numpad)/, "");
  const act = $("use-keys").checked ? (KEYS[key] ?? KEYS[event.key.toLowerCase()]) : null;
  if (act && (queue.length || "ug?".includes(event.key.toLowerCase()))) {
    event.preventDefault();
    act();
  }
});

// ------------------------------------------------------------------------------------------- wiring

$("judge").addEventListener("submit", (event) => (event.preventDefault(), submit()));
$("judge").addEventListener("change", sheet.mark);
$("undo").addEventListener("click", undo);
$("idle-undo").addEventListener("click", undo);
$("skip").addEventListener("click", openSkip);
$("skip-stay").addEventListener("click", () => $("skip-dialog").close());
$("skip-dialog").addEventListener("close", () => {
  if ($("skip-dialog").returnValue !== "skip") return;
  skip($("skip-dialog").querySelector("input:checked").value);
});
$("open-help").addEventListener("click", KEYS["?"]);
$("open-guideline").addEventListener("click", KEYS.g);
$("close-guideline").addEventListener("click", () => readGuideline(false));
$("use-keys").checked = localStorage.getItem("accord-keys") !== "off";
$("use-keys").addEventListener("change", () => localStorage.setItem("accord-keys", $("use-keys").checked ? "on" : "off"));
$("more").open = localStorage.getItem("accord-more") === "open";
$("more").addEventListener("toggle", () => localStorage.setItem("accord-more", $("more").open ? "open" : ""));
$("more").addEventListener("click", (event) => {
  const start = event.target.closest("[data-start]")?.dataset.start;
  if (start === undefined) return;
  sheet.writeEdit({ position: Number(start), text: queue[0].answers[start].text });
  $("edit").focus();
});
$("drop-edit")?.addEventListener("click", () => sheet.writeEdit(null));
addEventListener("beforeunload", (event) => outbox.waiting.length && !outbox.leaving && event.preventDefault());

// A lease lasts minutes: asking again renews it while somebody is at work, and finds new questions when idle.
setInterval(() => {
  const soon = queue.some((q) => !q.earlier && Date.parse(q.expires_at) - Date.now() < 120_000);
  if (!document.hidden && !outbox.waiting.length && (!queue.length || soon)) refill();
}, 15_000);

for (const { path } of outbox.waiting) done.add(path.split("/")[4]);
take(JSON.parse($("boot").textContent));
outbox.flush();
if (queue.length < WANT && page.dataset.state !== "paused") refill();
if (localStorage.getItem(`accord-read-${mine}`) !== page.dataset.guidelineId) {
  $("guideline-new").hidden = false;
  readGuideline(true);
}

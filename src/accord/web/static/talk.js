// A talk with policies: write, wait, judge two answers, and on from the better one. The server knows where the
// talk stands; this page keeps only what is on its way there, so that neither a reload nor a restart loses it.

import { api, toast } from "./core.js";
import { Outbox } from "./outbox.js";
import * as sheet from "./sheet.js";
import * as spans from "./spans.js";

const $ = (id) => document.getElementById(id);
const page = $("main");
const boot = JSON.parse($("boot").textContent);
const TRIES = 3; // when the server says that it has no answer now
const TITLES = { start: "Talk with the model", write: "Your turn", wait: "One moment", save: "One moment", judge: "Which answer is better?", over: "The end of this talk" };

const watch = sheet.stopwatch();
let talk = boot.state?.talk ?? "";
let question = null;
let phase = "";
let waiting = null; // the message that is on its way: {text, key, since, stopped}

const kept = {
  name: () => `accord-talk-${talk}`,
  read: () => JSON.parse(sessionStorage.getItem(kept.name()) ?? "{}"),
  write: (values) => sessionStorage.setItem(kept.name(), JSON.stringify(values)),
};

// ------------------------------------------------------------------------------------------- showing

function go(next) {
  phase = next;
  $("start").hidden = next !== "start";
  $("say").hidden = next !== "write";
  $("wait").hidden = next !== "wait";
  $("over").hidden = next !== "over";
  $("again").hidden = !["write", "over"].includes(next);
  $("question").hidden = $("judge").hidden = next !== "judge";
  $("title").textContent = TITLES[next];
  document.body.dataset.phase = next;
  if (next === "write") {
    $("message").focus({ preventScroll: true });
    $("say").scrollIntoView({ block: "end" });
  } else if (next === "wait") $("wait").scrollIntoView({ block: "nearest" });
  else $("title").focus({ preventScroll: true });
}

function show(state) {
  talk = state.talk;
  const rest = state.turns_left;
  count(state.question ? state.turns : Math.min(state.turns + 1, boot.turns));
  if (state.question) return judge(state.question);
  $("prompt").replaceChildren(...sheet.prepare({ prompt: state.history, answers: [] }).nodes.prompt);
  nameMine();
  const { sending, draft } = kept.read();
  const unanswered = state.pending ?? sending;
  if (unanswered) return send(unanswered.text, unanswered.key, state.pending?.seconds);
  if (!rest) return go("over");
  $("message").value = draft ?? "";
  go("write");
}

function count(turn) {
  $("progress").textContent = `Turn ${turn} of ${boot.turns}`;
  document.body.dataset.turn = turn;
}

function nameMine() {
  for (const role of $("prompt").querySelectorAll(".user > .role")) role.textContent = "You";
}

function judge(shown) {
  question = sheet.prepare(shown);
  kept.write({});
  sheet.lay(question);
  nameMine();
  sheet.write({});
  watch.restart();
  go("judge");
  document.querySelector(".answers").scrollIntoView({ block: "nearest" });
}

function mine(text) {
  const turn = document.createElement("div");
  turn.className = "turn user";
  const who = document.createElement("p");
  who.className = "role";
  who.textContent = "You";
  const words = document.createElement("div");
  Object.assign(words, { className: "text typed", dir: "auto", textContent: text });
  turn.append(who, words);
  return turn;
}

function trouble(id, words) {
  $(id).textContent = words;
  $(id).hidden = !words;
}

// ------------------------------------------------------------------------------------------- asking

function signIn(error) {
  if (error.status === 401) location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
  else if (error.code === "csrf") location.reload();
  else return false;
  return true;
}

async function refresh() {
  for (let pause = 1; ; pause = Math.min(pause * 2, 15)) {
    try {
      return show(await api("GET", `/api/v1/talks/${talk}`));
    } catch (error) {
      if (signIn(error)) return;
      if (error.status && error.status < 500) return toast(error.message);
      await rest(pause);
    }
  }
}

const rest = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

async function begin() {
  trouble("begin-problem", "");
  try {
    const reply = await api("POST", `/api/v1/projects/${page.dataset.project}/talks`, { opening: $("opening").value, consent: $("consent").checked });
    talk = reply.talk;
  } catch (error) {
    return signIn(error) || trouble("begin-problem", error.status ? error.message : "The server cannot be reached.");
  }
  history.replaceState(null, "", `?talk=${talk}`);
  refresh();
}

async function send(text, key, seconds = 0) {
  if (!text.trim()) return;
  trouble("say-problem", "");
  const message = { text, key, since: performance.now() - seconds * 1000, spoken: seconds, stopped: false };
  waiting = message;
  kept.write({ sending: { text, key } });
  $("prompt").append(mine(text));
  tellWait("Two answers are being written");
  tick();
  go("wait");
  const problem = await deliver(message);
  waiting = null;
  if (problem === null) return;
  kept.write({ draft: text });
  $("prompt").lastElementChild?.remove();
  $("message").value = text;
  trouble("say-problem", problem);
  go("write");
}

// The question that answers a message is shown; else the words that say why there is none.
async function deliver(message) {
  for (let tried = 1, pause = 1; ; pause = Math.min(pause * 2, 15)) {
    try {
      judge(await api("POST", `/api/v1/talks/${talk}/turns`, { text: message.text, key: message.key }));
      return null;
    } catch (error) {
      if (message.stopped || error.code === "cancelled") return "";
      if (signIn(error)) return null;
      if (error.status === 503 && tried++ >= TRIES) return error.message;
      if (error.status && ![429, 503].includes(error.status)) return error.message;
      tellWait(error.status ? `Trying again: ${error.message}` : "The server does not answer. Trying again");
      await rest(Math.max(error.retryAfter || 0, pause));
      if (message.stopped) return "";
    }
  }
}

function cancel() {
  if (!waiting || waiting.stopped) return;
  waiting.stopped = true;
  tellWait("Cancelling");
  api("DELETE", `/api/v1/talks/${talk}/turns`).catch(() => {});
}

// ------------------------------------------------------------------------------------------- waiting

function tellWait(words) {
  if ($("wait-what").textContent === words) return;
  $("wait-what").textContent = $("wait-said").textContent = words;
}

function tick() {
  if (!waiting) return;
  const seconds = Math.floor((performance.now() - waiting.since) / 1000);
  $("wait-time").textContent = `${seconds} s`;
  if (seconds >= waiting.spoken + 20 && (waiting.spoken = seconds)) $("wait-said").textContent = `Still waiting, ${seconds} seconds`;
}

async function look() {
  const message = waiting;
  if (!message || message.stopped || document.hidden) return;
  const state = await api("GET", `/api/v1/talks/${talk}`).catch(() => null);
  if (!state?.pending || message !== waiting || message.stopped) return;
  const { ahead, loading } = state.pending;
  tellWait(loading ? "The model is being started" : ahead ? `Waiting in line: ${ahead} before you` : "Two answers are being written");
}

setInterval(tick, 200);
setInterval(look, 2500);

// ------------------------------------------------------------------------------------------- judging

const outbox = new Outbox(`accord-outbox-talk-${page.dataset.project}-${page.dataset.me}`, (state, detail) => {
  $("saving").dataset.state = state;
  $("saving").textContent = state === "late" ? "Not saved yet, trying again" : "";
  if (state === "refused") toast(detail.message);
  if (state !== "late" && outbox.waiting.length === 0) refresh();
});

function answer(path, body) {
  const { assignment } = question;
  question = null;
  go("save");
  outbox.push(`/api/v1/assignments/${assignment}/${path}`, body);
}

function submit() {
  if (phase !== "judge") return;
  const said = sheet.read();
  if (said.strength === null) return void ($("said").textContent = "Choose from 1 to 7 first");
  if (said.edit && !said.edit.text.trim()) said.edit = null;
  if (!$("comment")) delete said.comment;
  answer("judgement", { ...said, seconds: watch.seconds(), key: newKey(), revises: null });
}

// crypto.randomUUID exists on https and localhost only; a laboratory's plain http has getRandomValues.
function newKey() {
  return crypto.randomUUID?.() ?? [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
}

// ------------------------------------------------------------------------------------------- panels and keys

function readGuideline(open) {
  $("guideline").hidden = !open;
  $("open-guideline").setAttribute("aria-expanded", String(open));
  document.body.classList.toggle("reading", open);
  (open ? $("guideline") : phase === "write" ? $("message") : $("title")).focus({ preventScroll: true });
}

function openSkip() {
  if (phase !== "judge") return;
  $("skip-dialog").querySelector("input").checked = true;
  $("skip-dialog").returnValue = "";
  $("skip-dialog").showModal();
}

function toggleMore() {
  $("more").open = !$("more").open;
  if ($("more").open) $("more").querySelector("input, textarea, button")?.focus();
  else $("title").focus({ preventScroll: true });
}

const JUDGING = {
  ...Object.fromEntries([1, 2, 3, 4, 5, 6, 7].map((k) => [k, () => sheet.choose(4 - k)])),
  b: () => sheet.choose("bad"),
  s: openSkip,
  m: toggleMore,
  h: spans.open,
};
const ALWAYS = { g: () => readGuideline($("guideline").hidden), "?": () => $("help-dialog").showModal() };

const typing = (target) => target.closest?.("textarea, select, input:not([type=radio], [type=checkbox])");

function keyInSkip(event) {
  const reasons = $("skip-dialog").querySelectorAll('input[name="reason"]');
  if (typing(event.target) || !reasons[event.key - 1]) return;
  event.preventDefault();
  reasons[event.key - 1].checked = true;
  reasons[event.key - 1].focus();
}

function escape(event) {
  if (!$("guideline").hidden) readGuideline(false);
  else if (phase === "wait") cancel();
  else if (typing(event.target)) event.target.blur();
}

addEventListener("keydown", (event) => {
  if (event.isComposing || event.repeat || event.defaultPrevented) return;
  if ($("skip-dialog").open) return keyInSkip(event);
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    return phase === "write" ? send($("message").value, newKey()) : submit();
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") return escape(event);
  if (typing(event.target)) return;
  if (event.key === "Enter" && phase === "judge" && !event.target.closest("a, button, summary")) return event.preventDefault(), submit();
  // By position too: on a French keyboard the unshifted 1 is "&".
  const keys = phase === "judge" ? { ...JUDGING, ...ALWAYS } : ALWAYS;
  const key = event.key in keys || event.shiftKey ? event.key.toLowerCase() : event.code.replace(/^(Digit|Numpad)/, "");
  const act = $("use-keys").checked ? (keys[key] ?? keys[event.key.toLowerCase()]) : null;
  if (act) event.preventDefault(), act();
});

$("begin").addEventListener("submit", (event) => (event.preventDefault(), begin()));
$("say").addEventListener("submit", (event) => (event.preventDefault(), send($("message").value, newKey())));
$("message").addEventListener("input", () => kept.write({ draft: $("message").value }));
$("cancel").addEventListener("click", cancel);
$("judge").addEventListener("submit", (event) => (event.preventDefault(), submit()));
$("judge").addEventListener("change", sheet.mark);
$("skip").addEventListener("click", openSkip);
$("skip-stay").addEventListener("click", () => $("skip-dialog").close());
$("skip-dialog").addEventListener("close", () => {
  if ($("skip-dialog").returnValue === "skip") answer("skip", { reason: $("skip-dialog").querySelector("input:checked").value });
});
$("open-help").addEventListener("click", ALWAYS["?"]);
$("open-guideline").addEventListener("click", ALWAYS.g);
$("close-guideline").addEventListener("click", ALWAYS.g);
$("use-keys").checked = localStorage.getItem("accord-keys") !== "off";
$("use-keys").addEventListener("change", () => localStorage.setItem("accord-keys", $("use-keys").checked ? "on" : "off"));
for (const button of document.querySelectorAll("[data-start]")) {
  button.addEventListener("click", () => {
    const position = Number(button.dataset.start);
    sheet.writeEdit({ position, text: question.answers[position].text });
    $("edit").focus();
  });
}
$("drop-edit")?.addEventListener("click", () => sheet.writeEdit(null));

if (outbox.waiting.length) go("save"), outbox.flush();
else if (boot.state) show(boot.state);
else go("start");

// Rankings: three to nine answers put in order, the best first, with ties. The texts stay where they are; what is
// moved is a short list beside them, by dragging, by keys, or by its small buttons.

const $ = (id) => document.getElementById(id);
const LETTERS = "ABCDEFGHI";
export const TITLE = "Put these answers in order";

// ------------------------------------------------------------------------------------------- the order

// Answers by displayed position, the best first; those in one group are tied.
let groups = [];
let touched = false; // by hand: an order that nobody made must not be sent by mistake
let many = 0;

const indexOf = (order, position) => order.findIndex((group) => group.includes(position));
const without = (order, position) => order.map((g) => g.filter((p) => p !== position)).filter((g) => g.length);
const inserted = (order, at, group) => [...order.slice(0, at), group, ...order.slice(at)];

// One more than the number of better answers.
export function ranksOf(order) {
  const ranks = [];
  let better = 0;
  for (const group of order) {
    for (const position of group) ranks[position] = better + 1;
    better += group.length;
  }
  return ranks;
}

export function orderOf(ranks) {
  const places = [...new Set(ranks)].sort((a, b) => a - b);
  return places.map((place) => ranks.flatMap((rank, position) => (rank === place ? [position] : [])));
}

// Up (-1) or down (1): out of a tie first, then past the next group.
export function moved(order, position, step) {
  const at = indexOf(order, position);
  if (order[at].length > 1) return inserted(without(order, position), step < 0 ? at : at + 1, [position]);
  const to = at + step;
  return to < 0 || to >= order.length ? order : inserted(without(order, position), to, [position]);
}

// Tied with what stands above; out of the tie again when it was.
export function tied(order, position) {
  const at = indexOf(order, position);
  if (order[at].length > 1) return moved(order, position, 1);
  if (at === 0) return order;
  return order.map((g, i) => (i === at - 1 ? [...g, position] : g)).filter((_, i) => i !== at);
}

// Before, after, or tied with another answer. Between two that are tied it is tied with both.
export function dropped(order, position, goal, side) {
  const rest = without(order, position);
  const at = indexOf(rest, goal);
  const inside = rest[at].indexOf(goal) + (side === "after" ? 1 : 0);
  const between = side !== "tie" && inside > 0 && inside < rest[at].length;
  if (side !== "tie" && !between) return inserted(rest, side === "after" ? at + 1 : at, [position]);
  const place = side === "tie" ? rest[at].length : inside;
  return rest.map((group, i) => (i === at ? inserted(group, place, position) : group));
}

// ------------------------------------------------------------------------------------------- on the page

// As many answers, and fields about them, as the question has; called for pairs too.
export function stage(question) {
  const ranking = question.kind === "ranking";
  many = question.answers.length;
  document.body.dataset.kind = question.kind;
  for (let position = 2; position < many; position += 1) {
    if (!$(`answer-${position}`)) document.querySelector(".answers").append(renamed(document.querySelector(".answer.b"), position));
    for (const like of document.querySelectorAll('#more [data-side="1"], #more [data-start="1"]')) {
      const all = like.dataset.side ? "data-side" : "data-start";
      const last = like.parentElement.querySelector(`[${all}="${position - 1}"]`);
      if (!like.parentElement.querySelector(`[${all}="${position}"]`)) last.after(renamed(like, position));
    }
  }
  for (const part of document.querySelectorAll(".answer, #more [data-side], #more [data-start]")) {
    const body = part.querySelector(".body")?.id.slice(7);
    part.hidden = Number(body ?? part.dataset.side ?? part.dataset.start) >= many;
  }
  $("board").hidden = !ranking;
  for (const part of document.querySelectorAll(".scale, .step.bad")) part.hidden = ranking;
}

// A copy of what is there for answer B, for another answer.
function renamed(element, position) {
  const copy = element.cloneNode(true);
  const letter = LETTERS[position];
  for (const part of [copy, ...copy.querySelectorAll("*")]) {
    for (const { name, value } of [...part.attributes]) {
      if (["id", "name", "aria-labelledby"].includes(name)) part.setAttribute(name, value.replace(/-1$/, `-${position}`));
      if (["data-side", "data-start", "data-position"].includes(name)) part.setAttribute(name, position);
      if (name === "aria-label") part.setAttribute(name, value.replace(/\b(A|a)nswer B\b/, `$1nswer ${letter}`));
    }
    if ("checked" in part) part.checked = false;
  }
  copy.classList.remove("b", "wins");
  const words = copy.matches("[data-start]") ? copy : copy.querySelector("h2, h3");
  words.textContent = words.textContent.replace(/B$/, letter);
  copy.querySelector(".body")?.replaceChildren();
  return copy;
}

export function write({ ranks = null }) {
  groups = ranks ? orderOf(ranks) : Array.from({ length: many }, (_, position) => [position]);
  touched = Boolean(ranks);
  $("places").replaceChildren(...Array.from({ length: many }, (_, position) => row(position)));
  lay();
  say("");
}

export function read() {
  return { ranks: touched ? ranksOf(groups) : null };
}

// Whether it may be sent. The order in which they were shown may be right, but then twice.
export function ready() {
  if (!touched) say("This is the order they were shown in. Submit again if it is yours.");
  return touched || !(touched = true);
}

function say(words) {
  $("said").textContent = words;
}

function row(position) {
  const place = document.createElement("li");
  place.className = "place";
  place.dataset.position = position;
  const letter = LETTERS[position];
  const first = $(`answer-${position}`).textContent.trim().replace(/\s+/g, " ").slice(0, 80);
  const button = part("button", "rank");
  button.setAttribute("aria-describedby", "board-hint");
  const words = part("bdi", "bit", first);
  words.dir = "auto";
  button.append(part("b", "number"), part("span", "letter", letter), words);
  const moves = part("span", "moves");
  for (const [step, sign, label] of [["-1", "↑", `Move answer ${letter} up`], ["1", "↓", `Move answer ${letter} down`], ["tie", "=", `Tie answer ${letter} with the one above`]]) {
    const mover = part("button", "plain", sign);
    mover.dataset.step = step;
    mover.tabIndex = -1; // the keys do the same
    mover.setAttribute("aria-label", label);
    moves.append(mover);
  }
  const grip = part("span", "grip", "⠿");
  grip.setAttribute("aria-hidden", "true");
  place.append(grip, button, moves);
  return place;
}

function part(tag, name, words = "") {
  const made = document.createElement(tag);
  if (tag === "button") made.type = "button";
  made.className = name;
  made.textContent = words;
  return made;
}

const placeOf = (position) => $("places").querySelector(`[data-position="${position}"]`);

function lay() {
  const ranks = ranksOf(groups);
  const order = groups.flat();
  const standing = [...$("places").children].map((place) => Number(place.dataset.position));
  if (standing.some((position, i) => position !== order[i])) $("places").append(...order.map(placeOf));
  for (const group of groups) {
    group.forEach((position, i) => {
      const place = placeOf(position);
      place.classList.toggle("tied", i > 0);
      place.querySelector(".number").textContent = i > 0 ? "=" : ranks[position];
      const tie = group.length > 1 ? `, tied with ${names(group.filter((p) => p !== position))}` : "";
      place.querySelector(".rank").setAttribute("aria-label", `Answer ${LETTERS[position]}, place ${ranks[position]} of ${many}${tie}`);
      place.querySelector('[data-step="tie"]').setAttribute("aria-pressed", String(group.length > 1));
    });
  }
}

const names = (positions) => positions.map((p) => LETTERS[p]).join(" and ");

function change(order, position, focus = true) {
  const before = JSON.stringify(groups);
  groups = order;
  touched = true;
  lay();
  if (focus) placeOf(position).querySelector(".rank").focus({ preventScroll: true });
  placeOf(position).scrollIntoView({ block: "nearest" });
  say(before === JSON.stringify(groups) ? `Answer ${LETTERS[position]} stays where it is` : told(position));
}

function told(position) {
  const at = indexOf(groups, position);
  const others = groups[at].filter((p) => p !== position);
  const where = others.length ? `tied with ${names(others)}` : at ? `below ${names(groups[at - 1])}` : `above ${names(groups[1])}`;
  return `Answer ${LETTERS[position]} is at place ${ranksOf(groups)[position]} of ${many}, ${where}`;
}

// ------------------------------------------------------------------------------------------- by hand

// Whether a key press was meant for the ranking.
export function key(event, single) {
  if (drag && event.key === "Escape") return drop(false), true;
  if (event.ctrlKey || event.metaKey) return false;
  const digit = Number(/^[1-9]$/.test(event.key) ? event.key : /^(?:Digit|Numpad)([1-9])$/.exec(event.code)?.[1]);
  if (single && digit && digit <= many && !event.altKey) {
    placeOf(digit - 1).querySelector(".rank").focus();
    placeOf(digit - 1).scrollIntoView({ block: "nearest" });
    return true;
  }
  if (single && event.key.toLowerCase() === "b" && !event.altKey) return true; // "both bad" is for pairs
  const place = event.target.closest?.(".place");
  if (!place) return false;
  const position = Number(place.dataset.position);
  const rest = without(groups, position);
  const act = {
    ArrowUp: () => moved(groups, position, -1),
    ArrowDown: () => moved(groups, position, 1),
    Home: () => [[position], ...rest],
    End: () => [...rest, [position]],
    t: () => tied(groups, position),
  }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (act) change(act(), position);
  return Boolean(act);
}

let drag = null;

function grab(event) {
  const place = event.target.closest(".place");
  const byFinger = event.pointerType !== "mouse" && !event.target.closest(".grip"); // that scrolls the page
  if (!place || event.button || !event.isPrimary || byFinger || event.target.closest(".moves")) return;
  drag = { place, id: event.pointerId, from: event.pageY, moving: false, goal: null };
}

function pull(event) {
  if (event.pointerId !== drag?.id) return;
  const way = event.pageY - drag.from;
  if (!drag.moving && Math.abs(way) < 5) return;
  if (!drag.moving) drag.place.setPointerCapture(drag.id);
  drag.moving = true;
  drag.place.classList.add("dragged");
  drag.place.style.transform = `translateY(${way}px)`;
  if (event.clientY < 60) scrollBy(0, -12);
  else if (event.clientY > innerHeight - 100) scrollBy(0, 12);
  point(goalAt(event.clientY));
}

function goalAt(y) {
  const others = [...$("places").children].filter((place) => place !== drag.place);
  for (const place of others) {
    const { top, bottom, height } = place.getBoundingClientRect();
    if (y < top + 0.3 * height) return { place, side: "before" };
    if (y < bottom - 0.3 * height) return { place, side: "tie" };
  }
  return { place: others.at(-1), side: "after" };
}

function point(goal) {
  drag.goal?.place.classList.remove("drop-before", "drop-tie", "drop-after");
  goal?.place.classList.add(`drop-${goal.side}`);
  drag.goal = goal;
}

function drop(done) {
  const { place, goal, moving } = drag;
  point(null);
  drag = null;
  place.classList.remove("dragged");
  place.style.transform = "";
  if (!done || !moving || !goal) return;
  const position = Number(place.dataset.position);
  change(dropped(groups, position, Number(goal.place.dataset.position), goal.side), position);
}

$("places").addEventListener("pointerdown", grab);
addEventListener("pointermove", pull);
addEventListener("pointerup", (event) => event.pointerId === drag?.id && drop(true));
addEventListener("pointercancel", (event) => event.pointerId === drag?.id && drop(false));
$("places").addEventListener("click", (event) => {
  const step = event.target.closest("[data-step]")?.dataset.step;
  if (!step) return;
  const position = Number(event.target.closest(".place").dataset.position);
  change(step === "tie" ? tied(groups, position) : moved(groups, position, Number(step)), position, false);
});
// Where the text of an answer is that somebody is about to move.
$("places").addEventListener("focusin", (event) => light(event.target.closest(".place")?.dataset.position));
$("places").addEventListener("focusout", () => light(null));

function light(position) {
  for (const answer of document.querySelectorAll(".answer")) {
    answer.classList.toggle("looked-at", answer.querySelector(".body").id === `answer-${position}`);
  }
}

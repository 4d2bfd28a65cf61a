// Every page: forms that speak to the API, regions that look again by themselves, times in the reader's zone.

import { api, ask, parsePage, toast } from "./core.js";

function value(field) {
  if (field.type === "checkbox") return field.checked;
  if (field.type === "number") return field.valueAsNumber;
  if ("list" in field.dataset) return field.value.split(",").map((part) => part.trim()).filter(Boolean);
  return field.value;
}

function bodyOf(form) {
  const fields = [...form.elements].filter((f) => f.name && !("ignore" in f.dataset) && f.type !== "file" && !f.readOnly);
  const body = {};
  for (const field of fields) {
    if (field.dataset.into) (body[field.dataset.into] ??= {})[field.name] = value(field);
    else if ("group" in field.dataset) (body[field.name] ??= []).push(...(field.checked ? [field.value] : []));
    else if (field.type !== "radio" || field.checked) body[field.name] = value(field);
  }
  return form.dataset.wrap ? { [form.dataset.wrap]: body } : body;
}

function showProblem(form, words) {
  let line = form.querySelector("[data-problem]");
  if (!line) {
    line = document.createElement("p");
    line.dataset.problem = "";
    line.className = "notice bad";
    line.setAttribute("role", "alert");
    form.prepend(line);
  }
  line.textContent = words;
  line.hidden = !words;
}

function goOn(form, reply) {
  if (form.dataset.then === "show-link") {
    const place = form.querySelector("[data-link]");
    place.hidden = false;
    const field = place.querySelector("[data-link-value]");
    field.value = reply.token ?? new URL(reply.url, location.href).href;
    field.select();
    return refreshAll(true);
  }
  if ("say" in form.dataset) sessionStorage.setItem("accord-say", form.dataset.say);
  if (reply.redirect) location.assign(reply.redirect);
  else location.reload();
}

async function send(form, work) {
  const button = form.querySelector("button:not([type=button])");
  if (button.getAttribute("aria-busy") === "true") return;
  button.setAttribute("aria-busy", "true");
  showProblem(form, "");
  try {
    await work();
  } catch (error) {
    if (error.status === 401) location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
    else if (error.code === "csrf") location.reload();
    else showProblem(form, error.status ? error.message : "The server cannot be reached. Nothing was changed.");
  } finally {
    button.removeAttribute("aria-busy");
  }
}

function report(form, { added, known, problems = [], problem_count: count = problems.length }) {
  const place = form.querySelector("[data-report]");
  const line = document.createElement("p");
  line.className = count ? "notice warn" : "notice";
  line.textContent = `${added} added, ${known} known already${count ? `, ${count} could not be used:` : "."}`;
  const list = document.createElement("ul");
  for (const { line: number, what } of problems.slice(0, 20)) {
    const item = document.createElement("li");
    item.textContent = `line ${number}: ${what}`;
    list.append(item);
  }
  place.replaceChildren(line, ...(problems.length ? [list] : []));
}

async function upload(form) {
  const file = form.elements.file.files[0];
  const query = new URLSearchParams({ reason: form.elements.reason.value, gold: form.elements.gold.checked, as: form.elements.as?.value ?? "pairs", license: form.elements.license?.value ?? "" });
  const headers = { "X-File-Name": encodeURIComponent(file.name) };
  const bytes = new Blob([file], { type: "application/octet-stream" });
  report(form, await api("POST", `${form.dataset.upload}?${query}`, bytes, headers));
  refreshAll(true);
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.dataset.upload) {
    event.preventDefault();
    send(form, () => upload(form));
  } else if (form.dataset.api) {
    event.preventDefault();
    if (form.dataset.confirm && !(await ask(form.dataset.confirm))) return;
    const [method, path] = form.dataset.api.split(" ");
    send(form, async () => goOn(form, await api(method, path, method === "DELETE" ? undefined : bodyOf(form))));
  }
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const field = button.parentElement.querySelector("[data-link-value]");
  field.select();
  try {
    await navigator.clipboard.writeText(field.value);
    toast("Copied");
  } catch {
    toast("Press Ctrl C to copy");
  }
});

// Regions marked data-live="seconds" are fetched again with their page, unless somebody is busy in them.
async function refreshAll(now = false) {
  const regions = [...document.querySelectorAll("[data-live]")].filter((region) => now || !region.contains(document.activeElement));
  if (!regions.length || (document.hidden && !now)) return;
  const response = await fetch(location.href, { credentials: "same-origin" }).catch(() => null);
  if (!response?.ok || response.redirected) return;
  const page = parsePage(await response.text());
  for (const region of regions) {
    const fresh = page.getElementById(region.id);
    if (fresh && fresh.innerHTML !== region.dataset.source) {
      region.dataset.source = fresh.innerHTML;
      const scrolled = [...region.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
      region.replaceChildren(...fresh.childNodes);
      [...region.querySelectorAll(".scroll")].forEach((box, i) => (box.scrollLeft = scrolled[i] ?? 0));
      localTimes(region);
    }
  }
}

function localTimes(root) {
  const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (!Number.isNaN(at.valueOf())) time.textContent = format.format(at);
  }
}

localTimes(document);
document.querySelector(".tabs [aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" });
if (sessionStorage.getItem("accord-say")) toast(sessionStorage.getItem("accord-say"));
sessionStorage.removeItem("accord-say");
const pauses = [...document.querySelectorAll("[data-live]")].map((region) => Number(region.dataset.live));
if (pauses.length) setInterval(refreshAll, Math.min(...pauses) * 1000);

// What every page's script needs: asking the server, putting its HTML in place, saying something aloud.

// The one way HTML gets into a page. It only ever takes what this server rendered (render.py made it safe).
const policy = window.trustedTypes ? window.trustedTypes.createPolicy("accord", { createHTML: (html) => html }) : null;

export function setHtml(element, html) {
  element.innerHTML = policy ? policy.createHTML(html) : html;
}

export function parsePage(html) {
  return new DOMParser().parseFromString(policy ? policy.createHTML(html) : html, "text/html");
}

export class ApiError extends Error {
  constructor(status, code, message, retryAfter) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

export async function api(method, path, body, headers = {}) {
  const json = body !== undefined && !(body instanceof Blob);
  const response = await fetch(path, {
    method,
    body: json ? JSON.stringify(body) : body,
    headers: {
      "X-CSRF-Token": document.querySelector('meta[name="csrf"]').content,
      "Content-Type": json || body === undefined ? "application/json" : "application/octet-stream",
      Accept: "application/json",
      ...headers,
    },
    credentials: "same-origin",
    redirect: "error",
  });
  const reply = await response.json().catch(() => ({}));
  if (response.ok) return reply;
  const { code = "", message = `The server answered with an error (${response.status}).` } = reply.error ?? {};
  throw new ApiError(response.status, code, message, Number(response.headers.get("Retry-After")) || 0);
}

export function toast(words, seconds = 6) {
  const line = document.createElement("p");
  line.className = "toast";
  line.textContent = words;
  document.getElementById("toasts").append(line);
  setTimeout(() => line.remove(), seconds * 1000);
}

// A question that a person answers with yes or no; resolves to true or false.
export function ask(words, yes = "Yes") {
  const dialog = document.createElement("dialog");
  const heading = document.createElement("h2");
  heading.id = "ask-title";
  heading.textContent = words;
  const form = document.createElement("form");
  form.method = "dialog";
  form.className = "row";
  for (const [value, label] of [["yes", yes], ["no", "No"]]) {
    const button = document.createElement("button");
    button.value = value;
    button.textContent = label;
    form.append(button);
  }
  form.firstChild.className = "main";
  dialog.setAttribute("aria-labelledby", heading.id);
  dialog.append(heading, form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    }),
  );
}

// Answers on their way to the server. They are kept in the tab's storage until the server has them, and each
// carries a key, so that neither a lost connection, a reload nor a second try loses or doubles one.

import { ApiError, api } from "./core.js";

// Some seconds, or until the network is said to be back.
function rest(seconds) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    addEventListener("online", () => (clearTimeout(timer), resolve()), { once: true });
  });
}

export class Outbox {
  // tell(state, detail): "late" while the server cannot be reached, "saved", or "refused" with an error.
  constructor(name, tell) {
    Object.assign(this, { name, tell, running: null, leaving: false });
    try {
      this.waiting = JSON.parse(sessionStorage.getItem(name)) ?? [];
    } catch {
      this.waiting = [];
    }
    document.body.dataset.unsent = this.waiting.length;
  }

  push(path, body) {
    this.waiting.push({ path, body });
    this.keep();
    return this.flush();
  }

  keep() {
    document.body.dataset.unsent = this.waiting.length;
    sessionStorage.setItem(this.name, JSON.stringify(this.waiting));
  }

  flush() {
    this.running ??= this.send().finally(() => (this.running = null));
    return this.running;
  }

  async send() {
    for (let pause = 1; this.waiting.length; ) {
      const { path, body } = this.waiting[0];
      try {
        const reply = await api("POST", path, body);
        this.done(() => this.tell("saved", reply));
        pause = 1;
      } catch (error) {
        if (error.status === 401 || error.code === "csrf") return this.signIn(error);
        const refused = error instanceof ApiError && error.status < 500 && ![408, 429].includes(error.status);
        if (refused) {
          this.done(() => this.tell("refused", error));
        } else {
          this.tell("late", error);
          await rest(Math.max(error.retryAfter || 0, pause));
          pause = Math.min(pause * 2, 30);
        }
      }
    }
  }

  // What waits is in storage: it goes out from the page that follows.
  signIn(error) {
    this.leaving = true;
    if (error.status === 401) location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
    else location.reload();
  }

  done(tell) {
    this.waiting.shift();
    this.keep();
    tell();
  }
}

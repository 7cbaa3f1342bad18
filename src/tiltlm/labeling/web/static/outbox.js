// Votes and undos on their way to the server: sent one at a time, in order, each until the server has answered.
// They are kept in sessionStorage, so a reload loses none. The key of an entry makes a second sending harmless.
import { isTemporary, request } from "/static/api.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15000;
const SLOW_MS = 1500;

export class Outbox {
  /**
   * @param {string} owner Whose votes these are; another person in the same tab does not send them.
   * @param {{onAnswer: Function, onChange: Function}} listener onAnswer(entry, answer) for each entry that is finished;
   *   onChange(problem) when the number of entries or the problem changes: null, "slow", "offline", "busy", "disk_full".
   */
  constructor(owner, listener) {
    this.place = `tiltlm.outbox.${owner}`;
    this.listener = listener;
    this.entries = read(this.place);
    this.problem = null;
    this.isSending = false;
    this.isStopped = false;
    this.wake = null;
    addEventListener("online", () => this.retryNow());
  }

  get size() {
    return this.entries.length;
  }

  get votes() {
    return this.entries.filter((entry) => entry.kind === "vote").length;
  }

  /** Return true if a vote on this pair is waiting. */
  holds(ticket) {
    return this.entries.some((entry) => entry.kind === "vote" && entry.body.ticket === ticket);
  }

  add(kind, body) {
    this.entries.push({ kind, body: { ...body, key: newKey() } });
    this.save();
    this.send();
  }

  retryNow() {
    if (this.wake) this.wake();
  }

  /** Send nothing more; entries stay in sessionStorage. */
  stop() {
    this.isStopped = true;
  }

  async send() {
    if (this.isSending) return;
    this.isSending = true;
    try {
      let tries = 0;
      while (this.entries.length && !this.isStopped) tries = (await this.sendFirst(tries)) ? 0 : tries + 1;
    } finally {
      this.isSending = false;
    }
  }

  /** Send the first entry, and wait if it must be tried again. Return true if it is finished. */
  async sendFirst(tries) {
    const entry = this.entries[0];
    const slow = setTimeout(() => this.report(this.problem || "slow"), SLOW_MS);
    const answer = await request("POST", entry.kind === "vote" ? "/api/votes" : "/api/undo", entry.body);
    clearTimeout(slow);
    if (isTemporary(answer)) {
      this.report(problemOf(answer));
      await this.pause(Math.max(answer.retryAfter, Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** tries)));
      return false;
    }
    if (answer.status === 401) this.isStopped = true; // the entry stays, for the next session
    else {
      this.entries.shift();
      this.save();
      this.report(null);
    }
    this.listener.onAnswer(entry, answer);
    return true;
  }

  pause(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  report(problem) {
    this.problem = problem;
    this.listener.onChange(problem);
  }

  save() {
    try {
      sessionStorage.setItem(this.place, JSON.stringify(this.entries));
    } catch {
      // Storage is full or forbidden: the votes are still sent, but a reload before that would lose them.
    }
    this.listener.onChange(this.problem);
  }
}

/** Return 128 random bits. crypto.randomUUID is missing in pages without HTTPS. */
function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function read(place) {
  try {
    const found = JSON.parse(sessionStorage.getItem(place));
    return Array.isArray(found) ? found : [];
  } catch {
    return [];
  }
}

function problemOf(answer) {
  if (answer.status === 507) return "disk_full";
  return answer.status === 0 ? "offline" : "busy";
}

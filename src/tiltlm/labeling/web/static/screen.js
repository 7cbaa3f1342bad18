// What stands on the labelling page: the pair, how it is shown (raw, differences, scrolling), lines and progress.
import { nodesOf, nodesOfDiff } from "/static/pair.js";

const get = (id) => document.getElementById(id);
const SIDES = ["left", "right"];
const WORDS = {
  left: "Left is better", right: "Right is better", tie: "Tie", both_bad: "Both bad", skip: "Skipped",
};

export function wordsOf(choice) {
  return WORDS[choice];
}

export class Screen {
  constructor() {
    this.item = null;
    this.isRaw = false;
    this.isSynced = true;
    this.placed = new Map(); // a response that the page itself has scrolled: where to
    this.diff = null; // of the pair on the screen, while it is shown
    this.made = new Map(); // nodes made ahead, by ticket
    this.title = "";
    this.prepareSync();
    for (const side of SIDES) get(`show-${side}`).addEventListener("click", () => this.showSide(side, true));
  }

  /** Make the nodes of pairs that come next, and forget those of all others. */
  prepare(items) {
    const tickets = new Set(items.map((item) => item.ticket));
    for (const ticket of this.made.keys()) if (!tickets.has(ticket)) this.made.delete(ticket);
    for (const item of items) {
      if (item.ticket !== this.item?.ticket && !this.made.has(item.ticket)) this.made.set(item.ticket, nodesOf(item, this.isRaw));
    }
  }

  showPair(item) {
    const nodes = this.made.get(item.ticket) || nodesOf(item, this.isRaw);
    this.made.delete(item.ticket);
    this.item = item;
    this.diff = null;
    this.press("diff", false);
    for (const id of ["prompt", "pair", "actions", "switch"]) get(id).hidden = false;
    get("message").hidden = true;
    get("actions").classList.remove("is-empty");
    this.fill(nodes);
    this.openPrompt(false);
    this.showSide("left", false);
    get("unseen").hidden = false;
    for (const id of ["prompt", ...SIDES]) get(id).scrollTop = 0;
    scrollTo(0, 0);
    for (const id of ["prompt", "pair"]) appear(get(id));
  }

  fill({ prompt, left, right }) {
    if (prompt) get("prompt-text").replaceChildren(...prompt);
    get("left-text").replaceChildren(...left);
    get("right-text").replaceChildren(...right);
  }

  /** Exchange rendered Markdown and the text as it is. */
  toggleRaw() {
    this.isRaw = !this.isRaw;
    this.made.clear();
    this.diff = null;
    this.press("raw", this.isRaw);
    this.press("diff", false);
    this.fill(nodesOf(this.item, this.isRaw));
    this.measurePrompt();
  }

  showDiff(diff) {
    this.diff = diff;
    this.press("diff", diff !== null);
    this.fill(diff ? nodesOfDiff(diff) : { ...nodesOf(this.item, this.isRaw), prompt: null });
  }

  togglePrompt() {
    this.openPrompt(!get("prompt").classList.contains("is-open"));
  }

  openPrompt(isOpen) {
    const prompt = get("prompt");
    prompt.classList.toggle("is-open", isOpen);
    for (const part of prompt.querySelectorAll("details")) part.open = isOpen;
    get("prompt-open").setAttribute("aria-expanded", isOpen);
    get("prompt-open").firstChild.data = isOpen ? "Show less " : "Show all ";
    if (!isOpen) this.measurePrompt();
  }

  /** Offer to open the prompt only where a part of it is out of sight. Measured later: it costs a layout. */
  measurePrompt() {
    const prompt = get("prompt");
    requestAnimationFrame(() => {
      const hasMore = prompt.scrollHeight > prompt.clientHeight + 4 || prompt.querySelector("details") !== null;
      get("prompt-open").hidden = !hasMore && !prompt.classList.contains("is-open");
    });
  }

  /** On narrow screens one response is shown at a time. */
  showSide(side, isAsked) {
    const pair = get("pair");
    pair.dataset.side = side;
    for (const one of SIDES) get(`show-${one}`).setAttribute("aria-pressed", one === side);
    if (side === "right") this.markSeen();
    const top = get("switch").offsetTop;
    if (isAsked && scrollY > top) scrollTo(0, top);
  }

  markSeen() {
    get("unseen").hidden = true;
  }

  /** Return true where one response is shown at a time, and the right one was not on the screen yet. */
  get isRightUnseen() {
    return !get("unseen").hidden && getComputedStyle(get("switch")).display !== "none";
  }

  toggleSync() {
    this.isSynced = !this.isSynced;
    this.press("sync", this.isSynced);
    if (this.isSynced) this.align(get("right"), get("left"));
  }

  /** Scroll a response to where the other one is. Its event, which comes with a later frame, then moves nothing. */
  align(own, other) {
    own.scrollTop = other.scrollTop;
    this.placed.set(own, own.scrollTop);
  }

  /** Let a scroll of one response move the other one. The one that is being moved does not answer. */
  prepareSync() {
    for (const [index, side] of SIDES.entries()) {
      const own = get(side);
      const other = get(SIDES[1 - index]);
      own.addEventListener("scroll", () => {
        if (own.scrollTop === this.placed.get(own)) return;
        this.placed.delete(own);
        if (this.isSynced) this.align(other, own);
      }, { passive: true });
    }
  }

  /** Scroll both responses: pixels, or a share of the height if |step| < 1. Return false where the page itself scrolls. */
  scroll(step) {
    const sides = SIDES.map(get);
    if (get("pair").hidden || getComputedStyle(sides[0]).overflowY !== "auto") return false;
    const longest = sides[0].scrollHeight >= sides[1].scrollHeight ? 0 : 1;
    for (const [index, side] of sides.entries()) {
      if (this.isSynced && index !== longest) continue;
      const by = Math.abs(step) < 1 ? step * side.clientHeight : step;
      side.scrollTop = Math.max(0, Math.min(side.scrollHeight, side.scrollTop + by));
    }
    return true;
  }

  /** Show a message in place of a pair: {heading, text, retry, link: [address, words]}. */
  showMessage({ heading, text, retry = false, link = null, canUndo = false }) {
    this.item = null;
    this.diff = null;
    for (const id of ["prompt", "pair", "switch"]) get(id).hidden = true;
    for (const id of ["prompt-text", "left-text", "right-text"]) get(id).replaceChildren();
    get("actions").hidden = !canUndo;
    get("actions").classList.add("is-empty");
    get("message").hidden = false;
    get("message-heading").textContent = heading;
    get("message-text").textContent = text;
    get("message-retry").hidden = !retry;
    get("message-link").hidden = link === null;
    if (link) {
      get("message-link").href = link[0];
      get("message-link").textContent = link[1];
    }
  }

  /** Show one of the rows of the vote: "vote", "strength" or "feedback". */
  showRow(name) {
    for (const row of ["vote", "strength", "feedback"]) get(`${row}-row`).hidden = row !== name;
  }

  enableVotes(isOn) {
    for (const button of get("vote-row").querySelectorAll("button")) button.disabled = !isOn;
  }

  /** Mark the button of the choice that was taken back; "" marks none. */
  markChoice(choice) {
    for (const button of get("vote-row").querySelectorAll("button")) button.classList.toggle("was", button.dataset.action === choice);
  }

  showProgress({ done, left, calibration_left: lessons }, pace, isFeedback) {
    const total = done + left;
    get("progress-box").hidden = false;
    get("progress").max = Math.max(1, total);
    get("progress").value = done;
    get("progress-text").textContent = `${done} done · ${left} left`;
    get("pace").textContent = pace ? `about ${pace} an hour` : "";
    get("calibration").hidden = !(this.item && this.item.is_calibration);
    if (!isFeedback) {
      const rest = lessons === 1 ? "This is the last one." : `${lessons} to go.`;
      get("calibration").textContent = `Practice: after each vote you see the known answer. ${rest}`;
    }
    document.title = `${done}/${total} · ${this.title}`;
  }

  showTitle(title) {
    this.title = title;
    get("title").textContent = title;
    document.title = title;
  }

  /** Show a line above the buttons until the next vote; "" hides it. */
  say(text) {
    get("line-text").textContent = text;
    get("line").hidden = text === "";
    if (text) this.announce(text);
  }

  /** Show a banner that stays; "" hides it. */
  warn(text, isBad = false) {
    if (get("banner").textContent !== text) get("banner").textContent = text;
    get("banner").hidden = text === "";
    get("banner").classList.toggle("bad", isBad);
  }

  announce(text) {
    get("announce").textContent = text;
  }

  press(action, isOn) {
    document.querySelector(`[data-action="${action}"]`).setAttribute("aria-pressed", isOn);
  }
}

/** Let a new pair appear, so that a change between two similar ones is seen. */
function appear(element) {
  if (!matchMedia("(prefers-reduced-motion: no-preference)").matches) return;
  element.animate([{ opacity: 0.25 }, { opacity: 1 }], { duration: 140, easing: "ease-out" });
}

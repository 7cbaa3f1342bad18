// The labelling page: what is being worked on, what a key or button does, and what the server's answers change.
import { isTemporary, request } from "/static/api.js";
import { listen } from "/static/keys.js";
import { Outbox } from "/static/outbox.js";
import { prose } from "/static/pair.js";
import { askReason, prepareDialogs, showGuidelines, showHelp } from "/static/panels.js";
import { Screen, wordsOf } from "/static/screen.js";

const GUARD_MS = 200; // a vote this soon after a pair appeared is a double press: nobody has read it
const MAX_DWELL_MS = 5 * 60 * 1000; // of one vote in the pace; longer is a break
const PACE_FROM = 10; // votes
const BREAK_EVERY = 50; // votes
const REFRESH_ME_MS = 5 * 60 * 1000;
const LOOK_AGAIN_MS = 20 * 1000;
const PAGES = { adjudicator: ["/adjudicate", "Go to the disputed pairs"], admin: ["/admin", "Go to the admin page"] };
const VIEWS = ["raw", "diff", "sync", "prompt", "guidelines", "help"];
const VOTES = ["left", "right", "tie", "both_bad"];

const get = (id) => document.getElementById(id);
const screen = new Screen();

let me = null;
let meAt = 0;
let outbox = null;
let items = []; // from the server, without those whose vote is on its way
let progress = null;
let phase = "loading"; // loading, pair, strength, checking, feedback, undoing, empty, ended
let answers = 0; // of votes and undos; tells whether an answer about work is out of date
let guardedUntil = 0;
let chosen = ""; // the side whose strength is asked
let lookAgain = 0; // timer

// Time that the pair was visible.
let dwell = 0;
let visibleSince = null;

// Pace and breaks, of this visit.
let votes = 0;
let worked = 0;

function setPhase(name) {
  phase = name;
  get("main").dataset.state = name;
  if (name === "pair" || name === "strength") guard();
}

/** Refuse votes for a moment. data-state says when it is over: "pair" becomes "pair ready". */
function guard() {
  guardedUntil = performance.now() + GUARD_MS;
  const name = phase;
  get("main").dataset.state = name;
  setTimeout(() => {
    if (phase === name && !isGuarded()) get("main").dataset.state = `${name} ready`;
  }, GUARD_MS + 1);
}

function isGuarded() {
  return performance.now() < guardedUntil;
}

/** Return true, and say so, if a press came too early to count. */
function refuseEarly() {
  if (isGuarded()) screen.say("That was too quick after the last press, so it did not count. Press again if you mean it.");
  return isGuarded();
}

// Dwell.

function startDwell() {
  dwell = 0;
  visibleSince = document.visibilityState === "visible" ? performance.now() : null;
}

function stopDwell() {
  if (visibleSince !== null) dwell += performance.now() - visibleSince;
  visibleSince = null;
  return Math.round(dwell);
}

document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden") stopDwell();
  else if (visibleSince === null) visibleSince = performance.now();
});

// Drafts of notes: kept in sessionStorage by pair, until the vote is saved.

const draftOf = (ticket) => `tiltlm.note.${ticket}`;

function saveDraft(ticket, text) {
  try {
    if (text) sessionStorage.setItem(draftOf(ticket), text);
    else sessionStorage.removeItem(draftOf(ticket));
  } catch {
    // Storage is full or forbidden: the note is in the text field, and only a reload would lose it.
  }
}

function openNote(isOpen) {
  get("note-panel").hidden = !isOpen;
  const button = document.querySelector('[data-action="note"]');
  button.setAttribute("aria-expanded", isOpen);
  if (isOpen) get("note").focus();
  else if (get("note-panel").contains(document.activeElement) || document.activeElement === document.body) button.focus();
}

function showNote() {
  get("has-note").hidden = get("note").value === "";
}

// Showing.

function show(item, { isFirst = false } = {}) {
  clearTimeout(lookAgain);
  screen.showPair(item);
  screen.showRow("vote");
  screen.enableVotes(true);
  screen.markChoice("");
  get("note").value = sessionStorage.getItem(draftOf(item.ticket)) || "";
  get("note-panel").hidden = true;
  document.querySelector('[data-action="note"]').setAttribute("aria-expanded", "false");
  showNote();
  setPhase("pair");
  startDwell();
  if (!isFirst && !document.querySelector("dialog[open]")) get("pair-heading").focus({ preventScroll: true });
  screen.measurePrompt();
}

function showProgress() {
  if (!progress) return;
  const pace = votes >= PACE_FROM ? Math.round(votes / (worked / 3600000)) : 0;
  screen.showProgress(progress, pace, phase === "feedback");
}

/** Take over what the server says is to be worked on. `isUndo`: the first pair is the one that was taken back. */
function accept(data, isUndo = false) {
  items = data.items.filter((item) => !outbox.holds(item.ticket));
  progress = data.progress;
  settle(isUndo);
}

/** Show what there is to do now. The pair on the screen stays where it is still this person's. */
function settle(isUndo = false) {
  if (["checking", "feedback", "undoing", "ended"].includes(phase)) {
    showProgress();
    return;
  }
  const stays = screen.item && !isUndo && items.some((item) => item.ticket === screen.item.ticket);
  if (!stays) {
    const isFirst = phase === "loading" && !answers;
    if (items.length) show(items[0], { isFirst });
    else if (outbox.size) showWaiting();
    else showEmpty();
  }
  screen.prepare(items);
  showProgress();
  if (screen.item) get("pair-heading").textContent = `Pair ${progress.done + outbox.votes + 1}`;
}

function showWaiting() {
  setPhase("loading");
  screen.showMessage({ heading: "One moment …", text: "The next pair comes when your last vote is saved.", canUndo: true });
}

function showEmpty() {
  setPhase("empty");
  const isDone = progress.left === 0;
  screen.showMessage({
    heading: isDone ? "All done. Thank you!" : "Nothing to do at the moment",
    text: isDone
      ? `You voted on ${progress.done} ${progress.done === 1 ? "pair" : "pairs"}. Pairs that others leave may still come: this page looks for them from time to time.`
      : "Other people have the last pairs on their screens. This page looks again from time to time.",
    retry: true,
    canUndo: true,
  });
  get("message-heading").focus();
  screen.announce(get("message-heading").textContent);
  clearTimeout(lookAgain);
  lookAgain = setTimeout(() => (document.visibilityState === "visible" ? load() : showEmpty()), LOOK_AGAIN_MS);
}

function showEnded(heading, text, link = null) {
  setPhase("ended");
  screen.warn("");
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  get("bar-buttons").hidden = true;
  screen.showMessage({ heading, text, link });
  get("message-heading").focus();
}

function showSignedOut() {
  if (outbox) outbox.stop();
  const num = outbox ? outbox.votes : 0;
  const unsaved = num ? ` ${num === 1 ? "One vote is" : `${num} votes are`} not saved yet. Open the new link in this tab, and they will be sent.` : "";
  showEnded("Your link has ended", `Ask the person who runs this project for a new one.${unsaved}`);
}

// Asking the server.

/** Ask until there is an answer; temporary errors are tried again. */
async function ask(method, path, body) {
  for (let wait = 500; ; wait = Math.min(15000, wait * 2)) {
    const answer = await request(method, path, body);
    if (!isTemporary(answer)) return answer;
    screen.warn("The server does not answer. Trying again …", true);
    await new Promise((resolve) => setTimeout(resolve, Math.max(wait, answer.retryAfter)));
  }
}

async function load() {
  const before = answers;
  const answer = await ask("POST", "/api/work", {});
  if (outbox.problem === null) screen.warn("");
  if (answer.status === 401) showSignedOut();
  else if (answer.status !== 200) showEnded("This page is for annotators", answer.message, PAGES[me.role] || null);
  else if (before !== answers) load();
  else {
    if (phase === "loading" || phase === "empty") phase = "loading";
    accept(answer.data);
  }
}

async function loadMe() {
  meAt = Date.now();
  const answer = await ask("GET", "/api/me");
  if (answer.status === 401) {
    showSignedOut();
    return false;
  }
  if (answer.status !== 200) {
    showEnded("This page does not work at the moment", answer.message);
    return false;
  }
  me = answer.data;
  get("bar-buttons").hidden = false;
  screen.showTitle(me.title);
  get("vote-row").classList.toggle("no-ties", !me.ties);
  for (const button of document.querySelectorAll("#vote-row .even")) button.hidden = !me.ties;
  return true;
}

async function refreshMe() {
  if (Date.now() - meAt < REFRESH_ME_MS) return;
  if (await loadMe()) {
    showProgress();
    offerGuidelines();
  }
}

function checksum(text) {
  let sum = 0;
  for (let at = 0; at < text.length; at++) sum = (Math.imul(31, sum) + text.charCodeAt(at)) | 0;
  return sum;
}

/** Show the guidelines on the first visit, and when there is a new version. */
function offerGuidelines() {
  const place = `tiltlm.guidelines.${me.name}`;
  const seen = localStorage.getItem(place) || "";
  const { version, html } = me.guidelines;
  const shown = `${version} ${checksum(html)}`; // another project at the same address may have the same version
  if (version === 0 || seen === shown || document.querySelector("dialog[open]")) return;
  localStorage.setItem(place, shown);
  const isNewer = seen !== "" && parseInt(seen, 10) < version;
  showGuidelines(me.guidelines, isNewer ? "The guidelines have changed. Please read them again." : "");
}

// Answers to votes and undos.

function onAnswer(entry, answer) {
  answers += 1;
  if (answer.status === 401) showSignedOut();
  else if (entry.kind === "vote") onVote(entry, answer);
  else onUndo(answer);
  refreshMe();
}

function onVote(entry, answer) {
  if (answer.status === 200 || answer.status === 409) saveDraft(entry.body.ticket, "");
  if (answer.status === 200) {
    get("last").textContent = `Saved: ${wordsOf(entry.body.choice)}`;
    if (phase === "checking") {
      if (answer.data.feedback) showFeedback(answer.data.feedback, entry.body.choice);
      else setPhase("loading");
    }
    accept(answer.data);
    return;
  }
  get("last").textContent = "";
  if (answer.code === "gone") {
    screen.say("Somebody else has judged that pair meanwhile, so your vote on it does not count.");
  } else if (answer.code === "voted") {
    screen.say("That pair has a vote of yours already, perhaps from another window.");
  } else screen.say(`A vote was not saved: ${answer.message || `the server answered ${answer.status}`}`);
  if (phase === "checking") setPhase("loading");
  load();
}

function onUndo(answer) {
  setPhase("loading");
  if (answer.status !== 200) {
    const isNothing = answer.code === "nothing_to_undo";
    get("last").textContent = "";
    screen.say(isNothing ? "There is no vote to take back." : `The vote was not taken back: ${answer.message}`);
    screen.item = null;
    load();
    return;
  }
  const { undone } = answer.data;
  const ticket = answer.data.items[0].ticket;
  if (undone.note && !sessionStorage.getItem(draftOf(ticket))) saveDraft(ticket, undone.note);
  accept(answer.data, true);
  screen.markChoice(undone.choice);
  screen.markSeen();
  get("last").textContent = `Taken back: ${wordsOf(undone.choice)}`;
  screen.announce(`Taken back: ${wordsOf(undone.choice)}. Vote on this pair again.`);
}

function showFeedback({ is_right: isRight, answer, html }, choice) {
  setPhase("feedback");
  screen.showRow("feedback");
  const row = get("feedback-row");
  row.classList.toggle("right", isRight);
  row.classList.toggle("other", !isRight);
  const [known, own] = [answer, choice].map((one) => wordsOf(one).toLowerCase());
  get("feedback-heading").textContent = isRight ? `Correct: ${known}.` : `The known answer: ${known}. Your vote: ${own}.`;
  get("feedback-text").replaceChildren(prose(html));
  get("feedback-next").focus();
  screen.announce(get("feedback-heading").textContent);
}

function leaveFeedback() {
  const wasLast = progress.calibration_left === 0;
  setPhase("loading");
  settle();
  if (wasLast) screen.say("Practice is over. From now on your votes count, and no answers are shown.");
}

function onChange(problem) {
  const num = outbox ? outbox.votes : 0;
  get("main").dataset.unsaved = outbox ? outbox.size : 0;
  const what = num ? `Not saved yet: ${num} ${num === 1 ? "vote" : "votes"}.` : "Not done yet: the undo.";
  if (problem === null) screen.warn("");
  else if (problem === "slow") screen.warn(`${what} The server is slow.`);
  else if (problem === "disk_full") screen.warn(`${what} The disk of the server is full; tell the person who runs it. Trying again …`, true);
  else if (problem === "busy") screen.warn(`${what} The server has a problem. Trying again …`);
  else screen.warn(`${what} No connection. Trying again …`);
}

addEventListener("beforeunload", (event) => {
  if (outbox && outbox.size && phase !== "ended") event.preventDefault();
});

// Actions.

function cast(choice, extra = {}) {
  const item = screen.item;
  const dwellMs = stopDwell();
  const body = { ticket: item.ticket, choice, dwell_ms: dwellMs, client_time: Date.now() / 1000, ...extra };
  if (me.guidelines.version) body.guideline_version = me.guidelines.version;
  const note = get("note").value.trim();
  if (note) body.note = note;
  votes += 1;
  worked += Math.min(dwellMs, MAX_DWELL_MS);
  screen.say("");
  get("last").textContent = `Saving: ${wordsOf(choice)}`;
  items = items.filter((one) => one.ticket !== item.ticket);
  if (item.is_calibration) {
    setPhase("checking");
    screen.enableVotes(false);
    screen.showRow("vote");
    outbox.add("vote", body);
    return;
  }
  outbox.add("vote", body);
  settle();
  if (screen.item) screen.announce(`${wordsOf(choice)}. ${get("pair-heading").textContent}.`);
  if (votes % BREAK_EVERY === 0) screen.say(`${votes} votes in this visit. Time for a short break? You can go on here at any time.`);
}

function choose(choice) {
  if (phase !== "pair") return;
  if (!me.ties && (choice === "tie" || choice === "both_bad")) {
    screen.say("This project asks for a decision: left or right. You can skip a pair that you cannot judge.");
    return;
  }
  if (refuseEarly()) return;
  if (screen.isRightUnseen) {
    screen.showSide("right", true);
    screen.say("This is the right response. Vote when you have read both.");
    guard();
    return;
  }
  if (!me.strength || choice === "tie" || choice === "both_bad") {
    cast(choice);
    return;
  }
  chosen = choice;
  get("strength-text").textContent = `${wordsOf(choice)}. How much?`;
  screen.say("");
  screen.showRow("strength");
  setPhase("strength");
  get("strength-text").focus();
}

function chooseStrength(strength) {
  if (phase === "strength" && !refuseEarly()) cast(chosen, { strength });
}

function cancelStrength() {
  screen.say("");
  screen.showRow("vote");
  setPhase("pair");
  get("pair-heading").focus({ preventScroll: true });
}

function skip() {
  if (phase !== "pair" || refuseEarly()) return;
  const { ticket } = screen.item;
  askReason(me.skip_reasons, (reason) => {
    if (phase === "pair" && screen.item.ticket === ticket) cast("skip", { reason });
  });
}

function undo() {
  if (phase === "strength") {
    cancelStrength();
    return;
  }
  if (!["pair", "empty"].includes(phase) && !(phase === "loading" && outbox.size)) return;
  clearTimeout(lookAgain);
  setPhase("undoing");
  screen.say("");
  screen.enableVotes(false);
  get("last").textContent = "Taking back …";
  outbox.add("undo", {});
}

async function toggleDiff() {
  const item = screen.item;
  if (screen.diff) {
    screen.showDiff(null);
    return;
  }
  const answer = await request("GET", `/api/items/${encodeURIComponent(item.ticket)}/diff`);
  if (screen.item !== item) return;
  if (answer.status === 401) showSignedOut();
  else if (answer.status === 200) screen.showDiff(answer.data);
  else screen.say(answer.message ? `The differences cannot be shown: ${answer.message}` : "The differences cannot be shown: no connection.");
}

const ACTIONS = {
  skip,
  undo,
  note: () => screen.item && openNote(get("note-panel").hidden),
  raw: () => screen.item && screen.toggleRaw(),
  diff: () => screen.item && toggleDiff(),
  sync: () => screen.item && screen.toggleSync(),
  prompt: () => screen.item && screen.togglePrompt(),
  guidelines: () => me && showGuidelines(me.guidelines, ""),
  help: () => me && showHelp(me),
  cancel: () => {
    if (phase === "strength") cancelStrength();
    else screen.say("");
  },
};

/** Do an action by name, for a key or a button. Return whether the key had a use. */
function press(name, character) {
  if (phase === "strength" && /^[123]$/.test(character)) chooseStrength(Number(character));
  else if (phase === "feedback" && character === "Enter") leaveFeedback();
  else if (phase === "feedback" && !VIEWS.includes(name)) return false;
  else if (VOTES.includes(name)) choose(name);
  else if (ACTIONS[name]) ACTIONS[name]();
  else return false;
  return true;
}

function prepare() {
  prepareDialogs();
  const on = get("shortcuts");
  on.checked = localStorage.getItem("tiltlm.shortcuts") !== "off";
  on.addEventListener("change", () => localStorage.setItem("tiltlm.shortcuts", on.checked ? "on" : "off"));
  listen({ isOn: () => on.checked, press, scroll: (step) => screen.scroll(step) });
  for (const button of document.querySelectorAll("[data-action]")) {
    button.addEventListener("click", () => press(button.dataset.action, ""));
  }
  for (const button of document.querySelectorAll("[data-strength]")) {
    button.addEventListener("click", () => chooseStrength(Number(button.dataset.strength)));
  }
  get("strength-cancel").addEventListener("click", cancelStrength);
  get("feedback-next").addEventListener("click", leaveFeedback);
  get("line-close").addEventListener("click", () => screen.say(""));
  get("message-retry").addEventListener("click", () => load());
  get("note").addEventListener("input", () => {
    if (screen.item) saveDraft(screen.item.ticket, get("note").value);
    showNote();
  });
  get("note").addEventListener("keydown", (event) => {
    if (event.key === "Escape") openNote(false);
  });
  get("note-done").addEventListener("click", () => openNote(false));
  get("sign-out").addEventListener("click", signOut);
}

async function signOut() {
  get("help-dialog").close();
  const answer = await request("DELETE", "/api/session");
  if (answer.status === 0) {
    screen.say("You are still signed in: no connection.");
    return;
  }
  outbox.stop();
  showEnded("You are signed out", "Open your link again to go on. Your votes are saved.");
}

async function start() {
  prepare();
  if (!(await loadMe())) return;
  outbox = new Outbox(me.name, { onAnswer, onChange });
  outbox.send();
  await load();
  if (phase !== "ended") offerGuidelines();
}

start();

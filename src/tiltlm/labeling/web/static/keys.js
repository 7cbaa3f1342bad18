// Keys of the labelling page. A key counts once however long it is held, and never while a text is being written.

const NAMES = {
  1: "left", ArrowLeft: "left", 2: "right", ArrowRight: "right", 0: "tie", b: "both_bad", s: "skip", u: "undo",
  n: "note", r: "raw", d: "diff", y: "sync", p: "prompt", g: "guidelines", "?": "help",
};
const SCROLLS = { ArrowUp: -60, ArrowDown: 60, PageUp: -0.85, PageDown: 0.85, Home: -Infinity, End: Infinity, " ": 0.85 };

/**
 * Return the character that a key stands for. Keyboards of other scripts (и for b) and those with digits on the shifted
 * level (AZERTY) are read by the place of the key.
 */
export function characterOf(event) {
  const { key, code, shiftKey } = event;
  if (/^[0-9]$/.test(key) || key.length > 1) return key;
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(code);
  if (digit && !shiftKey && !/^[a-z?]$/i.test(key)) return digit[1];
  const letter = /^Key([A-Z])$/.exec(code);
  return (letter && key.charCodeAt(0) > 127 ? letter[1] : key).toLowerCase();
}

export function isWriting(element) {
  return element instanceof Element && element.closest("input:not([type=checkbox]), textarea, select, [contenteditable]") !== null;
}

/**
 * Listen to the keyboard.
 * @param {{isOn: Function, press: Function, scroll: Function}} actions isOn() says whether shortcuts are on;
 *   press(name, character) does an action by name (name is "" for a character without one, and returns whether it was
 *   used); scroll(step) moves both responses: pixels, or a share of the height below 1.
 */
export function listen(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || event.defaultPrevented) return;
    const target = event.target;
    const isControl = target instanceof Element && target.closest("button, a, summary, input") !== null;
    if (isControl && event.key === "Enter") {
      if (event.repeat) event.preventDefault(); // a held key presses a button once
      return;
    }
    if (isWriting(target) || document.querySelector("dialog[open]")) return;
    const scrollsItself = target instanceof Element && target.closest("[data-scrolls]") !== null;
    if (event.key in SCROLLS) {
      if ((isControl && event.key === " ") || scrollsItself || event.shiftKey && event.key !== " ") return;
      const step = SCROLLS[event.key] * (event.shiftKey ? -1 : 1);
      if (actions.scroll(step)) event.preventDefault();
      return;
    }
    if (event.key === "Escape") {
      actions.press("cancel", "Escape");
      return;
    }
    const ownsArrows = event.shiftKey || (target instanceof Element && target.closest("[data-own-arrows]") !== null);
    if (ownsArrows && event.key.startsWith("Arrow")) return; // shift and an arrow select text
    if (!actions.isOn()) return;
    const character = characterOf(event);
    const name = NAMES[character] || "";
    if (event.repeat) {
      if (name) event.preventDefault();
      return;
    }
    if (actions.press(name, character)) event.preventDefault();
  });
}

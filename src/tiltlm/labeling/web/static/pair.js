// One pair on the screen: made from an item of the server before it is needed, and exchanged as a whole.

const ROLES = { user: "User", assistant: "Assistant", system: "System", tool: "Tool" };
const OPEN_TURNS = 1; // of the conversation, counted from its end; earlier ones are folded

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Return what a text looks like rendered. The server has made html safe; tables get a frame that scrolls. */
export function prose(html) {
  const made = element("div", "prose");
  made.dir = "auto";
  made.innerHTML = html;
  for (const block of made.children) if (block.tagName !== "PRE") block.dir = "auto";
  for (const table of made.querySelectorAll("table")) {
    const frame = element("div", "scroll");
    frame.tabIndex = 0;
    frame.dataset.ownArrows = "";
    frame.setAttribute("role", "group");
    frame.setAttribute("aria-label", "Table");
    table.replaceWith(frame);
    frame.append(table);
  }
  return made;
}

function raw(text) {
  const made = element("div", "raw", text);
  made.dir = "auto";
  return made;
}

function isEmpty(part) {
  return part.text.trim() === "";
}

function body(part, isRaw) {
  if (isEmpty(part)) return element("p", "muted", "(empty)");
  return isRaw ? raw(part.text) : prose(part.html);
}

function turn(part, isRaw, hasRole) {
  const made = element("div", `turn ${part.role === "user" ? "by-user" : ""}`);
  if (hasRole) made.append(element("p", "role", ROLES[part.role] || part.role));
  made.append(body(part, isRaw));
  return made;
}

/** A folded part whose content is made when it is opened for the first time. */
function folded(summary, fill) {
  const made = element("details", "folded");
  made.append(element("summary", "", summary));
  made.addEventListener("toggle", () => {
    if (made.open && made.childElementCount === 1) made.append(...fill());
  });
  return made;
}

function promptNodes(item, isRaw) {
  const found = [];
  if (item.system && !isEmpty(item.system)) {
    found.push(folded("System prompt", () => [turn({ ...item.system, role: "system" }, isRaw, false)]));
  }
  const early = item.prompt.slice(0, -OPEN_TURNS);
  if (early.length) {
    const name = early.length === 1 ? "1 earlier turn" : `${early.length} earlier turns`;
    found.push(folded(name, () => early.map((part) => turn(part, isRaw, true))));
  }
  const shown = item.prompt.slice(-OPEN_TURNS);
  found.push(...shown.map((part) => turn(part, isRaw, early.length > 0 || part.role !== "user")));
  return found;
}

function responseNodes(turns, isRaw) {
  return turns.map((part) => turn(part, isRaw, turns.length > 1));
}

function diffNodes(pieces) {
  const made = element("div", "diff");
  made.dir = "auto";
  for (const { kind, text } of pieces) made.append(kind === "changed" ? element("mark", "", text) : text);
  return [made];
}

/** Return the nodes of an item: {prompt, left, right}. */
export function nodesOf(item, isRaw) {
  return {
    prompt: promptNodes(item, isRaw),
    left: responseNodes(item.left, isRaw),
    right: responseNodes(item.right, isRaw),
  };
}

/** Return the nodes of a word diff: {left, right}. */
export function nodesOfDiff(diff) {
  return { left: diffNodes(diff.left), right: diffNodes(diff.right) };
}

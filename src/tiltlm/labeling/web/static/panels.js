// Dialogs: reasons of a skip, guidelines, help.
import { characterOf } from "/static/keys.js";
import { prose } from "/static/pair.js";

const get = (id) => document.getElementById(id);

/** Make the close buttons and a click beside a dialog close it. */
export function prepareDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
    });
  }
}

/** Ask for the reason of a skip, by button or by its number, and call `choose` with it. */
export function askReason(reasons, choose) {
  const dialog = get("skip-dialog");
  const buttons = reasons.map((reason, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "button";
    const text = document.createElement("span");
    text.textContent = reason;
    text.dir = "auto";
    if (index < 9) {
      const key = document.createElement("kbd");
      key.textContent = index + 1;
      key.setAttribute("aria-hidden", "true");
      button.setAttribute("aria-keyshortcuts", index + 1);
      button.append(key);
    }
    button.append(text);
    button.addEventListener("click", () => {
      dialog.close();
      choose(reason);
    });
    return button;
  });
  get("skip-reasons").replaceChildren(...buttons);
  dialog.onkeydown = (event) => {
    if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
    const button = buttons[Number(characterOf(event)) - 1];
    if (!button) return;
    event.preventDefault();
    button.click();
  };
  dialog.showModal();
  buttons[0].focus();
}

/** Show the guidelines; `news` is a line above them, "" for none. */
export function showGuidelines(guidelines, news) {
  get("guidelines-version").textContent = `version ${guidelines.version}`;
  get("guidelines-news").textContent = news;
  get("guidelines-news").hidden = news === "";
  get("guidelines-text").replaceChildren(prose(guidelines.html));
  get("guidelines-dialog").showModal();
  get("guidelines-dialog").scrollTop = 0;
}

/** Show the list of keys, without those that this project does not use. */
export function showHelp(me) {
  get("name").textContent = me.name;
  for (const key of ["0", "b"]) document.querySelector(`.keys [data-key="${key}"]`).hidden = !me.ties;
  get("help-dialog").showModal();
}

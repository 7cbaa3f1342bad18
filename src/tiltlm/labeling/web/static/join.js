// The page of a private link. The token is in the fragment, which browsers never send; it leaves the address at once.
import { isTemporary, request } from "/static/api.js";

const heading = document.getElementById("join-heading");
const message = document.getElementById("join-message");
const retry = document.getElementById("join-retry");
const token = location.hash.slice(1);
history.replaceState(null, "", location.pathname);

const PAGES = { annotator: "/", adjudicator: "/adjudicate", admin: "/admin" };

function fail(title, text, canRetry) {
  heading.textContent = title;
  message.textContent = text;
  retry.hidden = !canRetry;
  heading.focus();
}

async function join() {
  retry.hidden = true;
  heading.textContent = "Opening your link …";
  message.textContent = "One moment.";
  const answer = await request("POST", "/api/session", { token });
  if (answer.status === 200) location.replace(PAGES[answer.data.role] || "/");
  else if (answer.status === 429) fail("Too many tries", "Wait a minute, then try again.", true);
  else if (isTemporary(answer)) fail("The server does not answer", "Check your connection, then try again.", true);
  else fail("This link does not work", "It has ended, or a part of it is missing. Ask the person who sent it for a new one.", false);
}

retry.querySelector("button").addEventListener("click", join);
if (token) join();
else fail("This link is not complete", "Open the whole link that you were sent. If it does not work, ask for a new one.", false);

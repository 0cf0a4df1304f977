// Follows the task on the page while it is live. Without it, the page reloads itself.
"use strict";

const seen = document.getElementById("seen");
let shown = "";

async function follow() {
  const address = seen.querySelector("[data-live]")?.dataset.live;
  if (!address) return;
  try {
    const answer = await fetch(address, { cache: "no-store" });
    const text = answer.ok ? await answer.text() : shown;
    if (text !== shown) show(text);
    seen.classList.remove("away");
  } catch {
    // The demo was killed, perhaps. It will be back.
    seen.classList.add("away");
  }
  setTimeout(follow, 400);
}

function show(text) {
  shown = text;
  const fresh = new DOMParser().parseFromString(text, "text/html").body.children;
  const focused = document.activeElement?.id;
  seen.replaceChildren(...fresh);
  if (focused) document.getElementById(focused)?.focus();
}

if (seen) follow();

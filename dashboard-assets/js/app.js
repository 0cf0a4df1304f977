// Makes the dashboard live. The server renders everything; this patches what changes, and without it every link and
// form still works. Text only ever goes into text nodes, so nothing that a task says becomes markup.
(() => {
  "use strict";

  const $ = (selector, root = document) => root.querySelector(selector);
  const body = document.body;
  const live = $("#live");
  const pauseButton = $("#pause");

  // ---- Words ----

  const pad = (n) => String(n).padStart(2, "0");

  /** As the server writes durations: 48 ms, 1.4 s, 2 m 05 s. */
  function duration(ms) {
    ms = Math.max(0, ms);
    if (ms < 1000) return `${Math.floor(ms)} ms`;
    const s = ms / 1000;
    if (s < 60) return `${(Math.floor(s * 10) / 10).toFixed(1)} s`;
    const m = Math.floor(s / 60);
    if (m < 60) return `${m} m ${pad(Math.floor(s % 60))} s`;
    const h = Math.floor(m / 60);
    return h < 24 ? `${h} h ${pad(m % 60)} m` : `${Math.floor(h / 24)} d ${pad(h % 24)} h`;
  }

  /** And spans of time: 12 s, 4 min, 3 h, 2 d. */
  function span(ms) {
    const s = Math.floor(ms / 1000);
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min`;
    return s < 86400 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86400)} d`;
  }

  const percent = (part) => `${Math.floor(part * 100)} %`;

  // The server's clock counts, not the browser's: they are compared when the stream says what time it is.
  let skew = 0;
  const now = () => Date.now() + skew;

  function ago(at) {
    const ms = now() - at;
    if (ms < -999) return `in ${span(-ms)}`;
    return ms < 1000 ? "just now" : `${span(ms)} ago`;
  }

  /** What is there already is left alone: a selection stays, and nothing is read out again. */
  function write(node, text) {
    if (node.textContent !== text) node.textContent = text;
  }

  function element(name, text) {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
  }

  function linkTo(href, text) {
    const link = element("a", text);
    link.href = href;
    return link;
  }

  function keepTimesTrue() {
    for (const time of document.querySelectorAll("time")) write(time, ago(Date.parse(time.dateTime)));
    for (const when of document.querySelectorAll(".when[data-at]")) waits(when);
    for (const cell of document.querySelectorAll("[data-since]")) write(cell, duration(now() - Number(cell.dataset.since)));
  }

  function waits(when) {
    const at = Number(when.dataset.at);
    when.textContent = at > now() ? `runs ${ago(at)}` : "";
  }

  // ---- Rows ----

  const ACTION = { failed: "retry", interrupted: "retry", cancelled: "retry", success: "" };
  const rowOf = (id) => document.getElementById(`t-${id}`);

  function badge(state, word) {
    if (!state || state.dataset.s === word) return;
    state.dataset.s = word;
    state.className = `state s-${word}`;
    state.lastChild.textContent = word;
    const use = $("use", state);
    use.setAttribute("href", use.getAttribute("href").replace(/#.*/, `#${word}`));
  }

  /** Turns a row's one button into what can be done now; it stays the same node, and in focus. */
  function offer(row, action) {
    const button = $(".act", row);
    if (!button) return;
    button.hidden = action === "";
    if (!action) return;
    const word = action[0].toUpperCase() + action.slice(1);
    button.setAttribute("formaction", button.getAttribute("formaction").replace(/[a-z]+$/, action));
    button.setAttribute("aria-label", button.getAttribute("aria-label").replace(/^[A-Za-z]+/, word));
    button.textContent = word;
  }

  function patch(row, delta) {
    if (delta.s) {
      badge($(".state", row), delta.s);
      row.dataset.s = delta.s;
      offer(row, ACTION[delta.s] ?? "cancel");
      const cell = $(".c-duration", row);
      delete cell.dataset.since;
      if (delta.t) cell.dataset.since = delta.t;
      cell.textContent = delta.t ? duration(now() - delta.t) : (delta.d ?? "");
      const when = $(".when", row);
      delete when.dataset.at;
      when.textContent = "";
      if (delta.r) {
        when.dataset.at = delta.r;
        waits(when);
      }
      $(".err", row).textContent = delta.e ?? "";
      if (delta.a !== undefined) $(".at", row).textContent = delta.a;
      if (delta.s !== "running") $(".percent", row).textContent = "";
    }
    if (delta.p !== undefined) $(".percent", row).textContent = percent(delta.p);
  }

  // ---- The stream ----

  let source = null;
  let paused = false;
  let frame = 0;
  let heardAt = Date.now(); // what the page shows is that old at most
  let aliveAt = heardAt;
  let silence = 35000; // longer than the server is ever silent
  let again = 2000;
  let timer = 0;
  let hidingTimer = 0;
  let waiting = new Map(); // what came while paused or hidden, or for the next frame; the last change of a row wins
  let fresh = 0; // newer than the page, as the server counts them
  let strangers = new Set(); // inside the page's range, and now of the status that the page shows
  let lines = [];
  let counts = {};
  let instances = null; // how many there are, and the state of each

  function say(state, text) {
    if (!live) return;
    live.dataset.s = state;
    write($("span", live), text);
  }
  const sayLive = () => (paused ? say("paused", "Paused") : say("live", "Live"));
  const clock = (ms) => new Date(ms).toLocaleTimeString();
  const sayLost = (why = "Reconnecting") => say("off", `${why}, data from ${clock(heardAt)}`);

  function close() {
    clearTimeout(timer);
    source?.close();
    source = null;
  }

  function open() {
    close();
    if (live) live.hidden = pauseButton.hidden = !body.dataset.stream;
    if (!live || !body.dataset.stream) return; // nothing on this page changes any more
    if (document.hidden) return; // whoever looks again opens it
    source = new EventSource(body.dataset.stream);
    const alive = () => (aliveAt = Date.now());
    source.onopen = alive;
    // A server without its store still greets and takes leave: only the others say that the store has answered.
    const on = (name, handle) =>
      source.addEventListener(name, (event) => {
        alive();
        if (name !== "hello" && name !== "bye") {
          heardAt = aliveAt;
          sayLive();
        }
        handle(JSON.parse(event.data));
      });
    on("hello", (hello) => {
      again = 2000;
      skew = hello.now - Date.now();
      silence = hello.hb * 2000 + 5000;
      if (hello.build !== body.dataset.build) outdated();
    });
    on("hb", () => {});
    on("counts", (changed) => later(() => Object.assign(counts, changed)));
    on("tasks", (changed) =>
      later(() => {
        // A new status tells everything that hangs on it anew; progress is added to what is known.
        for (const delta of changed.u ?? []) waiting.set(delta.id, delta.s ? delta : { ...waiting.get(delta.id), ...delta });
        if (changed.n !== undefined) fresh = changed.n;
      }),
    );
    on("instances", (told) => later(() => (instances = told)));
    on("log", (more) => later(() => lines.push(more)));
    on("reset", () => renewSoon());
    on("bye", (bye) => {
      source.close();
      if (bye.why === "auth") return location.reload();
      if (bye.why !== "age") sayLost(); // that one only ends because none goes on for ever
      timer = setTimeout(open, bye.retry);
    });
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) return sayLost(); // the browser tries again by itself
      // The server refused it. A fresh copy leads to the sign-in if that is why, and else stands in for the stream.
      sayWhy();
      again = Math.min(again * 2, 30000);
      timer = setTimeout(renewSoon, again * (0.5 + Math.random()));
    };
  }

  /** No browser tells a script why a stream was refused: who asks once more is told. */
  async function sayWhy() {
    if (live.dataset.s !== "off") sayLost();
    const asked = new AbortController();
    let why;
    try {
      const answer = await fetch(body.dataset.stream, { headers: { accept: "application/json" }, signal: asked.signal });
      if (!answer.ok) why = (await answer.json()).detail.split(":")[0];
    } catch {
      // Not reachable, or refused by somebody else.
    }
    asked.abort(); // if it is let in now, that answer has no end
    sayLost(why);
  }

  /** A connection that was cut without a word looks open for ever. */
  function listen() {
    if (source?.readyState !== EventSource.OPEN || Date.now() - aliveAt < silence) return;
    sayLost();
    open();
  }

  /** The page as the server prints it now. An answer that does not come is none. */
  const ask = () => fetch(location.href, { headers: { accept: "text/html" }, signal: AbortSignal.timeout(20000) });
  const read = async (answer) => new DOMParser().parseFromString(await answer.text(), "text/html");
  const isSignIn = (answer) => answer.redirected || answer.status === 401;

  function outdated() {
    say("off", "A new version is here");
    close();
    $("span", live).append(", ", linkTo(location.href, "reload"));
  }

  function draw() {
    if (!paused && !frame) frame = requestAnimationFrame(show);
  }

  function later(take) {
    take();
    if (!document.hidden) draw();
  }

  function show() {
    frame = 0;
    const focused = document.activeElement;
    const changed = [];
    let renewTask = false;
    for (const [id, delta] of waiting) {
      const row = rowOf(id);
      if (row) {
        patch(row, delta);
        changed.push(row);
      } else if ($("#task")?.dataset.id === id) {
        renewTask = taskChanged(delta) || renewTask;
      } else if (body.dataset.status && delta.s) {
        if (statusOf(delta.s) === body.dataset.status) strangers.add(id);
        else strangers.delete(id);
      }
    }
    waiting.clear();
    for (const row of changed) row.classList.remove("changed");
    if (changed.length) void changed[0].offsetWidth; // one layout for all rows, so that the animation starts anew
    for (const row of changed) row.classList.add("changed");
    for (const more of lines.splice(0)) append(more);
    for (const [word, text] of Object.entries(counts)) {
      const count = $(`.tabs [data-count="${CSS.escape(word)}"]`);
      if (count) count.textContent = text;
    }
    counts = {};
    if (instances && !showsInstances(instances)) renewPart("instances");
    instances = null;
    pill();
    // A button that a patch has hidden cannot keep the focus: its row's link is next to it.
    if (focused && focused !== body && focused.offsetParent === null) $(".name", focused.closest("tr") ?? body)?.focus();
    if (renewTask) renewSoon(500);
  }

  const statusOf = (word) => (["scheduled", "retrying", "held"].includes(word) ? "pending" : word);

  // ---- New tasks ----

  let announcedAt = 0;

  function pill() {
    const n = fresh + strangers.size;
    const button = $("#pill");
    if (!button) return;
    button.hidden = n === 0;
    if (n === 0) return;
    const text = n === 1 ? "1 new task, show" : `${n >= 1000 ? "1000+" : n} new tasks, show`;
    write(button, text);
    if (Date.now() - announcedAt > 10000) {
      announcedAt = Date.now();
      $("#said").textContent = text;
    }
  }

  // ---- Fresh copies of the page ----

  let renewing = false;
  let renewedAt = -Infinity;
  let renewTimer = 0;

  /** On a busy page every copy is old at once: a fresh one at most every 5 s, and none while paused. */
  function renewSoon(apart = 5000) {
    clearTimeout(renewTimer);
    renewTimer = setTimeout(() => (paused ? renewSoon(apart) : renew()), Math.max(paused ? 1000 : 0, renewedAt + apart - Date.now()));
  }

  /** Reads the page again and takes over what the server printed, without a jump. */
  async function renew() {
    if (renewing) return;
    renewing = true;
    renewedAt = Date.now();
    try {
      const answer = await ask();
      if (isSignIn(answer)) return location.reload();
      if (!answer.ok && answer.status !== 404) return renewLater(`The server answered ${answer.status}`);
      const copy = await read(answer);
      await isLetGo();
      const log = $("#log");
      const followed = log && isAtEnd(log);
      const scrolled = log?.scrollTop;
      for (const part of document.querySelectorAll("[data-part]")) {
        const other = copy.querySelector(`[data-part="${part.dataset.part}"]`);
        if (!other) return location.reload();
        replace(part, other);
      }
      for (const name of ["stream", "status"]) body.dataset[name] = copy.body.dataset[name] ?? "";
      if ($("#log")) $("#log").scrollTop = followed ? $("#log").scrollHeight : scrolled;
      heardAt = renewedAt;
      fresh = 0;
      strangers.clear();
      waiting.clear();
      lines = [];
      pill();
      dress();
      open();
    } catch {
      renewLater("Not reachable");
    } finally {
      renewing = false;
    }
  }

  /** Also while the stream goes on: what it has told once it does not tell again. */
  function renewLater(why) {
    sayLost(why);
    if (!source && document.hidden) return; // whoever looks again asks again
    again = Math.min(again * 2, 30000);
    clearTimeout(renewTimer);
    renewTimer = setTimeout(renewSoon, again);
  }

  /** What is pressed must stay until it is let go, or there is no click. A menu may hide the end. */
  async function isLetGo() {
    for (let n = 0; n < 40 && $(":active"); n++) await new Promise((next) => setTimeout(next, 50));
  }

  /** What is open stays open, and the focus where it is. */
  function replace(part, other) {
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    const place = document.adoptNode(other);
    for (const open of part.querySelectorAll("[open] > summary")) {
      const twin = twinOf(open, place);
      if (twin) twin.parentNode.open = true;
    }
    part.replaceWith(place);
    if (focused) (twinOf(focused, place) ?? $("#main")).focus({ preventScroll: true });
  }

  // Not by the text: a tab's number may change.
  const keyOf = (node) => node.id || ["formaction", "href", "aria-label"].map((name) => node.getAttribute(name)).join("") || node.textContent;
  const twinOf = (node, place) => [...place.querySelectorAll("a, button, pre, summary")].find((it) => keyOf(it) === keyOf(node));

  let partTimer = 0;

  /** Reads these parts of the page again; the rest stays where it is. */
  async function renewPart(name) {
    clearTimeout(partTimer);
    try {
      const answer = await ask();
      if (isSignIn(answer)) return location.reload();
      if (!answer.ok) throw answer;
      const copy = await read(answer);
      await isLetGo();
      for (const part of document.querySelectorAll(`[data-part^="${name}"]`)) {
        const other = $(`[data-part="${part.dataset.part}"]`, copy);
        if (other) replace(part, other);
      }
      dress();
    } catch {
      partTimer = setTimeout(renewPart, 5000, name); // the stream does not tell it again
    }
  }

  function showsInstances(told) {
    const section = $("#instances");
    const rows = section ? [...section.querySelectorAll("li")] : [];
    return !section || (Number(section.dataset.n) === told.n && rows.every((row) => row.dataset.s === told.s[row.dataset.id]));
  }

  // ---- One task ----

  /** True if the page has to be read again: what else changes with a status is more than a badge. */
  function taskChanged(delta) {
    if (delta.p !== undefined) {
      const bar = $("#progress");
      if (!bar) return true;
      $("progress", bar).value = delta.p;
      $(".percent-of", bar).textContent = percent(delta.p);
      if (delta.m !== undefined) $(".message", bar).textContent = delta.m;
    }
    const task = $("#task").dataset;
    return delta.s !== undefined && (task.s !== delta.s || (delta.a !== undefined && delta.a !== Number(task.a)));
  }

  const isAtEnd = (log) => log.scrollHeight - log.scrollTop - log.clientHeight < 40;

  function append(more) {
    const log = $("#log");
    if (!log) return void renew();
    const have = Number(log.dataset.lines);
    if (more.from > have) return renewSoon(500);
    const followed = isAtEnd(log);
    for (const [time, level, attempt, text] of more.lines.slice(have - more.from)) {
      if (String(attempt) !== log.dataset.attempt) {
        log.dataset.attempt = attempt;
        log.append(element("i", `attempt ${attempt}`));
      }
      const word = element("b", level);
      word.className = level;
      log.append(element("span", time), " ", word, " ", text, "\n");
    }
    log.dataset.lines = Math.max(have, more.from + more.lines.length); // some may come again
    if (followed) log.scrollTop = log.scrollHeight;
  }

  // ---- Actions ----

  function toast(text, bad, href) {
    $(".toast")?.remove();
    const box = element("div", text);
    box.className = bad ? "toast notice bad" : "toast notice";
    box.setAttribute("role", bad ? "alert" : "status");
    if (href) box.append(" ", linkTo(href, "open"));
    body.append(box);
    setTimeout(() => box.remove(), bad ? 12000 : 6000);
  }

  document.addEventListener("submit", async (event) => {
    const form = event.target;
    const button = event.submitter;
    if (!button?.matches(".act")) return;
    event.preventDefault();
    if (button.getAttribute("aria-disabled") === "true") return; // one click is enough
    button.setAttribute("aria-disabled", "true");
    try {
      const answer = await fetch(button.formAction, {
        method: "POST",
        keepalive: true, // though the page is left
        headers: { accept: "application/json" },
        body: new URLSearchParams(new FormData(form)),
      });
      if (answer.status === 401) return location.reload();
      const said = await answer.json();
      toast(said.detail, !answer.ok, said.href);
      if (!answer.ok || !source) renew();
    } catch {
      toast("The server cannot be reached; nothing is known to have changed.", true);
    } finally {
      button.removeAttribute("aria-disabled");
    }
  });

  document.addEventListener("click", async (event) => {
    if (event.target.id === "pill") {
      if ($("#newest")?.dataset.top !== undefined) await renew();
      else location.href = $("#newest").href;
    } else if (event.target.matches?.("[data-copy]")) {
      const text = event.target.dataset.copy || $(event.target.dataset.from).textContent;
      if (await copyText(text)) toast("Copied.");
      else toast("The browser does not allow to copy.", true);
    } else {
      closeMenus(event.target);
    }
  });

  function closeMenus(except) {
    for (const menu of document.querySelectorAll(".menu[open]")) menu.open = menu.contains(except);
  }

  async function copyText(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Plain http has no clipboard: the old way works there.
      const area = element("textarea", text);
      area.className = "sr";
      body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  }

  // ---- Pause, keys, hidden tabs ----

  pauseButton?.addEventListener("click", () => {
    paused = !paused;
    pauseButton.setAttribute("aria-pressed", String(paused));
    pauseButton.textContent = paused ? "Resume" : "Pause";
    if (live.dataset.s !== "off") sayLive();
    draw();
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches?.("input, textarea, select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key === "/" && $("#q")) {
      event.preventDefault();
      $("#q").focus();
    } else if (event.key === "p") pauseButton?.click();
    else if (event.key === "n" && $("#pill")?.hidden === false) $("#pill").click();
    else if (event.key === "Escape") {
      event.target.closest?.(".menu[open]")?.firstElementChild.focus();
      closeMenus(null);
    }
  });

  // Browsers open six connections to a host under HTTP/1.1: a tab that nobody sees gives its own back.
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hidingTimer);
    if (document.hidden) {
      hidingTimer = setTimeout(close, 30000);
    } else if (!source && body.dataset.stream) comeBack();
    else draw();
  });

  /** To a page that nobody has kept up to date. */
  function comeBack() {
    sayLost();
    renew();
  }

  addEventListener("pagehide", close);
  // The browser may have kept the page for the way back, and meanwhile who looked at it may have signed out.
  addEventListener("pageshow", (event) => {
    if (event.persisted) comeBack();
  });

  function dress() {
    for (const node of document.querySelectorAll("[data-js]")) node.hidden = false;
    keepTimesTrue();
  }

  dress();
  if (body.dataset.stream && $("#log")) $("#log").scrollTop = 1e9; // to be followed
  setInterval(() => {
    if (document.hidden) return;
    if (!paused) keepTimesTrue();
    listen();
  }, 1000);
  // What no delta tells (deleted tasks, another process) is put right by a fresh copy.
  setInterval(() => {
    if (!paused && !document.hidden && source?.readyState === EventSource.OPEN && fresh + strangers.size === 0) renew();
  }, 60000);
  open();
})();

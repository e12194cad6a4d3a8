// What makes the console pleasanter; it works without. Trusted Types are on: text
// is only ever put in as text.
"use strict";
const $ = (q, at = document) => at.querySelector(q), all = (q, at = document) => at.querySelectorAll(q);
const say = text => { $("#said").textContent = text; };

// Copy buttons.
for (const button of all("button.copy")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  const words = button.firstChild, was = words.data;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText($("code", button.parentNode).textContent);
    words.data = "Copied";
    say("Copied");
    setTimeout(() => { words.data = was; }, 2000);
  });
}

// A form goes to its page without the place in it that the address names, such as that
// behind the way past the navigation: there the keyboard would be, and not at what has to
// be mended.
for (const form of all("form[method=post]:not([action])")) form.action = location.pathname + location.search;

// Times by the reader's own clock; UTC stays as the title.
const day = { day: "numeric", month: "short", year: "numeric" }, minute = { hour: "2-digit", minute: "2-digit", timeZoneName: "short" };
const forms = { date: day, full: { ...day, ...minute }, entry: { day: "numeric", month: "short", ...minute, second: "2-digit" } };
const local = t => {
  t.title ||= t.textContent;
  t.textContent = new Date(t.dateTime).toLocaleString("en-GB", forms[t.dataset.form]);
};
all("time[data-form]").forEach(local);

// The live log of a run.
const list = $("#entries[data-stream]");
if (list) {
  const most = 1000, live = $("#live"), text = $("#live-text"), pause = $("#live-pause");
  let last = "", source, ended = false, paused = false, failures = 0, again;
  const done = id => {
    const step = id && $(`[data-step="${CSS.escape(id)}"]`);
    if (!step || step.className === "done") return;
    step.className = "done";
    step.lastElementChild.textContent = " (done)";
    say(step.firstElementChild.textContent);
  };
  const on = (name, f) => source.addEventListener(name, e => { last = e.lastEventId || last; f(JSON.parse(e.data)); });
  const open = () => {
    source?.close();
    clearTimeout(again);
    if (ended || paused || document.hidden) return;
    source = new EventSource(list.dataset.stream.replace(/after=\d+/, m => last ? "after=" + last : m));
    source.onopen = () => { text.textContent = "Live"; failures = 0; };
    source.onerror = () => {
      text.textContent = "Connecting again …";
      // The browser comes again by itself after a broken connection, and never after
      // another answer than 200, such as a proxy's while the service starts anew.
      if (source.readyState === EventSource.CLOSED) again = setTimeout(open, Math.min(1000 * 2 ** failures++, 30000));
    };
    on("entry", e => {
      const near = innerHeight + scrollY > document.body.scrollHeight - 200;
      const item = $("#line").content.cloneNode(true), li = item.firstElementChild, put = (q, t) => { $(q, li).textContent = t; };
      li.className = `entry ${e.level} ${e.type}`;
      const time = $("time", li);
      time.dateTime = time.title = e.iso;
      local(time);
      put(".source", e.source); put(".level", e.level); put("strong", e.title); put(".msg", e.text); put("small", e.details);
      list.append(item);
      if (list.children.length > most) list.firstElementChild.remove();
      $("#no-entries")?.remove();
      done(e.step);
      if (near) scrollTo(0, document.body.scrollHeight);
    });
    on("step", e => done(e.step));
    on("run", r => {
      const chip = $("#run-state .chip");
      if (chip.textContent !== r.state) { chip.textContent = r.state; chip.className = "chip " + r.tone; }
      $("#run-reason").textContent = r.reason;
      $("#run-agent").textContent = r.agent;
      $("#run-changed").hidden = !r.reload;
    });
    on("end", () => { ended = true; source.close(); live.hidden = true; });
  };
  live.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Go on" : "Pause";
    text.textContent = paused ? "Paused" : "Live";
    open();
  });
  // A browser has few connections to one server: pages that nobody sees give theirs back.
  document.addEventListener("visibilitychange", open);
  open();
}

// What a page does for every view: it makes the page look as the outside says, changing only what
// differs, so that focus, open details and a drag survive; and it tells the outside what the reader
// clicks, drags or types. It knows no view. Nothing is loaded from anywhere.

const SILENT_AFTER = 8000; // milliseconds without news, after which a view no longer counts as live
const WAITING_AFTER = 1000; // milliseconds without an answer, after which the reader is told so
const SURE_FOR = 4000; // milliseconds in which a second click confirms
const SETTLE = 350; // milliseconds after the last key, before a value is sent

// -- making one tree look like another ----------------------------------------------------------

const OWN = { DETAILS: ["open"], INPUT: ["value", "checked"], SELECT: ["value"] };

/** On it a notebook takes no key for itself; it looks at what has the focus before what is around. */
const KEEPS_KEYS = "data-lm-suppress-shortcuts";

/** What is the reader's stays: whether details are open, what stands in a field. */
function followAttributes(old, fresh) {
  const own = [KEEPS_KEYS, ...(OWN[old.nodeName] ?? [])];
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !own.includes(name) && !name.startsWith("data-own-")) {
      old.removeAttribute(name);
    }
  }
  for (const { name, value } of fresh.attributes) {
    if (!own.includes(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null;
}

/** Makes `old` look like `fresh`: elements stay, their texts and attributes follow. */
function follow(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.hasAttribute("data-own-value")) return; // the reader holds it
  if (old.hasAttribute("data-own-sure")) return;
  followAttributes(old, fresh);
  if (old.hasAttribute("data-draw")) return;
  const keyed = new Map();
  for (const child of old.childNodes) {
    const key = keyOf(child);
    if (key !== null) keyed.set(key, child);
  }
  let at = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const key = keyOf(child);
    const known = key === null ? (at && keyOf(at) === null ? at : null) : keyed.get(key);
    if (!known) {
      old.insertBefore(child, at);
      continue;
    }
    if (known !== at) old.insertBefore(known, at);
    const next = known.nextSibling;
    follow(known, child);
    at = next;
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

const REFUSED = new Set(["SCRIPT", "IFRAME", "OBJECT", "EMBED", "LINK", "META", "BASE", "STYLE"]);

/** The markup as elements. It is made of escaped text; should that ever fail, nothing here runs. */
function parse(markup) {
  const template = document.createElement("template");
  template.innerHTML = markup;
  for (const element of template.content.querySelectorAll("*")) {
    if (REFUSED.has(element.nodeName.toUpperCase())) {
      element.remove();
      continue;
    }
    for (const { name, value } of [...element.attributes]) {
      const runs = name.startsWith("on") || /^\s*(javascript|data):/i.test(value);
      if (runs) element.removeAttribute(name);
    }
  }
  return template.content.firstElementChild;
}

// -- what the page draws itself --------------------------------------------------------------------

const MOST_ROWS = 300; // no chart shows more

/** Rows of numbers, of which only new ones are told. */
class Series {
  rows = [];
  first = 0; // the number of the first row
  known = false;

  /** Whether what was told follows what is known; if not, rows between are missed. */
  take(told) {
    if (!told?.rows) return true;
    const next = this.first + this.rows.length;
    const follows = this.known && this.first <= told.from && told.from <= next;
    const missed = this.known ? told.from > next : told.from > 0;
    if (follows) this.rows.push(...told.rows.slice(next - told.from));
    else [this.rows, this.first] = [[...told.rows], told.from];
    const old = Math.max(0, this.rows.length - MOST_ROWS);
    this.rows.splice(0, old);
    this.first += old;
    this.known = true;
    return !missed;
  }
}

const [WIDTH, HEIGHT] = [600, 100];

/** `data-draw`: the column of the line; `data-stack`: those of areas below it; `data-top`: the
 * end of the axis. As `limits.py` draws it where there is no script. */
function draw(svg, rows) {
  const { draw: column, stack, top, least, most } = svg.dataset;
  const shown = rows.slice(-most);
  const span = Math.max(shown.length, least);
  const start = span - shown.length;
  const across = shown.map((_, index) => (((start + index) * WIDTH) / (span - 1)).toFixed(1));
  const down = (value) => (HEIGHT - HEIGHT * Math.min(value / top, 1)).toFixed(1);
  const drawn = [];
  let below = shown.map(() => 0);
  for (const part of stack ? stack.split(",") : []) {
    const above = shown.map((row, index) => below[index] + (row[part] ?? 0));
    const edge = above.map((value, index) => `${across[index]},${down(value)}`);
    const back = below.map((value, index) => `${across[index]},${down(value)}`);
    drawn.push(["polygon", `sandbox-area-${part}`, [...edge, ...back.reverse()]]);
    below = above;
  }
  const line = [];
  shown.forEach((row, index) => {
    if (row[column] !== null) line.push(`${across[index]},${down(row[column])}`);
  });
  if (!stack && line.length) {
    const [first, last] = [line[0], line[line.length - 1]].map((point) => point.split(",")[0]);
    drawn.push(["polygon", "sandbox-area", [`${first},${HEIGHT}`, ...line, `${last},${HEIGHT}`]]);
  }
  drawn.push(["polyline", "", line]);
  while (svg.childElementCount > drawn.length) svg.lastElementChild.remove();
  drawn.forEach(([name, kind, points], index) => {
    let shape = svg.children[index];
    if (shape?.nodeName !== name) {
      const made = document.createElementNS("http://www.w3.org/2000/svg", name);
      if (shape) shape.replaceWith(made);
      else svg.append(made);
      shape = made;
    }
    if (kind && shape.getAttribute("class") !== kind) shape.setAttribute("class", kind);
    shape.setAttribute("points", points.join(" "));
  });
}

// -- values that are dragged ----------------------------------------------------------------------

const SIZES = [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]];

function inWords(value, unit) {
  if (unit === "bytes") {
    const [name, factor] = SIZES.find(([, size]) => value >= size) ?? ["bytes", 1];
    return `${Number((value / factor).toPrecision(4))} ${name}`;
  }
  return unit === "processors" ? value.toFixed(2) : String(value);
}

function numberOf(element, name) {
  return Number(element.getAttribute(name));
}

function within(slider, value) {
  const [least, most] = [numberOf(slider, "aria-valuemin"), numberOf(slider, "aria-valuemax")];
  const step = numberOf(slider, "data-step");
  const stepped = Math.round(value / step) * step;
  return Number(Math.min(most, Math.max(least, stepped)).toPrecision(12));
}

/** Shows a value that the reader holds; the outside's own does not come over it meanwhile. */
function hold(slider, value) {
  const words = inWords(value, slider.dataset.unit);
  slider.setAttribute("data-own-value", value);
  slider.setAttribute("aria-valuenow", value);
  slider.setAttribute("aria-valuetext", words);
  slider.style.bottom = `${(100 * value) / numberOf(slider, "aria-valuemax")}%`;
  slider.firstElementChild.textContent = words;
}

const KEYS = {
  ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10,
};

// -- one view -------------------------------------------------------------------------------------

function fieldsOf(element) {
  const fields = {};
  for (const [name, value] of Object.entries(element.dataset)) {
    if (!["act", "key", "confirm", "step", "unit", "none"].includes(name) &&
        !name.startsWith("own")) {
      fields[name] = value;
    }
  }
  return fields;
}

function render({ model, el }) {
  const series = new Series();
  let heard = Date.now();
  let number = 0;
  let seen = true;
  let missed = false; // something came while nobody could see it
  let held = null; // {slider, number, timer, dragging}
  const timers = new Set();
  const aborted = new AbortController();

  const root = () => el.firstElementChild;

  function later(task, milliseconds) {
    const timer = setTimeout(() => {
      timers.delete(timer);
      task();
    }, milliseconds);
    timers.add(timer);
    return timer;
  }

  function send(act, fields) {
    // Numbers grow over all pages that show this view, and over reloads of one.
    number = Math.max(number + 1, Date.now());
    const sent = number;
    model.send({ act, fields, number: sent });
    later(() => {
      const view = root();
      if (view && Number(view.dataset.answered) < sent && view.dataset.state === "live") {
        view.setAttribute("data-own-waiting", view.dataset.waiting);
      }
    }, WAITING_AFTER);
    return sent;
  }

  function letGo() {
    held?.slider.removeAttribute("data-own-value");
    held = null;
  }

  function show() {
    if (root() && !seen) {
      missed = true;
      return;
    }
    missed = false;
    const fresh = parse(model.get("markup"));
    if (!fresh) return;
    const answered = Number(fresh.dataset.answered);
    if (held?.number && answered >= held.number) letGo();
    if (answered >= number) root()?.removeAttribute("data-own-waiting");
    if (root()) follow(root(), fresh);
    else el.append(fresh);
    drawAll();
  }

  function drawAll() {
    for (const svg of el.querySelectorAll("svg[data-draw]")) draw(svg, series.rows);
  }

  function news() {
    heard = Date.now();
    show();
  }

  function more() {
    heard = Date.now();
    if (!series.take(model.get("series")) && root()?.dataset.state === "live") send("series", {});
    if (seen) drawAll();
    else missed = true;
  }

  // What nobody sees is not kept up to date.
  const watching = new IntersectionObserver((entries) => {
    seen = entries[entries.length - 1].isIntersecting;
    if (seen && missed) show();
  });

  // A kernel that ended, or a page that was saved while it was live, must not look alive.
  function notice() {
    const view = root();
    if (view?.dataset.state !== "live" || Date.now() - heard < SILENT_AFTER) return;
    view.dataset.state = "silent";
    view.querySelector('[role="status"]').textContent = view.dataset.silent;
  }

  // -- dragging

  function commit() {
    if (!held || held.number) return;
    clearTimeout(held.timer);
    const value = held.slider.getAttribute("data-own-value");
    held.number = send(held.slider.dataset.act, { ...fieldsOf(held.slider), value });
  }

  function take(slider) {
    if (held && held.slider !== slider) commit();
    clearTimeout(held?.timer);
    held = { slider, number: 0, timer: 0, dragging: false };
  }

  function down(event) {
    const slider = event.target.closest('[role="slider"][data-act]');
    if (!slider || !el.contains(slider) || event.button) return;
    event.preventDefault();
    slider.focus();
    take(slider);
    held.dragging = true;
    held.before = numberOf(slider, "aria-valuenow");
    slider.setPointerCapture(event.pointerId);
    hold(slider, held.before);
  }

  function move(event) {
    if (!held?.dragging) return;
    const place = held.slider.parentElement.getBoundingClientRect();
    const share = (place.bottom - event.clientY) / place.height;
    hold(held.slider, within(held.slider, share * numberOf(held.slider, "aria-valuemax")));
  }

  function up() {
    if (!held?.dragging) return;
    held.dragging = false;
    if (Number(held.slider.getAttribute("data-own-value")) === held.before) {
      letGo();
      show();
    } else commit();
  }

  function cancel() {
    if (!held || held.number) return;
    clearTimeout(held.timer);
    letGo();
    show();
  }

  function key(event) {
    const slider = event.target.closest('[role="slider"][data-act]');
    if (!slider) return;
    if (event.key === "Escape") cancel();
    else if (event.key === "Enter") commit();
    else {
      const now = numberOf(slider, "aria-valuenow");
      const ends = { Home: numberOf(slider, "aria-valuemin"), End: numberOf(slider, "aria-valuemax") };
      const step = KEYS[event.key];
      if (!step && !(event.key in ends)) return;
      const wanted = step ? now + step * numberOf(slider, "data-step") : ends[event.key];
      take(slider);
      hold(slider, within(slider, wanted));
      held.timer = later(commit, SETTLE);
    }
    event.preventDefault();
    event.stopPropagation(); // the notebook has keys of its own
  }

  // -- clicking

  function click(event) {
    const button = event.target.closest("button[data-act]");
    if (!button || !el.contains(button)) return;
    event.preventDefault();
    if (button.dataset.confirm && !button.hasAttribute("data-own-sure")) {
      const before = button.textContent;
      button.setAttribute("data-own-sure", "");
      button.textContent = button.dataset.confirm;
      later(() => {
        button.removeAttribute("data-own-sure");
        if (button.textContent === button.dataset.confirm) button.textContent = before;
        show();
      }, SURE_FOR);
      return;
    }
    button.removeAttribute("data-own-sure");
    send(button.dataset.act, fieldsOf(button));
  }

  function submit(event) {
    const form = event.target.closest("form[data-act]");
    if (!form) return;
    event.preventDefault();
    send(form.dataset.act, { ...fieldsOf(form), ...Object.fromEntries(new FormData(form)) });
  }

  /** A notebook takes keys for commands of its own where no field of an editor has the focus. */
  function keepKeys(event) {
    if (event.target.closest("input, select, textarea, button, summary")) event.stopPropagation();
  }

  const listening = { signal: aborted.signal };
  el.addEventListener("pointerdown", down, listening);
  el.addEventListener("pointermove", move, listening);
  el.addEventListener("pointerup", up, listening);
  el.addEventListener("pointercancel", cancel, listening);
  el.addEventListener("focusin", ({ target }) => target.setAttribute(KEEPS_KEYS, "true"), listening);
  el.addEventListener("focusout", () => held && !held.dragging && commit(), listening);
  el.addEventListener("keydown", key, listening);
  el.addEventListener("keydown", keepKeys, listening);
  el.addEventListener("click", click, listening);
  el.addEventListener("submit", submit, listening);
  model.on("change:markup", news);
  model.on("change:series", more);
  model.on("change:beat", news);
  const timer = setInterval(notice, 1000);
  watching.observe(el);
  more();
  show();
  if (!model.get("language")) {
    const wanted = document.documentElement.lang || navigator.language;
    if (!wanted.startsWith(root()?.lang.slice(0, 2) ?? "")) send("language", { wanted });
  }
  return () => {
    aborted.abort();
    clearInterval(timer);
    timers.forEach(clearTimeout);
    model.off("change:markup", news);
    model.off("change:series", more);
    model.off("change:beat", news);
    watching.disconnect();
  };
}

export default { render };

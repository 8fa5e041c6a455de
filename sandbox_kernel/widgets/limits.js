// Keeps the view up to date: the outside says how it looks, this changes only what differs, so
// that a screen reader keeps its place and bars glide. Nothing is loaded from anywhere.

const SILENT_AFTER = 6000; // milliseconds

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
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
  after.forEach((child, index) => {
    if (index < before.length) follow(before[index], child);
    else old.append(child);
  });
  before.slice(after.length).forEach((child) => child.remove());
}

function render({ model, el }) {
  let heard = Date.now();

  function show() {
    const template = document.createElement("template");
    template.innerHTML = model.get("markup");
    const fresh = template.content.firstElementChild;
    if (!fresh) return;
    if (el.firstElementChild) follow(el.firstElementChild, fresh);
    else el.append(fresh);
  }

  function news() {
    heard = Date.now();
    show();
  }

  // A kernel that ended, or a page that was saved while it was live, must not look alive.
  function notice() {
    const view = el.firstElementChild;
    if (view?.dataset.state !== "live" || Date.now() - heard < SILENT_AFTER) return;
    view.dataset.state = "silent";
    view.querySelector('[role="status"]').textContent = "no news any more; this was the last";
  }

  show();
  model.on("change:markup", news);
  const timer = setInterval(notice, 1000);
  return () => {
    clearInterval(timer);
    model.off("change:markup", news);
  };
}

export default { render };

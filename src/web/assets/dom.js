// Elements without a framework. Text is only ever set as text, so nothing that was read off a part
// can become markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, props, children) {
  for (const [key, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "value" || key === "checked" || key === "disabled") node[key] = value;
    else if (key === "style") node.style.cssText = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  add(node, children);
  return node;
}

function add(node, children) {
  for (const child of children.flat(3)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
}

/// h("button.primary#go", {onclick}, "Go")
export function h(spec, props, ...children) {
  const [, tag, rest] = /^([a-z0-9]+)(.*)$/.exec(spec);
  const node = document.createElement(tag);
  for (const part of rest.match(/[.#][^.#]+/g) || []) {
    if (part[0] === ".") node.classList.add(part.slice(1));
    else node.id = part.slice(1);
  }
  return fill(node, props, children);
}

export function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

export function replace(node, ...children) {
  node.replaceChildren();
  add(node, children);
  return node;
}

const PATHS = {
  pass: "m5 12.5 4.5 4.5L19 7.5",
  fail: "M6.5 6.5l11 11m0-11-11 11",
  review: "M9 9a3 3 0 1 1 4.6 2.5c-1 .7-1.6 1.3-1.6 2.5m0 3.4v.1",
  back: "m14 6-6 6 6 6",
  next: "m10 6 6 6-6 6",
  undo: "M9 14 4 9l5-5M4 9h9a6 6 0 0 1 0 12h-2",
  fit: "M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5",
  plus: "M12 5v14M5 12h14",
  minus: "M5 12h14",
  heat: "M12 3c1 4 5 5 5 10a5 5 0 0 1-10 0c0-2 1-3 2-4 0 2 1 3 2 3 0-4 0-6 1-9z",
  boxes: "M4 4h16v16H4z",
  grid: "M4 4h16v16H4zM4 9.3h16M4 14.6h16M9.3 4v16M14.6 4v16",
  draw: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  filter: "M4 6h16M7 12h10M10 18h4",
  down: "M12 4v11m-5-5 5 5 5-5M5 20h14",
  list: "M4 6h16M4 12h16M4 18h16",
  chart: "M4 20V4M4 20h16M8 16v-5M12 16V8M16 16v-3",
  recipe: "M6 3h12v18H6zM9 8h6M9 12h6M9 16h3",
  learn: "M12 4 2 9l10 5 10-5zM6 11.500V16c2 2.500 10 2.500 12 0v-4.500M22 9v6",
  people: "M9 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM2.5 20c.5-4 3-6 6.500-6s6 2 6.500 6M16 4.500a3.500 3.500 0 0 1 0 6.500M18 14.500c2 .8 3.200 2.600 3.500 5.500",
  sun: "M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.400 1.400M17.600 17.600 19 19M19 5l-1.400 1.400M6.400 17.600 5 19",
  out: "M14 4H5v16h9M10 12h11m-4-4 4 4-4 4",
  close: "M6 6l12 12M18 6 6 18",
  line: "M3 8h4l2-3h6l2 3h4v11H3zM12 17a4 4 0 1 0 0-8 4 4 0 0 0 0 8z",
  bell: "M6 17v-6a6 6 0 0 1 12 0v6l2 2H4zM10 21.500h4",
  trigger: "M13 3 5 14h6l-1 7 8-11h-6z",
  pause: "M8 5v14M16 5v14",
  resume: "M7 5v14l12-7z",
};

export function icon(name, label) {
  const props = { viewBox: "0 0 24 24", class: "icon", "aria-hidden": label ? null : "true" };
  return svg("svg", label ? { ...props, role: "img", "aria-label": label } : props, svg("path", { d: PATHS[name] }));
}

/// A note that goes by itself; `action` is [label, function].
export function toast(text, action, kind) {
  const box = h("div.toast", { class: "toast " + (kind || "") }, h("span", {}, text));
  if (action) box.append(h("button", { onclick: () => { box.remove(); action[1](); } }, action[0]));
  const all = document.getElementById("toasts");
  all.append(box);
  while (all.children.length > 3) all.firstChild.remove();
  setTimeout(() => box.remove(), action ? 8000 : 4500);
}

/// A dialog over the page. `build(close)` gives its content; Escape closes it.
export function sheet(title, build) {
  const dialog = h("dialog.sheet", { "aria-label": title });
  const close = () => { dialog.close(); dialog.remove(); };
  const head = h("header", {}, h("h2", {}, title), h("button.plain", { onclick: close, "aria-label": "close" }, icon("close")));
  add(dialog, [head, build(close)]);
  dialog.addEventListener("cancel", () => dialog.remove());
  dialog.addEventListener("click", (e) => { if (e.target === dialog) close(); });
  document.body.append(dialog);
  dialog.showModal();
  return close;
}

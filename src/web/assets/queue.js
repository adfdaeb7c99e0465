// The queue: filters that live in the address, and a list of any length of which only what is seen
// exists. New inspections come in at the top when the top is in view, else they wait behind a button.
//
//   an inspection, or the newest view that fits of a part with several --> one row, at one place
//   a new view of a part that is listed already --> its row, which comes up

import { get, post, query } from "./api.js";
import { h, icon, replace, sheet, toast } from "./dom.js";
import { clock, day, label, number, reasonLine, t } from "./words.js";
import { may, params, setParams } from "./main.js";
import { Part, forgetMade } from "./part.js";

const PAGE = 50;
const NAMED_MAX = 4;
const KEYS = ["verdict", "grade", "label", "camera", "pipeline", "part", "from", "to", "reviewed", "decided"];

export const badge = (verdict, title) => h("span.badge", { class: `badge ${verdict}`, title }, icon(verdict), h("span", {}, t("v_" + verdict)));

/// Whether an inspection is this row's, or another view of its part.
const has = (item, id) => item.id === id || Boolean(item.part?.views.some((v) => v.inspection_id === id));
const among = (list, value) => !list || list.split(",").includes(value);

export class Queue {
  constructor(main) {
    this.filter = {};
    this.items = new Map();
    this.length = 0;
    this.total = 0;
    this.anchor = null;
    this.selected = null;
    this.fresh = 0;
    this.asked = new Set();
    /// Parts with several views that wait behind the button.
    this.waiting = new Set();
    this.grid = localStorage.getItem("queue") === "grid";
    this.search = h("input", { type: "search", placeholder: t("partSearch"), "aria-label": t("partSearch"), oninput: () => this.later(() => this.set({ part: this.search.value.trim() })) });
    this.chips = h("div.chips", { role: "group", "aria-label": t("filters") });
    this.more = h("div.more", { hidden: true });
    this.count = h("span.count", { "aria-live": "polite" });
    this.newer = h("button.newer", { hidden: true, onclick: () => this.refresh(true) });
    this.space = h("div.space");
    this.list = h("div.list", { tabindex: "0", role: "listbox", "aria-label": t("review"), onscroll: () => this.draw() }, this.space);
    const tools = h("div.tools", {},
      h("button.plain", { onclick: () => { this.more.hidden = !this.more.hidden; this.facets(); }, "aria-label": t("filters"), title: t("filters"), id: "filters" }, icon("filter")),
      h("button.plain", { id: "as-grid", "aria-pressed": String(this.grid), onclick: () => this.takeForm(!this.grid) }, icon("grid")),
      may("operator") && h("button.plain", { onclick: () => this.exportSheet(), "aria-label": t("export"), title: t("export"), id: "export" }, icon("down")));
    this.aside = h("section.queue", {}, h("div.searching", {}, this.search, tools), this.chips, this.more,
      h("div.counts", {}, this.count, may("operator") && h("button.link", { onclick: () => this.bulkSheet(), id: "bulk" }, t("bulk"))), this.newer, this.list);
    this.view = h("section.part");
    replace(main, this.aside, this.view);
    this.main = main;
    this.part = new Part(this.view, this);
    this.takeForm(this.grid);
    this.observer = new ResizeObserver(() => { this.measure(); this.draw(true); });
    this.observer.observe(this.list);
    this.fromAddress();
  }

  /// Rows grow with the letters, which grow with the screen; in a grid several inspections share one.
  measure() {
    const letter = parseFloat(getComputedStyle(document.documentElement).fontSize);
    this.columns = this.grid ? Math.max(2, Math.floor(this.list.clientWidth / (letter * 10))) : 1;
    this.rowHeight = this.grid ? Math.round(this.list.clientWidth / this.columns + letter * 3.4) : Math.max(84, Math.round(letter * 5.6));
  }

  /// A list, or a grid of what was found.
  takeForm(grid) {
    this.grid = grid;
    localStorage.setItem("queue", grid ? "grid" : "list");
    this.main.classList.toggle("gridded", grid);
    const button = this.aside.querySelector("#as-grid");
    button.setAttribute("aria-pressed", String(grid));
    button.title = t(grid ? "asList" : "asGrid");
    button.setAttribute("aria-label", button.title);
    this.measure();
    this.draw(true);
  }

  gone() { this.observer.disconnect(); }

  later(what) { clearTimeout(this.timer); this.timer = setTimeout(what, 200); }

  /// Takes filters and the open inspection from the address.
  fromAddress() {
    const given = params();
    this.filter = Object.fromEntries(KEYS.filter((k) => given[k]).map((k) => [k, given[k]]));
    this.search.value = this.filter.part || "";
    this.drawChips();
    this.refresh(true);
    if (given.id) this.open(given.id, false);
    else this.close(false);
  }

  set(changes) {
    this.filter = { ...this.filter, ...changes };
    for (const key of Object.keys(this.filter)) if (!this.filter[key]) delete this.filter[key];
    setParams({ ...this.filter, id: this.selected }, false);
    this.drawChips();
    this.refresh(true);
  }

  drawChips() {
    const f = this.filter;
    const chip = (label, on, changes, cls) => h("button.chip", { class: `chip ${cls || ""}`, "aria-pressed": String(on), onclick: () => this.set(changes) }, label);
    const one = (v) => f.verdict === v;
    replace(this.chips,
      chip(t("all"), !f.verdict && !f.reviewed, { verdict: "", reviewed: "", decided: "" }),
      chip(t("undecided"), one("review") && f.reviewed === "false", { verdict: "review", reviewed: "false", decided: "" }, "review"),
      chip(t("v_fail"), one("fail") && !f.reviewed, { verdict: "fail", reviewed: "", decided: "" }, "fail"),
      chip(t("v_pass"), one("pass") && !f.reviewed, { verdict: "pass", reviewed: "", decided: "" }, "pass"),
      chip(t("decided"), !f.verdict && f.reviewed === "true", { verdict: "", reviewed: "true", decided: "" }));
    const extra = ["grade", "label", "camera", "pipeline", "from", "to", "decided"].filter((k) => f[k]).length;
    document.getElementById("filters")?.classList.toggle("on", extra > 0);
  }

  async facets() {
    if (this.more.hidden) return;
    const facets = await get("/api/v1/facets");
    const f = this.filter;
    const select = (key, options) => h("label", {}, h("span", {}, t(key)),
      h("select", { name: key, onchange: (e) => this.set({ [key]: e.target.value }) }, h("option", { value: "" }, t("any")),
        options.map(({ name, count }) => h("option", { value: name, selected: f[key] === name }, `${key === "label" ? label(name) : t(name)} (${number(count)})`))));
    const local = (iso) => { if (!iso) return ""; const d = new Date(iso); return new Date(d - d.getTimezoneOffset() * 60000).toISOString().slice(0, 16); };
    const time = (key) => h("label", {}, h("span", {}, t(key)), h("input", { type: "datetime-local", value: local(f[key]), onchange: (e) => this.set({ [key]: e.target.value ? new Date(e.target.value).toISOString() : "" }) }));
    replace(this.more, select("grade", facets.grades), select("label", facets.labels), select("camera", facets.cameras), select("pipeline", facets.pipelines), time("from"), time("to"),
      h("button", { onclick: () => { this.set(Object.fromEntries(KEYS.map((k) => [k, ""]))); this.search.value = ""; this.facets(); } }, t("clear")));
  }

  /// Loads anew from the newest; the selection stays.
  async refresh(top) {
    this.abort?.abort();
    this.abort = new AbortController();
    const generation = (this.generation = (this.generation || 0) + 1);
    let page;
    try {
      page = await get("/api/v1/inspections?" + query({ ...this.filter, grouped: true, limit: PAGE }), this.abort.signal);
    } catch (error) {
      if (error.name === "AbortError") return;
      throw error;
    }
    if (generation !== this.generation) return;
    this.items.clear();
    this.asked.clear();
    this.asked.add(0);
    page.items.forEach((item, i) => this.items.set(i, item));
    this.anchor = page.items.length ? page.items[0].seq + 1 : null;
    this.length = this.total = page.total;
    this.fresh = 0;
    this.waiting.clear();
    if (top) this.list.scrollTop = 0;
    this.complete = page.complete;
    this.draw(true);
    if (!page.complete) this.later(() => { if (this.list.scrollTop < 10) this.refresh(); });
    if (!this.selected && page.items.length && matchMedia("(min-width: 900px)").matches) this.open(page.items[0].id, false);
    performance.mark("list-painted");
  }

  async load(number) {
    if (this.asked.has(number)) return;
    this.asked.add(number);
    const generation = this.generation;
    const page = await get("/api/v1/inspections?" + query({ ...this.filter, grouped: true, limit: PAGE, before: this.anchor, skip: number * PAGE }));
    if (generation !== this.generation) return;
    page.items.forEach((item, i) => this.items.set(number * PAGE + i, item));
    this.draw(true);
  }

  draw(all) {
    const { scrollTop, clientHeight } = this.list;
    const first = Math.max(0, Math.floor(scrollTop / this.rowHeight) - 4) * this.columns;
    const last = Math.min(this.length, (Math.ceil((scrollTop + clientHeight) / this.rowHeight) + 4) * this.columns);
    this.count.textContent = `${number(this.total)} ${t("parts")}` + (this.complete === false ? ` · ${t("partial")}` : "");
    this.newer.hidden = this.fresh === 0;
    this.newer.textContent = `↑ ${number(this.fresh)} ${t("newOnes")}`;
    if (!all && this.drawn && this.drawn[0] === first && this.drawn[1] === last) return;
    this.drawn = [first, last];
    this.space.style.height = Math.ceil(this.length / this.columns) * this.rowHeight + "px";
    const rows = [];
    for (let i = first; i < last; i++) {
      const item = this.items.get(i);
      if (!item) this.load(Math.floor(i / PAGE));
      rows.push(this.row(i, item));
    }
    if (!this.length) rows.push(h("p.empty", {}, Object.keys(this.filter).length ? t("none") : t("noneYet")));
    replace(this.space, rows);
  }

  /// The y of an inspection in the list.
  placeOf(i) { return Math.floor(i / this.columns) * this.rowHeight; }

  /// What a picture in the list shows: the worst finding with what is around it, or the whole.
  thumb(item) {
    if (!item.image) return h("span.noimg");
    const b = item.worst_box;
    const src = b ? `/api/v1/crops/${item.image}?` + query({ x0: Math.floor(b[0]), y0: Math.floor(b[1]), x1: Math.ceil(Math.max(b[2], b[0] + 1)), y1: Math.ceil(Math.max(b[3], b[1] + 1)) }) : `/api/v1/thumbs/${item.image}`;
    return h("img", { src, class: b ? "crop" : null, alt: "", loading: "lazy", decoding: "async", width: 80, height: 66 });
  }

  /// The views of a part, small: each with its camera, its own verdict, and what a person decided about it.
  views(part) {
    const words = (v) => [v.camera, v.verdict ? t(`v_${v.verdict}`) : t("awaited"), reasonLine(v.reason), v.decided && `${t("decided")}: ${t(v.decided)}`].filter(Boolean).join(" · ");
    const sign = (v) => (v.verdict ? h("span", { class: `badge ${v.verdict}` }, icon(v.verdict)) : h("span.quiet", {}, "…"));
    // More than these find no room for their names.
    return h("span", { class: part.views.length > NAMED_MAX ? "minis many" : "minis" }, part.views.map((v) => h("span.mini", { "data-camera": v.camera, title: words(v), "aria-label": words(v) },
      v.image ? h("img", { src: `/api/v1/thumbs/${v.image}`, alt: "", loading: "lazy", decoding: "async", width: 48, height: 36 }) : h("span.noimg"),
      h("span.of", {}, h("span.camera", {}, v.camera), h("span.verdicts", {}, sign(v), v.decided && h("span", { class: `person ${v.decided}` }, icon(v.decided)))))));
  }

  row(i, item) {
    const width = 100 / this.columns;
    const style = `top:${this.placeOf(i)}px;height:${this.rowHeight}px;` + (this.grid ? `left:${(i % this.columns) * width}%;width:${width}%` : "");
    if (!item) return h("div.row.loading", { style });
    const part = item.part;
    const d = item.decision;
    const done = part ? part.views.every((v) => v.decided || !v.inspection_id) : d?.verdict;
    const verdict = part ? part.verdict || "open" : item.verdict;
    const props = { style, role: "option", "aria-selected": String(this.selected !== null && has(item, this.selected)), class: `row ${verdict}${done ? " done" : ""}${part ? " joined" : ""}`, tabindex: "-1", "data-id": item.id, onclick: () => this.open(item.id, true) };
    const time = h("time", { datetime: item.at }, day(item.at) || clock(item.at));
    if (part) {
      const said = part.verdict ? badge(part.verdict, reasonLine(part.reason)) : h("span.quiet", {}, t("awaited"));
      return h("button.row", props, h("span.what", {}, h("span.line1", {}, h("strong", {}, item.part_id || `#${item.seq}`), h("span.whole", {}, part.name, said), time), this.views(part)));
    }
    const found = item.labels.length ? item.labels.map(label).join(", ") : item.reason ? reasonLine(item.reason) : t(item.grade);
    return h("button.row", props,
      this.thumb(item),
      h("span.what", {},
        h("span.line1", {}, h("strong", {}, item.part_id || `#${item.seq}`), time),
        h("span.line2", {}, found),
        h("span.line3", {}, badge(item.verdict), h("span.camera", {}, item.camera), d?.verdict && h("span.arrow", {}, "→"), d?.verdict && h("span.person", { class: `person ${d.verdict}`, title: d.actor }, icon(d.verdict), d.actor))));
  }

  /// The place of the row that an inspection, or a view, has; -1: it is not loaded.
  indexOf(id) {
    for (const [i, item] of this.items) if (has(item, id)) return i;
    return -1;
  }

  indexOfPart(id) {
    for (const [i, item] of this.items) if (item.part?.id === id) return i;
    return -1;
  }

  open(id, push) {
    if (id !== this.selected && !this.part.leave()) return;
    this.selected = id;
    setParams({ ...this.filter, id }, push);
    this.main.classList.add("opened");
    this.part.show(id);
    this.draw(true);
    const i = this.indexOf(id);
    if (i >= 0) {
      const y = this.placeOf(i);
      if (y < this.list.scrollTop) this.list.scrollTop = y;
      else if (y + this.rowHeight > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = y + this.rowHeight - this.list.clientHeight;
    }
  }

  close(push) {
    if (!this.part.leave()) return;
    this.selected = null;
    setParams(this.filter, push);
    this.main.classList.remove("opened");
    this.part.clear();
    this.draw(true);
  }

  /// The next (1) or previous (-1) inspection.
  async step(by) {
    const i = this.selected ? this.indexOf(this.selected) + by : 0;
    if (i < 0 || i >= this.length) return;
    if (!this.items.get(i)) await this.load(Math.floor(i / PAGE));
    const item = this.items.get(i);
    if (item) this.open(item.id, false);
  }

  /// After a decision: the next view of the part that fits and that nobody has decided about, else the next row.
  async next({ id, part }) {
    const views = part?.views || [];
    const at = views.findIndex((v) => v.inspection_id === id);
    const fits = (v) => v.inspection_id && !v.decided && among(this.filter.verdict, v.verdict) && (!this.filter.camera || this.filter.camera === v.camera);
    const other = [...views.slice(at + 1), ...views.slice(0, Math.max(at, 0))].find(fits);
    if (other) this.open(other.inspection_id, false);
    else await this.step(1);
  }

  arrived(item) {
    this.part.about(item);
    const known = item.part ? this.indexOfPart(item.part.id) : -1;
    if (known >= 0) this.items.set(known, { ...this.items.get(known), part: item.part });
    if (!fits(this.filter, item)) {
      if (known >= 0) this.draw(true);
    } else if (this.list.scrollTop < this.rowHeight / 2) {
      // In at the top, without asking again.
      const moved = new Map([[0, item]]);
      for (const [i, old] of this.items) if (i !== known) moved.set(known >= 0 && i > known ? i : i + 1, old);
      this.items = moved;
      // Pages are counted from the anchor: with it moved, what was asked for is asked anew when needed.
      this.anchor = item.seq + 1;
      this.asked = new Set([...this.asked].filter((n) => this.items.has((n + 1) * PAGE - 1)));
      if (known < 0) {
        this.length += 1;
        this.total += 1;
      }
      this.draw(true);
      if (!this.selected && matchMedia("(min-width: 900px)").matches) this.open(item.id, false);
    } else if (known >= 0) {
      this.draw(true);
    } else if (!this.waiting.has(item.part?.id)) {
      if (item.part) this.waiting.add(item.part.id);
      this.fresh += 1;
      this.total += 1;
      this.draw();
    }
  }

  reviewed(item) {
    const i = this.indexOf(item.id);
    if (i >= 0) {
      const old = this.items.get(i);
      this.items.set(i, old.id === item.id ? item : { ...old, part: item.part });
      this.draw(true);
    }
    this.part.about(item);
    if (item.id === this.selected) this.part.changed(item);
  }

  key(key, isHeld) {
    if (key === "j" || key === "ArrowDown") this.step(1);
    else if (key === "k" || key === "ArrowUp") this.step(-1);
    else if (key === "/") this.search.focus();
    else if (key === "Escape" && this.main.classList.contains("opened") && !matchMedia("(min-width: 900px)").matches) this.close(true);
    else return this.part.key(key, isHeld);
    return true;
  }

  exportSheet() {
    sheet(t("export"), () => h("div.choices", {}, ["csv", "findings", "coco", "jsonl"].map((format) =>
      h("a.button", { href: "/api/v1/export?" + query({ ...this.filter, format }), download: "" }, icon("down"), { csv: `CSV: ${t("inspections")}`, findings: `CSV: ${t("findings")}`, coco: "COCO", jsonl: "JSONL + images (.tar)" }[format]))));
  }

  async bulkSheet() {
    const filter = { ...this.filter, reviewed: "false" };
    const counts = await Promise.all(["pass", "fail"].filter((v) => !filter.verdict || filter.verdict.split(",").includes(v))
      .map((verdict) => get("/api/v1/inspections?" + query({ ...filter, verdict, limit: 1 }))));
    const count = counts.reduce((sum, page) => sum + page.total, 0);
    if (!count) return toast(t("bulkNone"));
    if (count > 1000) return toast(`${number(count)}. ${t("bulkTooMany")}`);
    sheet(t("bulkTitle"), (close) => {
      const input = h("input", { inputmode: "numeric", autocomplete: "off", id: "bulk-count", placeholder: String(count), oninput: () => { go.disabled = input.value.trim() !== String(count); } });
      const note = h("input", { placeholder: t("noteHint"), maxlength: 1000 });
      const go = h("button.primary", { disabled: true, id: "bulk-go", onclick: async () => {
        const search = { ...this.filter, reviewed: undefined };
        const done = await post("/api/v1/reviews/bulk", { search, action: "confirm", count, note: note.value });
        close();
        forgetMade();
        toast(`${number(done.decided)} ${t("confirmed")}${done.left ? ` · ${number(done.left)} ${t("undecided").toLowerCase()}` : ""}`);
        this.refresh();
      } }, `${t("bulk").replace("…", "")}: ${number(count)}`);
      return h("div.body", {}, h("p", {}, t("bulkHint")), h("label", {}, h("span", {}, `${t("bulkCount")} ${count}`), input), note, h("div.end", {}, h("button", { onclick: close }, t("cancel")), go));
    });
  }
}

/// Whether a summary fits the filters, as the server would say.
function fits(f, item) {
  const decided = item.decision?.verdict || null;
  return among(f.verdict, item.verdict) && among(f.grade, item.grade)
    && (!f.label || item.labels.includes(f.label)) && (!f.camera || f.camera === item.camera) && (!f.pipeline || f.pipeline === item.pipeline)
    && (!f.part || (item.part_id || "").toLowerCase().includes(f.part.toLowerCase()))
    && (!f.from || Date.parse(item.at) >= Date.parse(f.from)) && (!f.to || Date.parse(item.at) <= Date.parse(f.to))
    && (!f.reviewed || (f.reviewed === "true") === (decided !== null)) && (!f.decided || f.decided === decided);
}

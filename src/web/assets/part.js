// One inspection: the picture, what was found and read, and the operator's decision.
//
//   model's findings --or the decision in force--> boxes --edited--> draft --with a decision--> ledger
//
// A decision says which state it was made on; if somebody else decided meanwhile, nothing is written
// and the newest state is shown. It is only taken once the picture has been on the screen since the
// part became the current one: whoever is quicker than the picture, or holds a key, decides nothing.

import { get, post } from "./api.js";
import { h, icon, replace, sheet, svg, toast } from "./dom.js";
import { label, number, percent, reason, reasonLine, t, when } from "./words.js";
import { may, state } from "./main.js";
import { Picture } from "./picture.js";
import { badge } from "./queue.js";

const SEVERITIES = ["minor", "major", "critical"];
/// What this page has decided, oldest first: {actor, id, seq, name}. `z` takes back the last one.
const made = [];
/// The decision that is being sent.
let under = Promise.resolve();

/// Many at once were decided: `z` takes back nothing that came before.
export function forgetMade() { made.length = 0; }

const QUICK = { fail: ["r_false", "r_accept", "r_text"], pass: ["r_missed", "r_worse", "r_text"] };

export class Part {
  constructor(view, queue) {
    this.view = view;
    this.queue = queue;
    this.picture = new Picture({
      choose: (i) => this.choose(i, false),
      edit: (boxes) => this.edit(boxes),
      draw: (bbox) => this.drawn(bbox),
      painted: (id) => { if (id === this.id) { this.painted = id; this.markSeen(); } },
      lost: (id) => this.lost(id),
    });
    this.clear();
  }

  clear() {
    this.id = this.data = this.boxes = this.texts = this.painted = null;
    replace(this.view, h("p.empty", {}, t("choose")));
  }

  get dirty() { return Boolean(this.boxes || this.texts); }

  /// Whether the part may be left; a draft asks.
  leave() {
    if (!this.dirty || this.deciding || confirm(`${t("corrected")}. ${t("discard")}?`)) { this.boxes = this.texts = null; return true; }
    return false;
  }

  async show(id, keep) {
    const again = id === this.id;
    this.id = id;
    if (!again) {
      this.boxes = this.texts = this.painted = this.note = null;
      this.picture.chosen = -1;
      this.picture.drawing = false;
      this.markSeen();
    }
    let data;
    try {
      data = await get(`/api/v1/inspections/${encodeURIComponent(id)}`);
    } catch (refused) {
      if (this.id === id) replace(this.view, h("p.empty", {}, refused.message));
      return;
    }
    if (this.id !== id) return;
    this.data = data;
    this.draw(again && keep);
    this.markSeen();
  }

  /// The decision in force, if there is one.
  get effective() {
    const { reviews, decision } = this.data;
    if (!decision) return null;
    return reviews.find((r) => r.at === decision.at && r.actor === decision.actor && r.kind === decision.kind) || null;
  }

  truth() {
    if (this.boxes) return this.boxes;
    const mine = this.effective?.findings;
    return mine ? mine.map((f) => ({ ...f, mine: true, ...this.modelsOwn(f) })) : this.data.boxes.filter((b) => b.bbox_px.every((x) => x !== null));
  }

  /// What the model measured of a box that the operator left as it was.
  modelsOwn(f) {
    const same = this.data.boxes.find((b) => b.label === f.label && b.bbox_px.every((x, i) => x !== null && Math.abs(x - f.bbox_px[i]) < 0.6));
    return same ? { grade: same.grade, confidence: same.confidence, longest_mm: same.longest_mm, mine: false } : {};
  }

  lineOf(text) {
    const same = (c) => c.prompt === text.prompt && c.line === text.line;
    return this.texts?.find(same)?.text ?? this.effective?.texts?.find(same)?.text ?? null;
  }

  draw(keep) {
    const d = this.data;
    const seen = d.image && (d.picture ?? "whole") === "whole";
    const p = this.picture;
    p.editable = may("operator");
    p.grid = d.grid || [];
    p.skipped = new Set(d.skipped.map((s) => `${s.rect}`));
    p.setHeat(d.heat);
    p.boxes = this.truth();
    const tool = (name, label, on, click, id) => h("button.tool", { "aria-pressed": on === null ? null : String(on), "aria-label": label, title: label, onclick: click, id }, icon(name));
    this.tools = h("div.toolbar", {},
      tool("fit", t("fit"), null, () => p.fit()), tool("plus", t("zoomIn"), null, () => p.zoom(1.5)), tool("minus", t("zoomOut"), null, () => p.zoom(1 / 1.5)),
      tool("boxes", t("boxes"), p.showBoxes, () => this.toggle("showBoxes"), "tool-boxes"), d.grid && tool("grid", t("grid"), p.showGrid, () => this.toggle("showGrid"), "tool-grid"), d.heat && tool("heat", t("heat"), p.showHeat, () => this.toggle("showHeat"), "tool-heat"),
      may("operator") && seen && tool("draw", t("draw"), p.drawing, () => this.toggle("drawing"), "tool-draw"));
    const look = seen ? h("div.look", {}, p.stage, this.tools) : h("div.look", {}, h("p.empty", { class: d.image ? "empty bad" : "empty" }, t(d.image ? `picture_${d.picture}` : "noImage")));
    this.side = h("div.side");
    this.foot = h("footer.decide");
    replace(this.view, this.head(), d.part && this.views(d.part), h("div.body", {}, look, this.side), this.foot);
    this.drawSide();
    if (seen) {
      if (!keep) p.key = this.painted = null;
      p.show(`/api/v1/images/${d.image}`, d.width, d.height, d.id);
      requestAnimationFrame(() => (p.touched ? p.place() : p.fit()));
    }
  }

  /// Whether what would be decided about is what is on the screen.
  get isSeen() { return Boolean(this.data) && this.data.id === this.id && (this.painted === this.id || !this.hasPicture); }

  get hasPicture() { return Boolean(this.data.image) && this.data.picture === "whole"; }

  markSeen() {
    this.foot?.classList.toggle("seen", this.isSeen);
    this.foot?.querySelectorAll(".big").forEach((b) => b.setAttribute("aria-disabled", String(!this.isSeen)));
  }

  /// The picture did not come. It can be asked for again; until it is there nothing is decided.
  lost(id) {
    if (id !== this.id || !this.data || this.data.id !== id) return;
    const again = h("button", { id: "picture-again", onclick: () => this.show(id, false) }, t("again"));
    this.view.querySelector(".look")?.append(h("div.lost", { role: "alert" }, h("p", {}, t("pictureLost")), again));
  }

  head() {
    const d = this.data;
    return h("header.head", {},
      h("button.plain.back", { onclick: () => this.queue.close(true), "aria-label": t("back") }, icon("back")),
      h("div.title", {}, h("h1", {}, d.part_id || `#${d.seq}`), h("span.quiet", {}, [d.lot, d.camera, d.pipeline, when(d.at)].filter(Boolean).join(" · "))),
      d.part?.verdict ? h("span.whole", {}, d.part.name, badge(d.part.verdict, reasonLine(d.part.reason))) : null,
      badge(d.verdict, reasonLine(d.reason)),
      // Of what was not looked at nothing is known, whatever grade an older record has.
      h("span.grade", { class: `grade ${d.inspected ? d.grade : "unknown"}` }, t(d.inspected ? d.grade : "notInspected")),
      h("div.steps", {}, h("button.plain", { onclick: () => this.queue.step(-1), title: "k", "aria-label": t("previous") }, icon("back")), h("button.plain", { onclick: () => this.queue.step(1), title: "j", "aria-label": t("next") }, icon("next"))));
  }

  drawSide() {
    const d = this.data;
    const p = this.picture;
    p.boxes = this.truth();
    p.draw();
    const mm = (f) => f.longest_mm ?? (d.mm_per_px ? Math.max(f.bbox_px[2] - f.bbox_px[0], f.bbox_px[3] - f.bbox_px[1]) * d.mm_per_px : null);
    const labels = (f, i) => h("select", { "aria-label": t("label"), name: "label", onchange: (e) => this.relabel(i, { label: e.target.value }) }, [...new Set([f.label, ...d.known_labels])].map((l) => h("option", { value: l, selected: l === f.label }, label(l))));
    const severities = (f, i) => h("select", { "aria-label": t("severity"), name: "severity", onchange: (e) => this.relabel(i, { severity: e.target.value }) }, SEVERITIES.map((s) => h("option", { value: s, selected: s === f.severity }, t(s))));
    const finding = (f, i) => h("li.finding", { class: `finding ${f.severity}${i === p.chosen ? " on" : ""}` },
      h("button.pick", { onclick: () => this.choose(i === p.chosen ? -1 : i, true) },
        h("span.cut", {}, this.hasPicture && this.cut(f), h("b.num", {}, i + 1)), h("span.label", {}, label(f.label)), h("span.quiet", {}, [t(f.severity), f.grade && t(f.grade)].filter(Boolean).join(" · ")),
        h("span.figures", {}, mm(f) === null ? "" : `${number(mm(f), 1)} mm`, h("small", {}, f.confidence === undefined || f.confidence === null ? (f.mine ? "✎" : "") : percent(f.confidence)))),
      i === p.chosen && may("operator") && h("div.change", {}, labels(f, i), severities(f, i), h("button.plain.danger", { onclick: () => this.remove(i), "aria-label": t("remove"), title: t("remove"), id: "box-remove" }, icon("trash"))));
    const open = this.open || {};
    const fold = (key, title, ...content) => h("details", { open: open[key], ontoggle: (e) => { this.open = { ...this.open, [key]: e.target.open }; } }, h("summary", {}, title), content);
    const truth = this.truth();
    replace(this.side,
      this.note && h("p.banner", {}, this.note),
      d.verdict !== "pass" && d.reason && h("p.reason", { class: `reason ${d.verdict}` }, icon(d.verdict), h("span", {}, reason(d.reason)[0], reason(d.reason)[1] && h("small", {}, reason(d.reason)[1]))),
      h("section", {}, h("h2", {}, t("findings"), h("small", {}, truth.length || "")), truth.length ? h("ul.findings", {}, truth.map(finding)) : h("p.quiet", {}, t("noFindings"))),
      d.texts.length > 0 && h("section", {}, h("h2", {}, t("texts")), d.texts.map((x) => this.text(x))),
      h("section", {}, h("h2", {}, t("history")), this.history()),
      fold("model", t("model"), h("dl", {}, this.pairs([[t("model"), d.model.name], ["sha256", d.model.sha256], ["mmproj", d.model.mmproj_sha256], [t("prompt"), d.prompt_hash], [t("recipe"), `${d.pipeline}@${d.pipeline_version}`], [t("tiles"), `${d.tiles_inspected} / ${d.tiles_planned}`], [t("skipped"), d.skipped.map((s) => `${s.prompt} ${s.tile}: ${s.by} ${number(s.doubt, 3)} < ${number(s.below, 3)}`).join(" · ")], [t("score"), number(d.score, 3)], ...d.learned.map((l) => [`${l.prompt}: ${l.kind}`, l.sha256]), [t("origin"), d.origin], ["id", d.id]]))),
      fold("latency", `${t("latency")}: ${number(d.latency.total)} ms`, this.latency()),
      fold("answers", `${t("answers")} (${d.answers.length})`, d.answers.length ? d.answers.map((a) => h("div.answer", {}, h("small.quiet", {}, `${a.prompt} · ${a.tile}`), h("pre", {}, a.text))) : h("p.quiet", {}, t("noAnswers"))));
    this.drawFoot();
  }

  /// A finding with what is around it, out of the picture that is loaded anyway.
  cut(f) {
    const d = this.data;
    const [x0, y0, x1, y1] = f.bbox_px;
    const side = Math.max(48, Math.max(x1 - x0, y1 - y0) * 1.6);
    return svg("svg", { viewBox: `${(x0 + x1 - side) / 2} ${(y0 + y1 - side) / 2} ${side} ${side}`, "aria-hidden": "true" }, svg("image", { href: `/api/v1/images/${d.image}`, width: d.width, height: d.height }));
  }

  /// The part that this is one view of: its verdict, and a tab for each view.
  views(part) {
    const verdict = (x) => (x.verdict ? badge(x.verdict, reasonLine(x.reason)) : h("span.quiet", {}, t("awaited")));
    const view = (v) => h("li", {}, h("button", { disabled: !v.inspection_id, "aria-current": String(v.inspection_id === this.id), onclick: () => this.queue.open(v.inspection_id, true) },
      v.image ? h("img", { src: `/api/v1/thumbs/${v.image}`, alt: "", width: 64, height: 48 }) : h("span.noimg"), h("span", {}, v.camera), verdict(v),
      v.decided && h("span", { class: `person ${v.decided}`, title: `${t("decided")}: ${t(v.decided)}` }, icon(v.decided, `${t("decided")}: ${t(v.decided)}`))));
    return h("section.views", {}, h("h2", {}, `${t("part")}: ${part.name}`, verdict(part)), h("ul", {}, part.views.map(view)));
  }

  /// Something became of an inspection: perhaps it is another view of the open part, whose tabs show it.
  about(item) {
    if (!this.data?.part || item.part?.id !== this.data.part.id) return;
    this.data.part = item.part;
    this.view.querySelector(".head")?.replaceWith(this.head());
    this.view.querySelector(".views")?.replaceWith(this.views(item.part));
  }

  pairs(all) { return all.filter(([, v]) => v).map(([k, v]) => [h("dt", {}, k), h("dd", {}, v)]); }

  latency() {
    const l = this.data.latency;
    const all = ["queue", "preprocess", "vision", "prefill", "decode"];
    const most = Math.max(1, ...all.map((k) => l[k] || 0));
    return h("div.bars", {}, all.map((k) => [h("span", {}, t(k)), h("i", { style: `width:${((l[k] || 0) / most) * 100}%` }), h("span.ms", {}, `${number(l[k], 0)} ms`)]));
  }

  text(x) {
    const mine = this.lineOf(x);
    const now = mine ?? x.read;
    const [a, b] = x.expected === null ? [null, null] : differ(now || "", x.expected);
    const marked = (parts) => parts.map(([same, c]) => (same ? c : h("mark", {}, c === " " ? "␣" : c)));
    const state = now === null ? "review" : x.expected === null ? (x.matches === false && mine === null ? "fail" : x.matches === null ? "" : "pass") : now === x.expected ? "pass" : "fail";
    return h("div.text", { class: `text ${state}` },
      h("div.lines", {},
        h("small.quiet", {}, `${x.prompt} ${x.line} · ${t("read")}${mine !== null ? " ✎" : ""}${mine === null && x.confidence !== null ? ` ${percent(x.confidence)}` : ""}`),
        h("code", {}, now === null ? h("em", {}, t("notRead")) : a ? marked(a) : now),
        x.expected !== null && now !== x.expected && [h("small.quiet", {}, t("expected")), h("code", {}, marked(b))],
        x.matches === false && mine === null && x.expected === null && x.mismatches.map((m) => h("small.bad", {}, m.expected))),
      may("operator") && h("button.plain", { title: t("correct"), "aria-label": t("correct"), onclick: () => this.retype(x, now || "") }, icon("draw")));
  }

  retype(x, now) {
    sheet(t("correct"), (close) => {
      const input = h("input.mono", { value: now, maxlength: 500, autocomplete: "off", spellcheck: "false" });
      const form = h("form.body", { onsubmit: (e) => {
        e.preventDefault();
        const rest = (this.texts || this.effective?.texts || []).filter((c) => c.prompt !== x.prompt || c.line !== x.line);
        this.texts = [...rest, { prompt: x.prompt, line: x.line, text: input.value }];
        close();
        this.drawSide();
      } }, input, x.expected !== null && h("button.chip", { type: "button", onclick: () => { input.value = x.expected; } }, x.expected), h("div.end", {}, h("button", { type: "button", onclick: close }, t("cancel")), h("button.primary", {}, t("save"))));
      requestAnimationFrame(() => input.focus());
      return form;
    });
  }

  history() {
    const all = [...this.data.reviews].reverse();
    if (!all.length) return h("p.quiet", {}, t("noHistory"));
    return h("ol.history", {}, all.map((r) => h("li", { title: `${r.seq} · sha256 ${r.hash}` },
      r.verdict ? h("span.person", { class: `person ${r.verdict}` }, icon(r.verdict)) : h("span.person", {}, icon("undo")),
      h("div", {}, h("strong", {}, r.actor), ` ${t(r.kind === "undo" ? "k_undo" : r.kind)}`, r.verdict && r.kind !== "confirm" ? `: ${t(r.verdict)}` : "", h("small.quiet", {}, ` ${when(r.at)} · ${r.hash.slice(0, 8)}`),
        r.picture && h("div.bad", {}, t(`picture_${r.picture}`)), r.reason && h("div", {}, r.reason), r.note && h("div.quiet", {}, r.note), r.findings && h("small.quiet", {}, `✎ ${r.findings.length} ${t("boxes").toLowerCase()}`)))));
  }

  drawFoot() {
    const d = this.data;
    if (!may("operator")) return replace(this.foot, h("p.quiet", {}, t("viewerOnly")));
    const now = d.decision?.verdict;
    const button = (id, cls, key, label, click) => h("button.big", { id, class: `big ${cls}`, onclick: click }, icon(cls), h("span", {}, label), h("kbd", {}, key));
    // Pass is always on the left and fail on the right, with the same keys, whatever the model says.
    const words = { review: ["goodPart", "badPart"], pass: ["confirmPass", "toFail"], fail: ["toPass", "confirmFail"] }[d.verdict].map(t);
    replace(this.foot,
      this.dirty && h("div.draft", {}, h("span", {}, t("corrected")), h("button", { onclick: () => { this.boxes = this.texts = null; this.picture.chosen = -1; this.drawSide(); } }, t("discard")),
        (now || d.verdict !== "review") && h("button.primary", { id: "save", onclick: () => this.decide(now || d.verdict, this.effective?.reason || (now && now !== d.verdict ? t("saveCorr") : ""), true) }, t("saveCorr"))),
      h("div.buttons", {},
        button("yes", "pass", "y", words[0], () => this.say("pass")), button("no", "fail", "n", words[1], () => this.say("fail")),
        h("button.plain.undo", { id: "undo", disabled: !d.decision, onclick: () => this.undo(), title: t("undo"), "aria-label": t("undo") }, icon("undo"), h("span", {}, t("undo")))));
    this.foot.querySelectorAll(".big").forEach((b) => b.classList.toggle("now", Boolean(now) && b.classList.contains(now)));
    this.markSeen();
  }

  toggle(what) {
    const p = this.picture;
    p[what] = !p[what];
    if (what === "showBoxes") localStorage.setItem("boxes", p.showBoxes ? "on" : "off");
    if (what === "showHeat") localStorage.setItem("heat", p.showHeat ? "on" : "off");
    if (what === "drawing" && p.drawing) { p.showBoxes = true; p.chosen = -1; }
    p.draw();
    for (const [id, on] of [["tool-boxes", p.showBoxes], ["tool-grid", p.showGrid], ["tool-heat", p.showHeat], ["tool-draw", p.drawing]]) document.getElementById(id)?.setAttribute("aria-pressed", String(on));
  }

  choose(i, look) {
    this.picture.chosen = i;
    if (look && i >= 0) this.picture.focus(i);
    this.drawSide();
    if (i >= 0) this.side.querySelector(".finding.on")?.scrollIntoView({ block: "nearest" });
  }

  edit(boxes) {
    this.boxes = boxes.map((b, i) => (i === this.picture.chosen ? { label: b.label, severity: b.severity, bbox_px: b.bbox_px, mine: true } : b));
    this.drawSide();
  }

  relabel(i, change) {
    const boxes = [...this.truth()];
    boxes[i] = { ...boxes[i], ...change, grade: undefined, mine: true };
    this.boxes = boxes;
    this.drawSide();
  }

  remove(i) {
    this.boxes = this.truth().filter((_, k) => k !== i);
    this.picture.chosen = -1;
    this.drawSide();
  }

  drawn(bbox_px) {
    const label = this.lastLabel || this.data.known_labels[0] || "defect";
    this.boxes = [...this.truth(), { label, severity: "major", bbox_px, mine: true }];
    this.picture.drawing = false;
    this.picture.chosen = this.boxes.length - 1;
    this.drawSide();
    document.getElementById("tool-draw")?.setAttribute("aria-pressed", "false");
  }

  /// Says that the part is good or not; against the model it needs a reason.
  say(to) {
    const d = this.data;
    if (this.deciding) return;
    if (!this.isSeen) return this.tooEarly();
    if (d.verdict === "review" || d.verdict === to) return this.decide(to, "");
    sheet(t("why"), (close) => {
      const other = h("input", { placeholder: t("r_other"), maxlength: 500, id: "reason" });
      const go = (reason, falseAlarm) => {
        close();
        // The page may show another part by now: this reason is not about that one.
        if (this.data !== d && this.data?.id !== d.id) return;
        if (falseAlarm && !this.boxes) this.boxes = [];
        this.decide(to, reason);
      };
      return h("form.body", { onsubmit: (e) => { e.preventDefault(); if (other.value.trim()) go(other.value.trim()); } }, h("p.quiet", {}, t("whyHint")),
        h("div.choices", {}, QUICK[d.verdict].map((key, i) => h("button.button", { type: "button", autofocus: i === 0, "data-reason": key, onclick: () => go(t(key), key === "r_false") }, h("kbd", {}, i + 1), t(key)))),
        h("div.row2", {}, other, h("button.primary", { id: "reason-go" }, t("save"))));
    });
    const dialog = document.querySelector("dialog.sheet");
    dialog?.addEventListener("keydown", (e) => { if (!e.repeat && e.target.tagName !== "INPUT" && /^[123]$/.test(e.key)) dialog.querySelectorAll(".choices button")[e.key - 1]?.click(); });
  }

  tooEarly() { toast(t("notSeen"), null, "bad"); }

  async decide(verdict, reason, stay, unseen) {
    if (this.deciding || !may("operator")) return;
    const d = this.data;
    if (!this.isSeen) return this.tooEarly();
    if (!this.hasPicture && !unseen) return this.withoutPicture(() => { if (this.data?.id === d.id) this.decide(verdict, reason, stay, true); });
    under = this.send(d, verdict, reason, stay, unseen);
    await under;
  }

  async send(d, verdict, reason, stay, unseen) {
    const bare = (f) => ({ label: f.label, severity: f.severity, bbox_px: f.bbox_px });
    const body = { verdict, reason, based_on: d.last_review, findings: (this.boxes || this.effective?.findings)?.map(bare) ?? null, texts: this.texts || this.effective?.texts || null, without_picture: Boolean(unseen) };
    this.deciding = true;
    try {
      const review = await post(`/api/v1/inspections/${d.id}/reviews`, body);
      made.push({ actor: state.me.name, id: d.id, seq: review.seq, name: d.part_id || `#${d.seq}` });
      this.lastLabel = this.boxes?.at(-1)?.label || this.lastLabel;
      this.boxes = this.texts = null;
      this.note = null;
      toast(`${d.part_id || "#" + d.seq}: ${t(review.verdict)}`, [t("undo"), () => this.takeBack(d.id, review.seq)]);
      await this.show(d.id, true);
      if (!stay && this.id === d.id) await this.queue.next(this.data);
    } catch (refused) {
      await this.refused(refused, d.id);
    } finally {
      this.deciding = false;
    }
  }

  /// Nobody decides by accident about a picture that is not there.
  withoutPicture(go) {
    sheet(t(this.data.image ? `picture_${this.data.picture}` : "noImage"), (close) => h("div.body", {}, h("p", {}, t("unseenHint")),
      h("div.end", {}, h("button", { type: "button", autofocus: true, onclick: close }, t("cancel")), h("button.danger", { type: "button", id: "unseen", onclick: () => { close(); go(); } }, t("unseen")))));
  }

  undo() {
    if (!this.data?.decision) return toast(t("nothingToUndo"));
    return this.takeBack(this.data.id, this.data.last_review);
  }

  async takeBack(id, basedOn) {
    const at = made.findIndex((m) => m.id === id && m.seq === basedOn);
    if (at >= 0) made.splice(at, 1);
    try {
      await post(`/api/v1/inspections/${id}/undo`, { reason: "", based_on: basedOn });
      toast(t("undone"));
      if (this.id === id) await this.show(id, true);
      else this.queue.open(id, false);
    } catch (refused) {
      await this.refused(refused, id);
    }
  }

  async refused(refused, id) {
    if (refused.code === "picture" && this.id === id) await this.show(id, true);
    if (refused.code !== "changed") return toast(`${t("failed")}: ${refused.message}`, null, "bad");
    toast(`${this.data?.part_id || ""} ${t("changed")}`, null, "bad");
    if (this.id === id) await this.show(id, true);
  }

  /// Somebody decided about the open part: here, or another person elsewhere.
  async changed(item) {
    if (this.deciding || !this.data || item.last_review === this.data.last_review) return;
    this.note = item.decision ? `${t("changedBy")} ${item.decision.actor}` : null;
    await this.show(item.id, true);
    this.view.classList.add("flash");
    setTimeout(() => this.view.classList.remove("flash"), 1200);
  }

  /// A key that is held repeats: then it only looks closer.
  key(key, isHeld) {
    if (!this.data) return false;
    const p = this.picture;
    if (key === "+" || key === "=") p.zoom(1.5);
    else if (key === "-") p.zoom(1 / 1.5);
    else if (isHeld) return false;
    else if (key === "y" && may("operator")) this.say("pass");
    else if (key === "n" && may("operator")) this.say("fail");
    else if (key === "b") this.toggle("showBoxes");
    else if (key === "g") this.toggle("showGrid");
    else if (key === "h" && p.heat) this.toggle("showHeat");
    else if (key === "d" && may("operator")) this.toggle("drawing");
    else if (key === "f") p.fit();
    else if (key === "Delete" && p.chosen >= 0 && may("operator")) this.remove(p.chosen);
    else if (key === "Escape" && (p.drawing || p.chosen >= 0)) { p.drawing = false; this.choose(-1); }
    else if (/^[1-9]$/.test(key) && p.boxes[key - 1]) this.choose(key - 1, true);
    else return false;
    return true;
  }
}

/// Takes back the last decision of this page, whatever is shown; `queue`: the one that is shown, if one is.
export async function takeBackLast(queue) {
  await under;
  const last = made.filter((m) => m.actor === state.me.name).at(-1);
  if (!last) {
    // After a reload it is not known any more: then one's own decision about the part that is open.
    const part = queue?.part;
    return part?.data?.decision?.actor === state.me.name ? part.undo() : toast(t("nothingToUndo"));
  }
  if (queue) return queue.part.takeBack(last.id, last.seq);
  made.splice(made.indexOf(last), 1);
  await post(`/api/v1/inspections/${last.id}/undo`, { reason: "", based_on: last.seq });
  toast(`${last.name}: ${t("undone")}`);
}

/// Two texts side by side: for each the pieces [same, character], aligned by the fewest edits.
export function differ(a, b) {
  const [n, m] = [a.length, b.length];
  if (n * m > 250000) return [[[a === b, a]], [[a === b, b]]];
  const cost = Array.from({ length: n + 1 }, (_, i) => { const row = new Uint16Array(m + 1); row[0] = i; return row; });
  for (let j = 0; j <= m; j++) cost[0][j] = j;
  for (let i = 1; i <= n; i++) for (let j = 1; j <= m; j++) cost[i][j] = Math.min(cost[i - 1][j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1), cost[i - 1][j] + 1, cost[i][j - 1] + 1);
  const [left, right] = [[], []];
  let [i, j] = [n, m];
  while (i || j) {
    if (i && j && cost[i][j] === cost[i - 1][j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1)) { i--; j--; left.unshift([a[i] === b[j], a[i]]); right.unshift([a[i] === b[j], b[j]]); }
    else if (i && cost[i][j] === cost[i - 1][j] + 1) left.unshift([false, a[--i]]);
    else right.unshift([false, b[--j]]);
  }
  return [left, right];
}

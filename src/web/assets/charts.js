// Charts that are read at a glance, as SVG; /api/v1/charts has the numbers.

import { get, query } from "./api.js";
import { h, replace, svg } from "./dom.js";
import { label, number, percent, t, when } from "./words.js";
import { params, setParams } from "./main.js";
import { studies } from "./blind.js";

const [W, H, L, R, T, B] = [640, 220, 56, 16, 12, 26];
const RANGES = { h1: 3600, h8: 8 * 3600, d1: 86400, d7: 7 * 86400, everything: null };

export async function charts(main) {
  const given = params();
  const range = RANGES[given.range] !== undefined ? given.range : "everything";
  const from = RANGES[range] ? new Date(Date.now() - RANGES[range] * 1000).toISOString() : "";
  const [data, facets, study, blinds] = await Promise.all([get("/api/v1/charts?" + query({ from, pipeline: given.pipeline })), get("/api/v1/facets"), get("/api/v1/agreement?" + query({ from, pipeline: given.pipeline })), get("/api/v1/blind")]);
  const set = (values) => { setParams({ view: "charts", ...given, ...values }, false); charts(main); };
  const a = data.agreement;
  const decided = data.buckets.reduce((n, b) => n + b.pass + b.fail + b.review, 0);
  const passed = data.buckets.filter((b) => b.yield !== null);
  const weight = passed.reduce((n, b) => n + b.pass + b.fail, 0);
  const mean = weight ? passed.reduce((n, b) => n + b.yield * (b.pass + b.fail), 0) / weight : null;
  const tile = (label, value, hint) => h("div.tile", { title: hint || "" }, h("small", {}, label), h("strong", {}, value));
  replace(main, h("div.sheetlike.wide", {},
    h("div.chips", {}, Object.keys(RANGES).map((r) => h("button.chip", { "aria-pressed": String(r === range), onclick: () => set({ range: r }) }, t(r))),
      facets.pipelines.length > 1 && h("select", { "aria-label": t("pipeline"), onchange: (e) => set({ pipeline: e.target.value }) }, h("option", { value: "" }, `${t("pipeline")}: ${t("all")}`), facets.pipelines.map((p) => h("option", { value: p.name, selected: p.name === given.pipeline }, p.name))),
      h("button.chip", { id: "to-report", onclick: () => { setParams({ view: "report", from, pipeline: given.pipeline }, true); dispatchEvent(new PopStateEvent("popstate")); } }, t("report"))),
    h("div.tiles", {}, tile(t("inspections"), number(decided)), tile(t("yield"), percent(mean, 1), t("yieldHint")), tile("p95", `${number(data.latency_ms.p95)} ms`, t("lat")), tile(t("agreement"), percent(a.share, 1)), tile(t("undecided"), number(facets.undecided))),
    h("div.charts", {},
      card(t("yield"), t("yieldHint"), yields(data)),
      data.p_charts.map((p) => card(`${t("pchart")} · ${p.pipeline}`, alarms(p), pChart(p))),
      card(t("pareto"), "", pareto(data.pareto)),
      card(t("lat"), ["p50", "p90", "p95", "p99", "max"].map((k) => `${k} ${number(data.latency_ms[k])} ms`).join("  ·  "), latency(data)),
      card(t("agreement"), a.share === null ? "–" : `${percent(a.share, 1)} ${t("agreed")}`, matrix(a)),
      card(t("msa"), t("msaHint"), agreement(study)),
      card(t("b_studies"), t("b_studiesHint"), studies(blinds, given.pipeline, () => charts(main))))));
}

function card(title, hint, chart) {
  return h("section.card", {}, h("h2", {}, title), h("p.quiet", {}, hint), chart);
}

function alarms(p) {
  const few = `${t("alarmsUnknown")} (${p.points_enough} / ${p.points_needed})`;
  if (!p.alarms.length) return [`${t("mean")} ${percent(p.mean, 1)} · `, h("span", { class: `state ${p.state}`, title: p.state === "unknown" ? t("fewHint") : "" }, p.state === "in_control" ? t("alarmsNone") : few)];
  const one = (x) => h("span.alarm", {}, `${x.kind === "run" ? x.count + " " : ""}${t("a_" + x.kind)} · ${when(x.at_ms)}`);
  return [`${t("mean")} ${percent(p.mean, 1)} `, p.alarms.slice(0, 3).map(one)];
}

const frame = (label, ...inner) => svg("svg", { viewBox: `0 0 ${W} ${H}`, class: "chart", role: "img", "aria-label": label }, ...inner);
const y = (v, top) => T + (H - T - B) * (1 - v / (top || 1));
/// The step between marks of an axis: a number that people count in, 3 to 6 of them up to the top.
const step = (v) => { const p = 10 ** Math.floor(Math.log10((v || 1) / 5)); return [1, 2, 5, 10].map((k) => k * p).find((k) => v / k <= 5.001) || v / 5; };
/// The top of an axis: the first mark that nothing exceeds.
const nice = (v) => Math.ceil(v / step(v) - 1e-9) * step(v);
/// A share with as many digits as its step needs.
const share = (top) => (v) => percent(v, step(top) < 0.0099 ? (step(top) < 0.00099 ? 2 : 1) : 0);

function axes(top, say, times) {
  const marks = Array.from({ length: Math.round(top / step(top)) + 1 }, (_, i) => i * step(top));
  const lines = marks.map((v) => [svg("line", { x1: L, x2: W - R, y1: y(v, top), y2: y(v, top), class: "rule" }), svg("text", { x: L - 6, y: y(v, top) + 4, class: "tick end" }, say(v))]);
  const n = times.length;
  const ticks = whole(times).map(([i, text]) => [svg("line", { x1: x(i, n), x2: x(i, n), y1: H - B, y2: H - B + 4, class: "rule" }), svg("text", { x: x(i, n), y: H - 8, class: "tick mid" }, text)]);
  return [lines, ticks];
}
const x = (i, n) => L + ((W - L - R) * (i + 0.5)) / Math.max(1, n);

/// The places that are named on an axis of times: where a whole minute, hour or day begins, at most seven of them;
/// the first of a day has its date.
function whole(times) {
  if (!times.length) return [];
  const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 10080, 43200].map((m) => m * 6e4);
  const span = times.at(-1) - times[0];
  const every = STEPS.find((k) => span / k <= 6) || span / 6;
  const local = (ms) => ms - new Date(ms).getTimezoneOffset() * 6e4;
  const named = times.map((ms, i) => [ms, i]).filter(([ms, i]) => i === 0 || Math.floor(local(ms) / every) > Math.floor(local(times[i - 1]) / every));
  // The first point is seldom a whole one: it gives way to one that is near.
  if (named.length > 1 && named[1][1] - named[0][1] < times.length / 9) named.shift();
  let last = "";
  const locale = document.documentElement.lang;
  return named.map(([ms, i]) => {
    const d = new Date(ms);
    const date = d.toLocaleDateString(locale, { month: "short", day: "numeric" });
    const time = d.toLocaleTimeString(locale, { hour: "2-digit", minute: "2-digit", second: span < 12e4 ? "2-digit" : undefined, hourCycle: "h23" });
    const text = every >= 864e5 ? date : span > 72e6 && date !== last ? `${date} ${time}` : time;
    last = date;
    return [i, text];
  });
}
/// A line through points [x, y, place]; where places are missing the line is, too.
const path = (points, cls) => svg("path", { class: cls, d: points.map(([px, py, at], i) => `${i && !(at - points[i - 1][2] > 1) ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("") });
/// A time with the unit of its whole axis.
const lasting = (top) => (v) => (top >= 10000 ? `${number(v / 1000)} s` : `${number(v)} ms`);

function yields(data) {
  const b = data.buckets;
  const n = b.length;
  const w = Math.max(1, ((W - L - R) / Math.max(1, n)) * 0.72);
  const most = nice(Math.max(1, ...b.map((k) => k.pass + k.fail + k.review)));
  const bar = (k, i) => {
    let at = 0;
    return ["pass", "review", "fail"].map((v) => { const y1 = y(at + k[v], most); const y0 = y(at, most); at += k[v]; return k[v] ? svg("rect", { x: x(i, n) - w / 2, y: y1, width: w, height: y0 - y1, class: "bar " + v }, svg("title", {}, `${when(k.at_ms)}: ${k[v]} ${t("v_" + v)}`)) : null; });
  };
  const line = b.map((k, i) => [k.yield, i]).filter(([v]) => v !== null).map(([v, i]) => [x(i, n), y(v, 1), i]);
  return frame(t("yield"), axes(1, (v) => percent(v), b.map((k) => k.at_ms)), svg("g", { class: "soft" }, b.map(bar)), path(line, "line main"), line.length < 60 ? line.map(([cx, cy]) => svg("circle", { cx, cy, r: 2.6, class: "dot" })) : null);
}

function pChart(p) {
  const n = p.points.length;
  const top = Math.min(1, nice(Math.max(0.05, ...p.points.map((k) => Math.max(k.share, Math.min(k.upper, p.mean * 2.5))))));
  const clip = (v) => Math.min(v, top);
  const limit = (key) => path(p.points.map((k, i) => [x(i, n), y(clip(k[key]), top)]), "line limit");
  const centre = svg("line", { x1: L, x2: W - R, y1: y(p.mean, top), y2: y(p.mean, top), class: "line centre" });
  const dots = p.points.map((k, i) => svg("circle", { cx: x(i, n), cy: y(clip(k.share), top), r: k.outside ? 5 : 3, class: k.outside ? "dot out" : "dot" }, svg("title", {}, `${when(k.at_ms)}: ${k.rejected} / ${k.parts} = ${percent(k.share, 1)} (${percent(k.lower, 1)} – ${percent(k.upper, 1)})`)));
  return frame(t("pchart"), axes(top, share(top), p.points.map((k) => k.at_ms)), limit("upper"), limit("lower"), centre, path(p.points.map((k, i) => [x(i, n), y(clip(k.share), top)]), "line main thin"), dots);
}

function pareto(all) {
  if (!all.length) return h("p.empty", {}, "–");
  const shown = all.slice(0, 10);
  const most = shown[0].parts;
  return h("div.pareto", {}, shown.map((k) => [h("span.label", {}, label(k.label)), h("span.track", {}, h("i", { style: `width:${(k.parts / most) * 100}%` })), h("span.ms", {}, number(k.parts)), h("span.quiet.ms", {}, percent(k.cumulative))]));
}

function latency(data) {
  const b = data.buckets;
  const n = b.length;
  const top = nice(Math.max(1, ...b.map((k) => k.latency_p95_ms || 0)));
  const line = (key) => b.map((k, i) => [k[key], i]).filter(([v]) => v !== null).map(([v, i]) => [x(i, n), y(v, top), i]);
  const last = line("latency_p95_ms").at(-1);
  const low = line("latency_p50_ms").at(-1);
  return frame(t("lat"), axes(top, lasting(top), b.map((k) => k.at_ms)), path(line("latency_p95_ms"), "line limit"), path(line("latency_p50_ms"), "line main"),
    last && svg("text", { x: last[0] - 4, y: last[1] - 6, class: "tick end" }, "p95"), low && svg("text", { x: low[0] - 4, y: Math.max(low[1], last[1] + 12) - 6, class: "tick end" }, "p50"));
}

function matrix(a) {
  const cell = (n, good) => h("td", { class: n ? (good ? "good" : "bad") : "" }, number(n));
  const row = (v, passes, fails) => h("tr", {}, h("th", {}, `${t("model")}: ${t("v_" + v)}`), cell(passes, v !== "fail"), cell(fails, v !== "pass"));
  return h("table.matrix", {}, h("thead", {}, h("tr", {}, h("th"), h("th", {}, `${t("person")}: ${t("v_pass")}`), h("th", {}, `${t("person")}: ${t("v_fail")}`))), h("tbody", {}, row("pass", a.pass_pass, a.pass_fail), row("fail", a.fail_pass, a.fail_fail), row("review", a.review_pass, a.review_fail)));
}

/// People and the model about the same parts, two by two, and the two people with the most parts together with it.
function agreement(study) {
  const name = (rater) => rater || t("model");
  const kappa = (k) => (k === null ? "–" : `${number(k, 2)} · ${t(k >= 0.75 ? "k_good" : k >= 0.4 ? "k_fair" : "k_poor")}`);
  const line = (raters, parts, agreed, k) => h("tr", { class: parts < study.parts_enough ? "few" : "" }, h("th", {}, raters.map(name).join(" – ")), h("td", {}, number(parts)), h("td", {}, percent(agreed / parts, 1)), h("td", {}, parts < study.parts_enough ? `${k === null ? "–" : number(k, 2)} · ${t("tooFew")}` : kappa(k)));
  if (!study.pairs.length) return h("p.empty", {}, t("msaNone"));
  const together = study.together;
  return h("table.study", {}, h("thead", {}, h("tr", {}, h("th"), h("th", {}, t("partsBoth")), h("th", {}, t("agreed")), h("th", {}, "κ"))),
    h("tbody", {}, together && line(together.raters, together.parts, together.agreed, together.kappa), study.pairs.map((p) => line([p.a, p.b], p.parts, p.agreed, p.kappa))));
}

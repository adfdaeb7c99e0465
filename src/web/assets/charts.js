// Charts that are read at a glance, as SVG; /api/v1/charts has the numbers.

import { get, query } from "./api.js";
import { h, replace, svg } from "./dom.js";
import { number, percent, t, when } from "./words.js";
import { params, setParams } from "./main.js";

const [W, H, L, R, T, B] = [640, 220, 46, 12, 12, 26];
const RANGES = { h1: 3600, h8: 8 * 3600, d1: 86400, d7: 7 * 86400, everything: null };

export async function charts(main) {
  const given = params();
  const range = RANGES[given.range] !== undefined ? given.range : "everything";
  const from = RANGES[range] ? new Date(Date.now() - RANGES[range] * 1000).toISOString() : "";
  const [data, facets] = await Promise.all([get("/api/v1/charts?" + query({ from, pipeline: given.pipeline })), get("/api/v1/facets")]);
  const set = (values) => { setParams({ view: "charts", ...given, ...values }, false); charts(main); };
  const a = data.agreement;
  const decided = data.buckets.reduce((n, b) => n + b.pass + b.fail + b.review, 0);
  const passed = data.buckets.filter((b) => b.yield !== null);
  const weight = passed.reduce((n, b) => n + b.pass + b.fail, 0);
  const mean = weight ? passed.reduce((n, b) => n + b.yield * (b.pass + b.fail), 0) / weight : null;
  const tile = (label, value, hint) => h("div.tile", { title: hint || "" }, h("small", {}, label), h("strong", {}, value));
  replace(main, h("div.sheetlike.wide", {},
    h("div.chips", {}, Object.keys(RANGES).map((r) => h("button.chip", { "aria-pressed": String(r === range), onclick: () => set({ range: r }) }, t(r))),
      facets.pipelines.length > 1 && h("select", { "aria-label": t("pipeline"), onchange: (e) => set({ pipeline: e.target.value }) }, h("option", { value: "" }, `${t("pipeline")}: ${t("all")}`), facets.pipelines.map((p) => h("option", { value: p.name, selected: p.name === given.pipeline }, p.name)))),
    h("div.tiles", {}, tile(t("inspections"), number(decided)), tile(t("yield"), percent(mean, 1), t("yieldHint")), tile("p95", `${number(data.latency_ms.p95)} ms`, t("lat")), tile(t("agreement"), percent(a.share, 1)), tile(t("undecided"), number(facets.undecided))),
    h("div.charts", {},
      card(t("yield"), t("yieldHint"), yields(data)),
      data.p_charts.map((p) => card(`${t("pchart")} · ${p.pipeline}`, alarms(p), pChart(p))),
      card(t("pareto"), "", pareto(data.pareto)),
      card(t("lat"), ["p50", "p90", "p95", "p99", "max"].map((k) => `${k} ${number(data.latency_ms[k])} ms`).join("  ·  "), latency(data)),
      card(t("agreement"), a.share === null ? "–" : `${percent(a.share, 1)} ${t("agreed")}`, matrix(a)))));
}

function card(title, hint, chart) {
  return h("section.card", {}, h("h2", {}, title), h("p.quiet", {}, hint), chart);
}

function alarms(p) {
  if (!p.alarms.length) return `${t("mean")} ${percent(p.mean, 1)} · ${t("alarmsNone")}`;
  const one = (x) => h("span.alarm", {}, `${x.kind === "run" ? x.count + " " : ""}${t("a_" + x.kind)} · ${when(x.at_ms)}`);
  return [`${t("mean")} ${percent(p.mean, 1)} `, p.alarms.slice(0, 3).map(one)];
}

const frame = (label, ...inner) => svg("svg", { viewBox: `0 0 ${W} ${H}`, class: "chart", role: "img", "aria-label": label }, ...inner);
const y = (v, top) => T + (H - T - B) * (1 - v / (top || 1));
const nice = (v) => { const p = 10 ** Math.floor(Math.log10(v || 1)); return [1, 2, 2.5, 5, 10].map((k) => k * p).find((k) => k >= v) || v; };

function axes(top, say, times) {
  const lines = [0, 0.25, 0.5, 0.75, 1].map((f) => [svg("line", { x1: L, x2: W - R, y1: y(f * top, top), y2: y(f * top, top), class: "rule" }), svg("text", { x: L - 6, y: y(f * top, top) + 4, class: "tick end" }, say(f * top))]);
  const n = times.length;
  const step = Math.max(1, Math.ceil(n / 5));
  const ticks = times.map((ms, i) => (i % step ? null : svg("text", { x: x(i, n), y: H - 8, class: "tick mid" }, shortTime(ms, times))));
  return [lines, ticks];
}
const x = (i, n) => L + ((W - L - R) * (i + 0.5)) / Math.max(1, n);
function shortTime(ms, times) {
  const d = new Date(ms);
  return times.at(-1) - times[0] > 36e5 * 30 ? `${d.getMonth() + 1}/${d.getDate()}` : `${String(d.getHours()).padStart(2, "0")}:${String(d.getMinutes()).padStart(2, "0")}`;
}
/// A line through points [x, y, place]; where places are missing the line is, too.
const path = (points, cls) => svg("path", { class: cls, d: points.map(([px, py, at], i) => `${i && !(at - points[i - 1][2] > 1) ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("") });
const ms = (v) => (v >= 10000 ? `${number(v / 1000)} s` : number(v));

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
  return frame(t("pchart"), axes(top, (v) => percent(v), p.points.map((k) => k.at_ms)), limit("upper"), limit("lower"), centre, path(p.points.map((k, i) => [x(i, n), y(clip(k.share), top)]), "line main thin"), dots);
}

function pareto(all) {
  if (!all.length) return h("p.empty", {}, "–");
  const shown = all.slice(0, 10);
  const most = shown[0].parts;
  return h("div.pareto", {}, shown.map((k) => [h("span.label", {}, k.label), h("span.track", {}, h("i", { style: `width:${(k.parts / most) * 100}%` })), h("span.ms", {}, number(k.parts)), h("span.quiet.ms", {}, percent(k.cumulative))]));
}

function latency(data) {
  const b = data.buckets;
  const n = b.length;
  const top = nice(Math.max(1, ...b.map((k) => k.latency_p95_ms || 0)));
  const line = (key) => b.map((k, i) => [k[key], i]).filter(([v]) => v !== null).map(([v, i]) => [x(i, n), y(v, top), i]);
  const last = line("latency_p95_ms").at(-1);
  const low = line("latency_p50_ms").at(-1);
  return frame(t("lat"), axes(top, ms, b.map((k) => k.at_ms)), path(line("latency_p95_ms"), "line limit"), path(line("latency_p50_ms"), "line main"),
    last && svg("text", { x: last[0] - 4, y: last[1] - 6, class: "tick end" }, "p95"), low && svg("text", { x: low[0] - 4, y: low[1] - 6, class: "tick end" }, "p50"));
}

function matrix(a) {
  const cell = (n, good) => h("td", { class: n ? (good ? "good" : "bad") : "" }, number(n));
  const row = (v, passes, fails) => h("tr", {}, h("th", {}, `${t("model")}: ${t("v_" + v)}`), cell(passes, v !== "fail"), cell(fails, v !== "pass"));
  return h("table.matrix", {}, h("thead", {}, h("tr", {}, h("th"), h("th", {}, `${t("person")}: ${t("v_pass")}`), h("th", {}, `${t("person")}: ${t("v_fail")}`))), h("tbody", {}, row("pass", a.pass_pass, a.pass_fail), row("fail", a.fail_pass, a.fail_fail), row("review", a.review_pass, a.review_fail)));
}

// A shift or a lot on paper: what /api/v1/report says, in a form that the browser prints or saves as PDF.

import { get, query } from "./api.js";
import { h, replace } from "./dom.js";
import { clock, label, number, percent, reasonLine, t } from "./words.js";
import { params, setParams } from "./main.js";

const SHIFT_MS = 8 * 36e5;
const date = (at) => new Date(at).toLocaleString(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short", hourCycle: "h23" });
const share = (n, of) => (of ? percent(n / of, 1) : "–");

export async function report(main) {
  const given = params();
  const from = given.from || new Date(Date.now() - SHIFT_MS).toISOString();
  const set = (values) => { setParams({ view: "report", from: given.from, to: given.to, lot: given.lot, pipeline: given.pipeline, ...values }, false); report(main); };
  const [data, facets, me] = await Promise.all([
    get("/api/v1/report?" + query({ from, to: given.to, lot: given.lot, pipeline: given.pipeline })).catch((refused) => ({ refused })),
    get("/api/v1/facets"), get("/api/v1/me")]);
  const local = (iso) => { if (!iso) return ""; const d = new Date(iso); return new Date(d - d.getTimezoneOffset() * 60000).toISOString().slice(0, 16); };
  const time = (key, value) => h("label", {}, h("span", {}, t(key)), h("input", { type: "datetime-local", name: key, value: local(value), onchange: (e) => set({ [key]: e.target.value ? new Date(e.target.value).toISOString() : "" }) }));
  const choice = (key, name, options) => h("label", {}, h("span", {}, t(name)), h("select", { name: key, onchange: (e) => set({ [key]: e.target.value }) }, h("option", { value: "" }, t("any")), options.map(([value, text]) => h("option", { value, selected: given[key] === value }, text))));
  const tools = h("form.report-tools", { onsubmit: (e) => e.preventDefault() },
    time("from", from), time("to", given.to), choice("lot", "lot", (data.lots || []).map((l) => [l.lot, `${l.lot} (${number(l.inspected)})`])), choice("pipeline", "pipeline", facets.pipelines.map((p) => [p.name, p.name])),
    h("button.primary", { type: "button", id: "print", onclick: () => print() }, t("print")));
  const sheet = data.refused ? h("p.error", { role: "alert" }, data.refused.message) : paper(data, { ...given, from }, me.name);
  replace(main, h("div.sheetlike.reporting", {}, tools, sheet));
}

function paper(d, asked, by) {
  const all = d.all;
  const figure = (name, value, part) => h("div.tile", {}, h("small", {}, t(name)), h("strong", {}, number(value)), h("small", {}, part));
  const counts = (c) => [c.inspected, c.passed, c.rejected, c.open, c.decided, c.overridden].map((n) => h("td.n", {}, number(n)));
  const heads = ["inspections", "v_pass", "v_fail", "open", "decided", "overrides"].map((k) => h("th.n", {}, t(k)));
  return h("article.paper", {},
    h("header", {}, h("h1", {}, asked.lot ? `${t("lotReport")}: ${asked.lot}` : t("shiftReport")), h("p.quiet", {}, `${date(asked.from)} – ${date(asked.to || d.made_at)}`, asked.pipeline ? ` · ${asked.pipeline}` : "")),
    !d.complete && h("p.banner", {}, t("partial")),
    d.unreadable > 0 && h("p.banner", {}, `${number(d.unreadable)} ${t("unreadable")}`),
    h("div.tiles", {}, figure("inspections", all.inspected, d.first_at ? `${clock(d.first_at)} – ${clock(d.last_at)}` : ""), figure("v_pass", all.passed, share(all.passed, all.passed + all.rejected)), figure("v_fail", all.rejected, share(all.rejected, all.passed + all.rejected)), figure("open", all.open, ""), figure("decided", all.decided, `${t("overrides")}: ${number(all.overridden)}`)),
    h("h2", {}, t("byLine")),
    h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, t("camera")), h("th", {}, t("recipe")), heads)), h("tbody", {}, d.lines.map((l) => h("tr", {}, h("td", {}, l.camera), h("td", {}, `${l.pipeline}@${l.version}`), counts(l))))),
    all.unseen > 0 && h("p.bad", {}, `${t("unseenCount")}: ${number(all.unseen)}`),
    h("h2", {}, t("pareto")),
    d.labels.length ? h("table", {}, h("tbody", {}, d.labels.map((k) => h("tr", {}, h("td", {}, label(k.label)), h("td.n", {}, number(k.parts)), h("td.n", {}, share(k.parts, all.inspected)))))) : h("p.quiet", {}, t("noFindings")),
    h("h2", {}, t("listed")),
    d.listed.length ? h("table.listed", {}, h("thead", {}, h("tr", {}, h("th", {}, t("part")), h("th", {}, t("lot")), h("th", {}, t("camera")), h("th", {}, t("verdict")), h("th", {}, t("findings")), h("th", {}, t("person")))), h("tbody", {}, d.listed.map(listed))) : h("p.quiet", {}, "–"),
    d.unlisted > 0 && h("p.quiet", {}, `+ ${number(d.unlisted)}`),
    h("footer", {}, h("p.quiet", {}, `${t("madeBy")} ${by}, ${date(d.made_at)}`), h("p.sign", {}, h("span", {}, t("signature")))));
}

function listed(i) {
  const decided = i.decided ? `${t("v_" + i.decided)} · ${i.by}${i.why ? ` · ${i.why}` : ""}` : "";
  return h("tr", {}, h("td", {}, h("a", { href: `/?id=${encodeURIComponent(i.id)}` }, i.part_id || `#${i.seq}`), h("small.quiet", {}, ` ${clock(i.at)}`)), h("td", {}, i.lot || ""), h("td", {}, i.camera), h("td", {}, `${t("v_" + i.verdict)}${i.reason ? ` · ${reasonLine(i.reason)}` : ""}`), h("td", {}, i.labels.map(label).join(", ")), h("td", {}, decided));
}

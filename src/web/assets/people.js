// Accounts, tokens, and messages that the broker has not taken.

import { del, get, post } from "./api.js";
import { h, icon, replace, sheet, toast } from "./dom.js";
import { t, when } from "./words.js";

const ROLES = ["viewer", "operator", "engineer"];
// Tokens alone ask the model.
const OF_TOKENS = [...ROLES, "model"];
const roles = (role, change, all = ROLES) => h("select", { name: "role", onchange: change, "aria-label": t("role") }, all.map((r) => h("option", { value: r, selected: r === role }, t(r))));

export async function people(main) {
  const [accounts, tokens, outbox] = await Promise.all([get("/api/v1/accounts"), get("/api/v1/tokens"), get("/api/v1/outbox")]);
  const again = () => people(main);
  const tried = async (work) => {
    try { await work(); again(); } catch (refused) { toast(refused.message, null, "bad"); again(); }
  };
  const gone = (path) => h("button.plain", { "aria-label": t("remove"), onclick: () => tried(() => del(path)) }, icon("trash"));
  const account = (a) => h("tr", {}, h("td", {}, h("strong", {}, a.name)), h("td", {}, a.damaged ? h("span.bad", {}, t("damagedAccount")) : roles(a.role, (e) => tried(() => post("/api/v1/accounts", { name: a.name, role: e.target.value })))),
    h("td.quiet", {}, !a.damaged && when(a.created_at)), h("td", {}, gone(`/api/v1/accounts/${encodeURIComponent(a.name)}`)));
  const token = (k) => h("tr", {}, h("td", {}, h("strong", {}, k.name)), h("td", {}, t(k.role)), h("td.quiet", {}, `${when(k.created_at)} · ${k.created_by}`), h("td", {}, gone(`/api/v1/tokens/${encodeURIComponent(k.name)}`)));
  const letter = (l) => h("tr", {}, h("td", {}, h("strong", {}, `${l.kind} ${l.seq}`), outbox.sinks.length > 1 ? h("span.quiet", {}, ` ${l.sink}`) : null), h("td", {}, l.reason), h("td.quiet", {}, when(l.at)));
  const sink = (s) => h("tr", {}, h("td", {}, h("strong", {}, s.name)), h("td", {}, `${t("owed")}: ${s.result + s.part + s.review}`), h("td.quiet", {}, s.connected ? "✓" : "–"));
  const retry = () => tried(async () => { await post("/api/v1/commands/retry"); toast(t("retried")); });
  const form = (fields, send) => {
    const f = h("form.inline", { onsubmit: (e) => { e.preventDefault(); tried(() => send(Object.fromEntries(new FormData(f)))); } }, fields, h("button.primary", {}, t("add")));
    return f;
  };
  replace(main, h("div.sheetlike", {},
    h("section.card", {}, h("h2", {}, t("accounts")), h("table", {}, h("tbody", {}, accounts.map(account))),
      form([h("input", { name: "name", placeholder: t("name"), required: true, autocomplete: "off" }), h("input", { name: "password", type: "password", placeholder: t("newPassword"), minlength: 8, required: true, autocomplete: "new-password" }), roles("operator")], (v) => post("/api/v1/accounts", v))),
    h("section.card", {}, h("h2", {}, t("tokens")), h("table", {}, h("tbody", {}, tokens.map(token))),
      form([h("input", { name: "name", placeholder: t("newToken"), required: true, autocomplete: "off" }), roles("viewer", null, OF_TOKENS)], async (v) => {
        const made = await post("/api/v1/tokens", v);
        sheet(made.name, () => h("div.body", {}, h("p", {}, t("tokenOnce")), h("code.secret", {}, made.token), h("button.primary", { onclick: () => navigator.clipboard?.writeText(made.token) }, t("copy"))));
      })),
    h("section.card", {}, h("h2", {}, t("outbox")), h("p", {}, `${t("owed")}: ${outbox.owed} · ${t("givenUp")}: ${outbox.dead}`),
      outbox.sinks.length > 1 ? h("table", {}, h("tbody", {}, outbox.sinks.map(sink))) : null,
      h("table", {}, h("tbody", {}, outbox.letters.map(letter))), h("button.primary", { onclick: retry }, t("retry")))));
}

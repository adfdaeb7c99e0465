// Learn: what the box can learn from confirmed parts, what pictures are judged by, and what learning gave.
//
//   GET /api/v1/learn --> a card each: confirmed parts, banks, the job under way or the last one's figures
//   Learn --> POST --> looking, learning, proving --> a version of the recipe: its steps, before and after, roll back

import { del, get, post } from "./api.js";
import { h, replace, toast } from "./dom.js";
import { may } from "./main.js";
import { activate, details } from "./recipes.js";
import { number, t, when } from "./words.js";

const EVERY_MS = 1500;
const path = (pipeline) => `/api/v1/learn/${encodeURIComponent(pipeline)}`;

/// What can be learned, for as long as `main` shows it.
export async function learn(main) {
  let shown = "";
  const look = async () => {
    const all = await get("/api/v1/learn").catch(() => null);
    if (main.dataset.view !== "learn" || !main.isConnected) return;
    const now = JSON.stringify(all);
    if (all && now !== shown) replace(main, h("div.sheetlike", {}, newProduct(), all.filter((one) => one.active).map((one) => card(one, refresh))));
    shown = all ? now : shown;
  };
  const refresh = () => look();
  while (main.dataset.view === "learn" && main.isConnected) {
    await look();
    await new Promise((go) => setTimeout(go, EVERY_MS));
  }
}

const newProduct = () => may("engineer") && h("a.button.new-product", { href: "/?view=product" }, t("np_new"));

function card(one, again) {
  const count = (n, word) => `${number(n)} ${t(word)}`;
  return h("section.card.learn", { "data-learn": one.pipeline, "data-busy": Boolean(one.job) },
    h("h2", {}, one.pipeline),
    h("p.have", {}, `${t("l_confirmed")}: ${count(one.good, "l_good")} · ${count(one.bad, "l_bad")}`),
    !one.is_enough ? h("p.quiet", {}, `${t("l_needed")} ${one.good_min}`) : one.good < one.good_few && h("p.quiet", {}, `${t("l_few")} ${one.good_few}`),
    one.banks.map((bank) => shownBank(one, bank, again)),
    one.banks.length === 0 && h("p.quiet", {}, t("l_noBank")),
    !one.is_gated && h("p.quiet.ungated", {}, t("l_noGate")),
    one.job ? progress(one, again) : one.banks.length === 0 && start(one, null, again),
    one.last && outcome(one, again));
}

function shownBank(one, bank, again) {
  const facts = [t(`l_${bank.features}`), `${number(bank.good)} ${t("l_good")}`, `${number(bank.bad)} ${t("l_bad")}`, when(bank.at)];
  return h("div.bank", { "data-bank": bank.sha256 },
    h("p", {}, h("strong", {}, t("l_judgedBy")), " ", h("code", { title: bank.sha256 }, `${bank.file} ${bank.sha256.slice(0, 12)}`), h("span.quiet", {}, ` ${facts.join(" · ")}`)),
    !one.job && start(one, bank, again));
}

/// The button, for those who may; without a bank one says whose features are compared.
function start(one, bank, again) {
  if (!may("engineer")) return null;
  const features = bank ? null : h("select", { name: "features", "aria-label": t("l_features") }, ["backbone", "tower"].map((word) => h("option", { value: word }, t(`l_${word}`))));
  const go = async () => {
    const wanted = bank ? { what: "references", prompt: bank.prompt } : { what: "references", features: features.value };
    try { await post(path(one.pipeline), wanted); } catch (refused) { toast(refused.message, null, "bad"); }
    again();
  };
  return h("div.inline", {}, features, h("button.primary.start", { disabled: !one.is_enough, onclick: go }, t(bank ? "l_again" : "learn")));
}

export function progress(one, again) {
  const { step, done, total, by } = one.job;
  const cancel = async () => {
    try { await del(path(one.pipeline)); } catch (refused) { toast(refused.message, null, "bad"); }
    again();
  };
  return h("div.progress", { role: "status", "data-step": step },
    h("span", {}, `${t(`l_${step}`)}${total ? ` ${number(done)}/${number(total)}` : "…"} · ${by}`),
    h("progress", total ? { value: done, max: total } : {}),
    may("engineer") && h("div.inline", {}, h("button.cancel", { onclick: cancel }, t("cancel"))));
}

export function outcome(one, again) {
  const { end, reason, version, figures, left_out: some, left_out_count: count, at, by } = one.last;
  const word = end === "active" ? "good" : end === "cancelled" ? "" : "bad";
  return h("div.came", { "data-end": end },
    h("p", {}, h("strong", { class: word }, t(`l_end_${end}`)), version && h("code", {}, ` ${version}`), h("span.quiet", {}, ` ${when(at)} · ${by}`)),
    reason && h("p.reason", {}, reason),
    figures && shownFigures(figures),
    count > 0 && h("details", {}, h("summary", {}, `${number(count)} ${t("l_leftOut")}`),
      h("ul", {}, some.map((part) => h("li", {}, h("a", { href: `/?id=${encodeURIComponent(part.id)}` }, part.id), ` ${part.reason}`)))),
    version && h("div.inline", {},
      h("button.details", { onclick: () => details(one.pipeline, version) }, t("l_steps")),
      end === "active" && one.active === version && may("engineer") && h("button.rollback", { onclick: () => rollBack(one, again) }, t("l_rollBack"))));
}

function shownFigures({ good, bad, auroc, alarmed, found, notes }) {
  const facts = [
    [t("l_good"), `${number(good)} · ${number(alarmed)} ${t("l_alarmed")}`],
    [t("l_bad"), `${number(bad)} · ${number(found)} ${t("l_found")}`],
    bad > 0 && ["AUROC", number(auroc, 3)],
  ];
  return h("div.well", {},
    h("dl", {}, facts.filter(Boolean).map(([term, value]) => [h("dt", {}, term), h("dd", {}, value)])),
    notes.map((note) => h("p.quiet", {}, note)));
}

/// Back to the version that was active before; the reason stays in the ledger.
async function rollBack(one, again) {
  const all = await get("/api/v1/recipes");
  const versions = all.find((recipe) => recipe.pipeline === one.pipeline)?.versions || [];
  const former = versions.find((version) => version.was_active && version.version !== one.active);
  if (former) activate(one.pipeline, former, again);
  else toast(t("l_noFormer"), null, "bad");
}

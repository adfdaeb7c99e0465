// Learn: what the box can learn from confirmed parts, what pictures are judged by, and what learning gave.
//
//   GET /api/v1/learn --> a card each: confirmed parts, banks and heads, the job under way or the last one's figures
//   Learn --> POST --> looking, learning, proving --> a version of the recipe: its steps, before and after, roll back

import { del, get, post } from "./api.js";
import { h, replace, toast } from "./dom.js";
import { may } from "./main.js";
import { poll } from "./poll.js";
import { activate, details } from "./recipes.js";
import { thresholds } from "./thresholds.js";
import { number, t, when } from "./words.js";

const EVERY_MS = 1500;
const path = (pipeline) => `/api/v1/learn/${encodeURIComponent(pipeline)}`;

/// What can be learned: the word of requests, what is active of it, and what it needs.
const KINDS = [
  {
    what: "references", spec: "div.lesson.bank", mark: "data-bank", none: "l_noBank", active: (one) => one.banks, isEnough: (one) => one.is_enough,
    needs: (one) => (!one.is_enough ? `${t("l_needed")} ${one.good_min}` : one.good < one.good_few && `${t("l_few")} ${one.good_few}`),
  },
  {
    what: "head", spec: "div.lesson", mark: "data-head", none: "l_noHead", active: (one) => one.heads, isEnough: (one) => one.is_enough_for_head,
    needs: (one) => (!one.is_enough_for_head ? `${t("l_neededEach")} ${one.kind_min}` : Math.min(one.good, one.bad) < one.kind_few && `${t("l_fewEach")} ${one.kind_few}`),
  },
];

/// What can be learned, for as long as `main` shows it.
export async function learn(main) {
  let shown = "";
  const look = async (signal) => {
    const all = await get("/api/v1/learn", signal);
    if (main.dataset.view !== "learn" || !main.isConnected) return;
    const now = JSON.stringify(all);
    if (now !== shown) replace(main, h("div.sheetlike", {}, newProduct(), all.filter((one) => one.active).map((one) => card(one, refresh))));
    shown = now;
  };
  // Where it does not come the next look says so.
  const refresh = () => look().catch(() => {});
  await poll(main, "learn", EVERY_MS, look);
}

const newProduct = () => may("engineer") && h("a.button.new-product", { href: "/?view=product" }, t("np_new"));

function card(one, again) {
  const count = (n, word) => `${number(n)} ${t(word)}`;
  return h("section.card.learn", { "data-learn": one.pipeline, "data-busy": Boolean(one.job) },
    h("h2", {}, one.pipeline),
    h("p.have", {}, `${t("l_confirmed")}: ${count(one.good, "l_good")} · ${count(one.bad, "l_bad")}`),
    !one.is_gated && h("p.quiet.ungated", {}, t("l_noGate")),
    KINDS.map((kind) => shownKind(one, kind, again)),
    one.job && progress(one, again),
    one.last && outcome(one, again),
    may("engineer") && thresholds(one.pipeline));
}

function shownKind(one, kind, again) {
  const active = kind.active(one), needs = kind.needs(one);
  return h("div.kind", { "data-what": kind.what },
    h("h3", {}, t(`l_${kind.what}`)),
    needs && h("p.quiet", {}, needs),
    active.map((lesson) => shownLesson(one, kind, lesson, again)),
    active.length === 0 && h("p.quiet", {}, t(kind.none)),
    active.length === 0 && !one.job && start(one, kind, null, again));
}

function shownLesson(one, kind, lesson, again) {
  const facts = [t(`l_${lesson.features}`), `${number(lesson.good)} ${t("l_good")}`, `${number(lesson.bad)} ${t("l_bad")}`, lesson.labels.join(", "), when(lesson.at)];
  return h(kind.spec, { [kind.mark]: lesson.sha256 },
    h("p", {}, h("strong", {}, t("l_judgedBy")), " ", h("code", { title: lesson.sha256 }, `${lesson.file} ${lesson.sha256.slice(0, 12)}`), h("span.quiet", {}, ` ${facts.join(" · ")}`)),
    !one.job && start(one, kind, lesson, again));
}

/// The button, for those who may; where nothing of the kind is active, one says whose features are looked at.
function start(one, kind, lesson, again) {
  if (!may("engineer")) return null;
  const features = lesson ? null : h("select", { name: "features", "aria-label": t("l_features") }, ["backbone", "tower"].map((word) => h("option", { value: word }, t(`l_${word}`))));
  const go = async () => {
    const wanted = lesson ? { what: kind.what, prompt: lesson.prompt } : { what: kind.what, features: features.value };
    try { await post(path(one.pipeline), wanted); } catch (refused) { toast(refused.message, null, "bad"); }
    again();
  };
  return h("div.inline", {}, features, h("button.primary.start", { disabled: !kind.isEnough(one), onclick: go }, t(lesson ? "l_again" : "learn")));
}

export function progress(one, again) {
  const { what, step, done, total, by } = one.job;
  const cancel = async () => {
    try { await del(path(one.pipeline)); } catch (refused) { toast(refused.message, null, "bad"); }
    again();
  };
  return h("div.progress", { role: "status", "data-step": step, "data-of": what },
    h("span", {}, `${t(`l_${what}`)} · ${t(`l_${step}`)}${total ? ` ${number(done)}/${number(total)}` : "…"} · ${by}`),
    h("progress", total ? { value: done, max: total } : {}),
    may("engineer") && h("div.inline", {}, h("button.cancel", { onclick: cancel }, t("cancel"))));
}

export function outcome(one, again) {
  const { what, end, reason, version, figures, left_out: some, left_out_count: count, at, by } = one.last;
  const word = end === "active" ? "good" : end === "cancelled" ? "" : "bad";
  return h("div.came", { "data-end": end, "data-of": what },
    h("p", {}, h("strong", { class: word }, t(`l_end_${end}`)), ` ${t(`l_${what}`)}`, version && h("code", {}, ` ${version}`), h("span.quiet", {}, ` ${when(at)} · ${by}`)),
    reason && h("p.reason", {}, reason),
    figures && shownFigures(what, figures),
    count > 0 && h("details", {}, h("summary", {}, `${number(count)} ${t("l_leftOut")}`),
      h("ul", {}, some.map((part) => h("li", {}, h("a", { href: `/?id=${encodeURIComponent(part.id)}` }, part.id), ` ${part.reason}`)))),
    version && h("div.inline", {},
      h("button.details", { onclick: () => details(one.pipeline, version) }, t("l_steps")),
      end === "active" && one.active === version && may("engineer") && h("button.rollback", { onclick: () => rollBack(one, again) }, t("l_rollBack"))));
}

/// The figures, and in one sentence what they are measured on.
function shownFigures(what, { good, bad, auroc, alarmed, found, folds, lots, with_boxes: boxed, labels, notes }) {
  const isHead = what === "head";
  const facts = [
    [t("l_good"), `${number(good)} · ${number(alarmed)} ${t(isHead ? "l_alarmedKept" : "l_alarmed")}`],
    [t("l_bad"), `${number(bad)} · ${number(found)} ${t("l_found")}`],
    bad > 0 && ["AUROC", number(auroc, 3)],
    isHead && [t("l_folds"), number(folds)],
    isHead && boxed > 0 && [t("l_boxed"), number(boxed)],
    ...labels.map((known) => [known.label, `${number(known.parts)} ${t("parts")} · AUROC ${number(known.auroc, 3)}`]),
  ];
  const on = isHead ? (lots === null ? "l_on_singly" : "l_on_head") : "l_on_references";
  return h("div.well", {},
    h("dl", {}, facts.filter(Boolean).map(([term, value]) => [h("dt", {}, term), h("dd", {}, value)])),
    h("p.quiet.measured", { "data-on": on }, `${t(on)} ${t("l_replayed")}`),
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

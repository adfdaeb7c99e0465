// Blind studies: who started which, how far people are, how far they agree; and a round, picture after picture.
//
//   GET …/blind/{id}/part --> the picture alone --good or bad, once it has been seen--> POST …/answers --> the next
//
// Neither the model's word nor anybody else's is asked for here, and what is said is no review.

import { del, get, post, query } from "./api.js";
import { h, icon, replace, toast } from "./dom.js";
import { may, params, state } from "./main.js";
import { Picture } from "./picture.js";
import { number, percent, t, when } from "./words.js";

const ROUNDS_MAX = 3;
const path = (id, rest) => `/api/v1/blind/${encodeURIComponent(id)}${rest}`;

/// All studies, and a form for another one; `again` shows them anew.
export function studies(all, pipeline, again) {
  const tried = async (work) => {
    try { await work(); again(); } catch (refused) { toast(refused.message, null, "bad"); }
  };
  const parts = h("input", { name: "parts", type: "number", min: 10, max: 100, value: 50, required: true, "aria-label": t("parts") });
  const form = h("form.inline", { onsubmit: (e) => { e.preventDefault(); tried(() => post("/api/v1/blind", { parts: Number(parts.value), pipeline: pipeline || null })); } }, parts, h("button.primary#blind-start", {}, t("b_start")));
  return h("div.blinds", {}, all.map((one) => study(one, tried)), !all.length && h("p.quiet", {}, t("b_none")), may("engineer") && form);
}

function study(one, tried) {
  const mine = one.raters.filter((r) => r.name === state.me.name);
  const round = Math.max(1, ...mine.map((r) => r.round));
  const link = (n, words) => h("a.button", { href: "/?" + query({ view: "blind", study: one.id, round: n }), "data-round": n }, words);
  // The server says where a round is not done yet.
  const go = may("operator") && h("div.inline", {}, link(round, `${t("b_judge")} (${round})`), mine.length > 0 && round < ROUNDS_MAX && link(round + 1, t("b_again")));
  const said = one.raters.map((r) => `${r.name} (${r.round}): ${number(r.parts)} / ${number(one.parts)}`);
  return h("section.blind", { "data-study": one.id },
    h("p", {}, h("strong", {}, `${number(one.parts)} ${t("parts")}`), h("span.quiet", {}, ` ${when(one.at)} · ${one.by}`),
      may("engineer") && h("button.plain", { "aria-label": t("remove"), onclick: () => confirm(`${t("b_remove")}?`) && tried(() => del(path(one.id, ""))) }, icon("trash"))),
    said.length > 0 && h("p.quiet", {}, said.join(" · ")), go, one.pairs.length > 0 && figures(one));
}

function figures(one) {
  const name = (p) => `${p.a} – ${p.a === p.b ? `${p.a} (${p.rounds.join(", ")})` : p.b || t("model")}`;
  const kappa = (p) => (p.kappa === null ? "–" : `${number(p.kappa, 2)}${p.kappa_interval ? ` (${p.kappa_interval.map((x) => number(x, 2)).join(" … ")})` : ""}`);
  const share = ({ value, low, high }) => `${percent(value, 1)} (${percent(low, 1)} … ${percent(high, 1)})`;
  const row = (p) => h("tr", { class: p.parts < one.parts_enough ? "few" : "" }, h("th", {}, name(p)), h("td", {}, `${number(p.agreed)} / ${number(p.parts)}`), h("td", {}, share(p.share)), h("td", {}, kappa(p), p.parts < one.parts_enough && ` · ${t("tooFew")}`));
  return h("table.study", {}, h("thead", {}, h("tr", {}, h("th"), h("th", {}, t("agreed")), h("th", {}, t("b_share")), h("th", {}, t("b_kappa")))), h("tbody", {}, one.pairs.map(row)));
}

/// A round of one's own, for as long as `main` shows it.
export async function blind(main) {
  const { study: id, round = "1" } = params();
  let [part, seen, sending] = [null, false, false];
  const [count, error, stage, foot] = [h("p.quiet#blind-count"), h("p.error", { role: "alert" }), h("div.look"), h("footer.decide")];
  const mark = (is) => {
    seen = is;
    foot.classList.toggle("seen", is);
    foot.querySelectorAll(".big").forEach((b) => b.setAttribute("aria-disabled", String(!is)));
  };
  const failed = (refused) => { error.textContent = refused.message; };
  const picture = new Picture({ choose: () => {}, edit: () => {}, draw: () => {}, painted: (key) => mark(key === part), lost: () => { error.textContent = t("pictureLost"); } });
  [picture.showBoxes, picture.showHeat, picture.drawing] = [false, false, false];
  const next = async () => {
    mark(false);
    const now = await get(path(id, `/part?${query({ round })}`));
    part = now.part;
    count.textContent = `${number(now.decided)} / ${number(now.parts)} · ${t("b_round")} ${now.round}`;
    foot.hidden = part === null;
    if (part === null) replace(stage, h("p.empty#blind-done", {}, t("b_done")));
    else picture.show(`/api/v1/images/${now.image}`, 0, 0, part);
  };
  const say = async (verdict) => {
    if (part === null || sending) return;
    if (!seen) return toast(t("notSeen"), null, "bad");
    sending = true;
    error.textContent = "";
    try {
      await post(path(id, "/answers"), { round: Number(round), part, verdict });
      await next();
    } catch (refused) { failed(refused); }
    sending = false;
  };
  const button = (verdict, key, words) => h("button.big", { class: `big ${verdict}`, "data-say": verdict, onclick: () => say(verdict) }, icon(verdict), h("span", {}, t(words)), h("kbd", {}, key));
  replace(foot, h("div.buttons", {}, button("pass", "y", "goodPart"), button("fail", "n", "badPart")));
  replace(stage, picture.stage);
  replace(main, h("section.blind-round", {}, h("header", {}, h("a.button", { href: "/?view=charts" }, icon("back"), t("charts")), count), h("p.quiet", {}, t("b_hint")), error, stage, foot));
  state.keys = (key, isHeld) => {
    if (isHeld || main.dataset.view !== "blind") return false;
    if (key === "y") say("pass");
    else if (key === "n") say("fail");
    else if (key === "f") picture.fit();
    else return false;
    return true;
  };
  await next().catch(failed);
}

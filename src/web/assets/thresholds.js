// Thresholds: which limits on the score keep a promise about defective parts, by what people have decided.
//
//   escape, confidence --GET /api/v1/thresholds/{pipeline}--> proven, or what these decisions prove and what it takes
//
// Nothing is changed here: the lines go into the pipeline file, and its new version through the gate.

import { get, query } from "./api.js";
import { h, replace, toast } from "./dom.js";
import { number, percent, t } from "./words.js";

/// What was asked for and found last, by pipeline: a card is drawn anew while somebody reads it.
const known = new Map();

/// The part of a recipe's card.
export function thresholds(pipeline) {
  const state = known.get(pipeline) || { escape: "1", confidence: "95", found: null, open: false };
  known.set(pipeline, state);
  const came = h("div.came");
  const field = (name, low, high) => h("input", { name, type: "number", min: low, max: high, step: "any", required: true, value: state[name], oninput: (event) => { state[name] = event.target.value; } });
  const look = async (event) => {
    event.preventDefault();
    const asked = query({ escape: Number(state.escape) / 100, confidence: Number(state.confidence) / 100 });
    try { state.found = await get(`/api/v1/thresholds/${encodeURIComponent(pipeline)}?${asked}`); } catch (refused) { toast(refused.message, null, "bad"); return; }
    replace(came, shown(state.found));
  };
  if (state.found) replace(came, shown(state.found));
  return h("details.thresholds", { open: state.open, ontoggle: (event) => { state.open = event.target.open; } },
    h("summary", {}, t("th")),
    h("p.quiet", {}, t("th_hint")),
    h("form.inline", { onsubmit: look },
      h("label", {}, `${t("th_escape")} % `, field("escape", "0.001", "50")),
      h("label", {}, `${t("th_confidence")} % `, field("confidence", "50", "99.9999")),
      h("button.primary", { type: "submit" }, t("th_look"))),
    came);
}

/// A share of a hundred with the digits that say something.
const share = (x) => percent(x, x > 0 && x < 0.1 ? 3 : 1);

function shown(found) {
  const { proven, escape, confidence, review_above_score: review, fail_above_score: fail, passed, others } = found;
  const facts = [
    [t("th_parts"), `${number(found.defective)} ${t("l_bad")} · ${number(found.good)} ${t("l_good")}`],
    [t("th_escaped"), `${number(found.escapes)} / ${number(found.defective)}`],
    [t("th_decided"), `${t("pass")} ${number(passed.decided)} / ${number(passed.inspected)} · ${t("th_others")} ${number(others.decided)} / ${number(others.inspected)}`],
    proven && [t("th_limits"), [review < 1 && `${t("review")} > ${review}`, fail !== null && `${t("fail")} > ${fail}`].filter(Boolean).join(" · ") || t("th_none")],
    proven && [t("th_review"), `${share(found.review_share)} · ${t("l_good")}: ${share(found.review_share_of_good)}`],
    proven && [t("th_ofAll"), share(found.escape_of_all)],
    !proven && [t("th_best"), share(found.best_bound)],
    ...found.needed.map((one) => [`${t("th_needed")} ${share(one.escape)}`, `${number(one.defective)} (+${number(Math.max(0, one.defective - found.defective))})`]),
  ];
  const promise = `${t("th_escape")} ≤ ${share(escape)} · ${t("th_confidence")} ${share(confidence)}`;
  return h("div.well", { "data-proven": String(proven) },
    h("p", {}, h("strong", { class: proven ? "good" : "bad" }, t(proven ? "th_proven" : "th_unproven")), ` ${promise}`),
    h("dl", {}, facts.filter(Boolean).map(([term, value]) => [h("dt", {}, term), h("dd", {}, value)])),
    found.thinned > 0 && h("p.quiet", {}, `${number(found.thinned)} ${t("th_thinned")}`),
    found.stated && h("p.quiet", {}, `${t("th_stated")}: ≤ ${share(found.stated.escape)} · ${share(found.stated.confidence)}`),
    found.toml && h("pre.toml", {}, found.toml),
    h("p.quiet", {}, t("th_assumes")));
}

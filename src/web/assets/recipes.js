// Recipes: which version is active, what became of the others, and the parts that a version would lose.
//
//   GET /api/v1/recipes --> a card each: versions, the replay that goes on
//   a version --> its entries in the ledger --> figures, lost parts and alarms: before and now, side by side

import { get, post, query } from "./api.js";
import { h, replace, sheet, svg, toast } from "./dom.js";
import { may } from "./main.js";
import { poll } from "./poll.js";
import { t, when } from "./words.js";

const EVERY_MS = 2000;
const path = (pipeline, rest) => `/api/v1/recipes/${encodeURIComponent(pipeline)}/${rest}`;

/// The recipes, for as long as `main` shows them.
export async function recipes(main) {
  let shown = "";
  const look = async (signal) => {
    const all = await get("/api/v1/recipes", signal);
    if (main.dataset.view !== "recipes" || !main.isConnected) return;
    const now = JSON.stringify(all);
    if (now !== shown) replace(main, h("div.sheetlike", {}, all.map((one) => card(one, again))));
    shown = now;
  };
  // Where it does not come the next look says so.
  const again = () => look().catch(() => {});
  await poll(main, "recipes", EVERY_MS, look);
}

function card(recipe, again) {
  const replay = recipe.replay;
  return h("section.card", { "data-recipe": recipe.pipeline }, h("h2", {}, recipe.pipeline),
    replay && h("p.progress", { role: "status" }, h("span", {}, `${t("replaying")} ${replay.version}: ${replay.done}/${replay.total}`),
      h("progress", { value: replay.done, max: replay.total || 1 })),
    h("table", {}, h("tbody", {}, recipe.versions.map((version) => row(recipe, version, again)))));
}

function row(recipe, version, again) {
  const isActive = version.version === recipe.active;
  const word = isActive ? "s_active" : version.step === "active" ? "s_former" : `s_${version.step}`;
  return h("tr", { "data-version": version.version, "data-step": isActive ? "active" : version.step },
    h("td", {}, h("code", {}, version.version)),
    h("td", {}, h("strong", { class: isActive ? "good" : version.step === "refused" ? "bad" : "" }, t(word))),
    h("td.quiet", {}, `${when(version.at)} · ${version.by}`),
    h("td", {}, h("button.plain.details", { onclick: () => details(recipe.pipeline, version.version) }, t("details"))),
    h("td", {}, !isActive && may("engineer") && h("button.plain.activate", { onclick: () => activate(recipe.pipeline, version, again) }, t("makeActive"))));
}

/// Asks for the reason, which stays in the ledger.
export function activate(pipeline, version, again) {
  sheet(`${t("makeActive")}: ${pipeline} ${version.version}`, (close) => {
    const error = h("p.error", { role: "alert" });
    const reason = h("input", { name: "reason", required: true, maxlength: 500, "aria-label": t("why"), placeholder: t("why") });
    return h("form.body", {
      onsubmit: async (e) => {
        e.preventDefault();
        try {
          await post(path(pipeline, "active"), { version: version.version, reason: reason.value });
          close();
          toast(`${pipeline} ${version.version}: ${t("s_active")}`);
          again();
        } catch (refused) { error.textContent = refused.message; }
      },
    }, h("p", {}, t(version.was_active ? "rollbackHint" : "overrideHint")), reason, error, h("button.primary", { type: "submit" }, t("makeActive")));
  });
}

/// What the ledger says about one version.
export async function details(pipeline, version) {
  const all = await get(`${path(pipeline, "ledger")}?${query({ limit: 200 })}`);
  const entries = all.filter((entry) => entry.version === version);
  const [text, files] = [h("pre.recipe", {}), h("p.files", {})];
  const at = path(pipeline, `versions/${encodeURIComponent(version)}`);
  fetch(at).then(async (answer) => {
    if (!answer.ok) return;
    text.textContent = await answer.text();
    // What the version judges by beside its text.
    const names = [...text.textContent.matchAll(/^(?:bank|head|adapter) = "([^"]+)"/gm)].map((found) => found[1]);
    replace(files, names.map((name) => h("a", { href: `${at}/files/${encodeURIComponent(name)}`, download: name }, `${name} `)));
  });
  sheet(`${pipeline} ${version}`, () => h("div.body.ledger", {},
    entries.map((entry) => h("article", { "data-step": entry.step },
      h("p", {}, h("strong", {}, t(`s_${entry.step}`)), entry.is_override && ` (${t("overridden")})`, h("span.quiet", {}, ` ${when(entry.at)} · ${entry.by}`)),
      entry.reason && h("p.reason", {}, entry.reason),
      entry.made_of.length > 0 && h("details.made-of", {}, h("summary", {}, `${t("np_madeOf")} ${entry.made_of.length}`),
        h("ul", {}, entry.made_of.map((part) => h("li", {}, h("a", { href: `/?id=${encodeURIComponent(part.id)}` }, part.id))))),
      entry.replay && shownReplay(entry.replay))),
    h("details", {}, h("summary", {}, t("recipeText")), files, text)));
}

const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)} %`);

function shownReplay(replay) {
  const image = replay.figures.image || {};
  const facts = [
    `${replay.parts} ${t("parts")}`, replay.left_out && `${replay.left_out} ${t("leftOut")}`, `${t("sample")} ${replay.sample}`,
    `${t("recall")} ${percent(image.recall)}`, `${t("lost")} ${replay.lost_count}`, `${t("newAlarms")} ${replay.alarms_count}`,
    replay.figures.skipped && `${t("skipped")} ${replay.figures.skipped.tiles} (${t("lost")} ${replay.figures.skipped.lost})`,
  ];
  return h("div.replay", {}, h("p", {}, facts.filter(Boolean).join(" · ")),
    replay.lost.length > 0 && parts(t("lostHint"), replay.lost, replay.lost_count),
    replay.alarms.length > 0 && parts(t("alarmsHint"), replay.alarms, replay.alarms_count));
}

function parts(title, list, count) {
  return h("section.changed", {}, h("h3", {}, `${title} (${count})`), list.map(pair));
}

/// One part twice: with what its record found, and with what the version found.
function pair(part) {
  const [before, now] = [h("figure", {}), h("figure", {})];
  const box = h("div.pair", { "data-part": part.id }, before, now);
  get(`/api/v1/inspections/${encodeURIComponent(part.id)}`).then((detail) => {
    show(before, detail.image, detail.boxes, `${t("before")}: ${part.was}`, part.id);
    show(now, detail.image, part.findings, `${t("now")}: ${part.now}`, part.id);
  }, () => replace(box, h("p.quiet", {}, t("noImage"))));
  return box;
}

function show(figure, image, findings, words, id) {
  if (!image) return replace(figure, h("p.quiet", {}, t("noImage")));
  const marks = svg("svg", { class: "marks", preserveAspectRatio: "none" });
  const picture = h("img", {
    src: `/api/v1/images/${image}`, alt: "", loading: "lazy",
    onload: (e) => {
      const { naturalWidth: width, naturalHeight: height } = e.target;
      marks.setAttribute("viewBox", `0 0 ${width} ${height}`);
      for (const finding of findings) {
        const [x0, y0, x1, y1] = finding.bbox_px;
        marks.append(svg("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0 }));
      }
    },
  });
  const labels = findings.map((finding) => finding.label).join(", ");
  return replace(figure, h("a.frame", { href: `/?id=${encodeURIComponent(id)}` }, picture, marks), h("figcaption", {}, `${words}${labels && ` · ${labels}`}`));
}

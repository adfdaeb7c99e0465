// The line of cameras: what each is inspected by, whether it is paused or in fault, and on whose word. Below it what is
// risky about the recipes that they run, as `inspectd check` says it.

import { get } from "./api.js";
import { h, replace } from "./dom.js";
import { may } from "./main.js";
import { t } from "./words.js";

const EVERY_MS = 5000;
let timer = null;
// Recipes whose warnings somebody has opened or closed.
const opened = new Map();

const by = (who) => who && `${t("by")} ${who}`.trim();

function one(c) {
  const said = [c.pipeline || t("noPipeline"), by(c.pipeline_by)];
  if (c.paused) said.push(t("paused"), by(c.paused_by));
  if (c.state !== "ready") said.push(t(`c_${c.state}`), c.reason);
  const title = [c.pipeline && `${c.pipeline}@${c.pipeline_version}`, c.since && new Date(c.since).toLocaleString()].filter(Boolean).join(" · ");
  const kind = c.state === "fault" ? "fault" : c.paused ? "paused" : "";
  return h("span.camera", { class: `camera ${kind}`, title, "data-camera": c.id }, h("strong", {}, c.id), h("span", {}, said.filter(Boolean).join(" · ")));
}

const warning = (w) => h("li", {},
  h("code", {}, `${w.file}:${w.line}`), h("code", {}, w.value ? `${w.key} = ${w.value}` : w.key), h("span", {}, w.message));

/// What lies open or closed, as somebody has left it.
const fold = (props, key, open, words, warnings) => h("details", { ...props, open: opened.get(key) ?? open, ontoggle: (e) => opened.set(key, e.target.open) },
  h("summary", {}, `${words} · ${warnings.length}`), h("ul", {}, warnings.map(warning)));

/// The warnings about one recipe, and the cameras that run it. They lie open for who can change it.
function risk({ pipeline, pipeline_version, warnings, ids }) {
  return fold({ "data-recipe": pipeline }, `${pipeline}@${pipeline_version}`, may("engineer"), `${t("risky")}: ${pipeline} (${ids.join(", ")})`, warnings);
}

/// The warnings about the config, which only an engineer can change.
const ofConfig = (warnings) => fold({ "data-config": "" }, "config", true, t("riskyConfig"), warnings);

/// Shows the cameras in `line` and the warnings in `risks` for as long as they are on the page; those about the config
/// `withConfig`. It is read once a start, and so are its warnings.
export function cameras(line, risks, withConfig) {
  clearInterval(timer);
  let shown = "";
  let config = withConfig ? null : [];
  const look = async () => {
    if (!line.isConnected) return clearInterval(timer);
    // Without an answer the page's own sign says that it is not live.
    const all = await get("/api/v1/cameras").catch(() => null);
    if (!all) return;
    config ??= await get("/api/v1/config/warnings").catch(() => null);
    replace(line, all.map(one));
    const recipes = new Map();
    for (const c of all.filter((c) => c.warnings.length)) {
      if (!recipes.has(c.pipeline)) recipes.set(c.pipeline, { ...c, ids: [] });
      recipes.get(c.pipeline).ids.push(c.id);
    }
    const now = JSON.stringify([config, [...recipes.values()].map((r) => [r.pipeline, r.pipeline_version, r.warnings, r.ids])]);
    // What somebody reads stays where it is.
    if (now !== shown) replace(risks, config?.length > 0 && ofConfig(config), [...recipes.values()].map(risk));
    shown = now;
  };
  timer = setInterval(look, EVERY_MS);
  look();
}

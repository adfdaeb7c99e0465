// The line of cameras: what each is inspected by, whether it is paused or in fault, and on whose word.

import { get } from "./api.js";
import { h, replace } from "./dom.js";
import { t } from "./words.js";

const EVERY_MS = 5000;
let timer = null;

const by = (who) => who && `${t("by")} ${who}`.trim();

function one(c) {
  const said = [c.pipeline || t("noPipeline"), by(c.pipeline_by)];
  if (c.paused) said.push(t("paused"), by(c.paused_by));
  if (c.state !== "ready") said.push(t(`c_${c.state}`), c.reason);
  const title = [c.pipeline && `${c.pipeline}@${c.pipeline_version}`, c.since && new Date(c.since).toLocaleString()].filter(Boolean).join(" · ");
  const kind = c.state === "fault" ? "fault" : c.paused ? "paused" : "";
  return h("span.camera", { class: `camera ${kind}`, title, "data-camera": c.id }, h("strong", {}, c.id), h("span", {}, said.filter(Boolean).join(" · ")));
}

/// Shows the cameras in `node` for as long as it is on the page.
export function cameras(node) {
  clearInterval(timer);
  const look = async () => {
    if (!node.isConnected) return clearInterval(timer);
    // Without an answer the page's own sign says that it is not live.
    const all = await get("/api/v1/cameras").catch(() => null);
    if (all) replace(node, all.map(one));
  };
  timer = setInterval(look, EVERY_MS);
  look();
}

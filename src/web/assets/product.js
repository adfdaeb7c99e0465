// A new product: good parts among the newest pictures of a camera, the region drawn on the newest, a name.
//
//   camera --> its newest pictures, or with [Take] the first 20 from now on --> some left out --> POST /api/v1/products
// No picture is added once 20 are shown: what is sent as good has been looked at here.
//
//   GET /api/v1/learn --> progress, outcome --> the camera is switched to the new recipe by a command

import { get, post, query } from "./api.js";
import { h, replace, toast } from "./dom.js";
import { outcome, progress } from "./learn.js";
import { Picture } from "./picture.js";
import { poll } from "./poll.js";
import { number, t } from "./words.js";

const EVERY_MS = 1500;
const NEWEST = 20;
const MOST = 200;

/// The view, for as long as `main` shows it.
export async function product(main) {
  const out = new Set();
  let [items, after, shown, came, made, region, scale] = [[], null, "", "", null, null, null];
  const field = (word, input) => h("label", {}, h("span", {}, t(word)), input);
  const name = h("input", { name: "product", required: true, maxlength: 64, pattern: "[A-Za-z0-9_\\-]+", autocomplete: "off" });
  const camera = h("select", { name: "camera", onchange: () => { [items, after, shown, scale] = [[], null, "", null]; clear(); again(); } });
  const mm = h("input", { name: "mm", type: "number", min: "0.000001", max: "1000", step: "any", required: true });
  const features = h("select", { name: "features" }, ["backbone", "tower"].map((word) => h("option", { value: word }, t(`l_${word}`))));
  const [count, thumbs, job, error] = [h("p.quiet.count"), h("div.thumbs"), h("div"), h("p.error", { role: "alert" })];
  const where = h("output.quiet.region");
  const mark = (bbox) => {
    region = bbox.map((v) => Math.round(v));
    picture.boxes = [{ bbox_px: region, label: t("np_region"), severity: "minor", mine: true }];
    where.textContent = region.join(", ");
    picture.draw();
  };
  const picture = new Picture({ choose: () => {}, edit: () => {}, draw: mark });
  [picture.drawing, picture.showBoxes, picture.showHeat] = [true, true, false];
  const clear = () => { region = null; picture.boxes = []; where.textContent = t("np_whole"); picture.draw(); };

  const chosen = () => items.filter((one) => !out.has(one.id));
  const draw = () => {
    count.textContent = `${number(chosen().length)} ${t("np_chosen")}`;
    replace(thumbs, items.map((one) => h("button.plain.thumb", {
      type: "button", "data-id": one.id, "aria-pressed": String(!out.has(one.id)), title: one.id,
      onclick: () => { out.delete(one.id) || out.add(one.id); draw(); },
    }, h("img", { src: `/api/v1/thumbs/${one.image}`, alt: one.part_id || one.id, width: 80, height: 66 }))));
  };
  const newest = async (limit, signal) => camera.value ? (await get(`/api/v1/inspections?${query({ camera: camera.value, limit })}`, signal)).items : [];
  // There are none until the station has opened them.
  const choose = async (signal) => {
    if (!camera.options.length) replace(camera, (await get("/api/v1/cameras", signal)).map((c) => h("option", { value: c.id }, c.id)));
  };
  const look = async (signal) => {
    if (after === null ? items.length > 0 : items.length >= NEWEST) return;
    const since = after;
    const all = (await newest(after === null ? NEWEST : MOST, signal)).filter((one) => one.image && (after === null || one.seq > after)).slice(-NEWEST);
    const now = JSON.stringify(all.map((one) => one.id));
    if (now === shown || since !== after) return;
    [items, shown] = [all, now];
    draw();
    if (all.length && !region) picture.show(`/api/v1/images/${all[0].image}`, 0, 0, true);
    if (all.length && scale === null) {
      const known = await get(`/api/v1/inspections/${encodeURIComponent(all[0].id)}`, signal);
      scale = known.mm_per_px;
      if (scale && !mm.value) mm.value = scale;
    }
  };
  const take = async () => { [items, shown, after] = [[], "", (await newest(1))[0]?.seq ?? 0]; out.clear(); again(); };
  // Where it does not come the next look says so.
  const again = () => look().catch(() => {});
  const follow = async (signal) => {
    if (!made) return;
    const one = (await get("/api/v1/learn", signal)).find((other) => other.pipeline === made.name);
    const now = JSON.stringify(one);
    if (!one || now === came) return;
    came = now;
    replace(job, one.job ? progress(one, followed) : one.last && outcome(one, followed),
      !one.job && one.last?.end === "active" && h("button.primary.use", { type: "button", onclick: use }, `${t("np_use")} ${made.camera}`));
  };
  const followed = () => follow().catch(() => {});
  const use = async () => {
    try {
      await post("/api/v1/commands/pipeline", { camera: made.camera, pipeline: made.name });
      toast(`${made.camera}: ${made.name}`);
    } catch (refused) { toast(refused.message, null, "bad"); }
  };
  const make = async (e) => {
    e.preventDefault();
    error.textContent = "";
    try {
      await post("/api/v1/products", { name: name.value, camera: camera.value, inspections: chosen().map((one) => one.id), mm_per_px: Number(mm.value), roi: region, features: features.value });
      [made, came] = [{ name: name.value, camera: camera.value }, ""];
      followed();
    } catch (refused) { error.textContent = refused.message; }
  };

  replace(main, h("div.sheetlike", {}, h("form.card.product", { onsubmit: make },
    h("h2", {}, t("np_new")), h("p.quiet", {}, t("np_hint")),
    h("div.inline", {}, field("camera", camera), h("button.take", { type: "button", onclick: take }, t("np_take"))),
    count, thumbs,
    h("p.quiet", {}, t("np_draw")), h("div.look", {}, picture.stage),
    h("div.inline", {}, where, h("button.plain.whole", { type: "button", onclick: clear }, t("np_whole"))),
    h("div.inline", {}, field("np_name", name), field("np_mm", mm), field("l_features", features)),
    error, h("button.primary.make", { type: "submit" }, t("np_make")), job)));
  clear();
  await poll(main, "product", EVERY_MS, async (signal) => {
    await choose(signal);
    await look(signal);
    await follow(signal);
  });
}

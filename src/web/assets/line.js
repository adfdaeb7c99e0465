// The line: what is wrong and what to do about it, what each camera sees and does, how the station is; and commands.
//
//   GET /api/v1/line, again and again --> alarms, a card a camera, the station's tiles
//   a button --> POST /api/v1/commands/… --> taken, or refused in words at that camera
//
// A card stays as long as its camera, and only its texts change: what somebody is about to press does not go away.

import { get, post } from "./api.js";
import { h, icon, replace, sheet, toast } from "./dom.js";
import { may } from "./main.js";
import { poll } from "./poll.js";
import { isFrozen } from "./pulse.js";
import { clock, number, t, when } from "./words.js";

const EVERY_MS = 1500;
// The station gives an answer again for half a second.
const AFTER_COMMAND_MS = 600;
// A clock that differs by more is shown.
const CLOCK_MS = 5000;
const GB = 1e9;

const say = (node, words) => { if (node.textContent !== words) node.textContent = words; };
const by = (who) => who && `${t("by")} ${who}`.trim();
const joined = (...words) => words.filter(Boolean).join(" · ");
const ms = (x) => `${number(x)} ms`;

/// The view, for as long as `main` shows it.
export function lineView(main) {
  const cards = new Map();
  const shows = () => main.dataset.view === "line" && main.isConnected;
  const [alarms, cams, station, error] = [h("section.card#line-alarms"), h("div.cams"), h("div.tiles#line-station"), h("p.error", { role: "alert" })];
  const refresh = async (signal) => {
    const now = await get("/api/v1/line", signal);
    if (shows()) draw(now);
  };
  // Where it does not come the next look says so.
  const again = () => setTimeout(() => refresh().catch(() => {}), AFTER_COMMAND_MS);
  const all = h("div.press.all", { hidden: true }, may("operator") && ["pause", "resume"].map((verb) =>
    h("button", { "data-command": verb, onclick: () => command(verb, {}, error, again) }, icon(verb), t(`li_${verb}All`))));
  const parts = h("div.press.all#line-parts", { hidden: true });
  replace(main, h("div.sheetlike.wide.lineview", {}, alarms, all, parts, error, cams, station));

  let [told, named] = ["", ""];
  const draw = (now) => {
    const text = JSON.stringify(now.alarms);
    if (text !== told) replace(alarms, alarmList(now.alarms));
    told = text;
    const names = JSON.stringify(now.parts);
    if (names !== named) replace(parts, may("operator") && now.parts.map((part) => triggerOf(part, error, again)));
    named = names;
    parts.hidden = !parts.children.length;
    all.hidden = !all.children.length || now.cameras.length < 2;
    if (!now.cameras.length) replace(cams, h("p.empty", {}, t("li_starting")));
    for (const c of now.cameras) {
      if (!cards.has(c.id)) {
        if (!cards.size) replace(cams);
        cards.set(c.id, card(c.id, again));
        cams.append(cards.get(c.id).node);
      }
      cards.get(c.id).update(c, now);
    }
    replace(station, tiles(now));
  };
  poll(main, "line", EVERY_MS, refresh);
}

/// Triggers all views of one part at once, as the line does.
const triggerOf = (part, error, again) =>
  h("button", { "data-command": "trigger", "data-part": part.name, title: part.cameras.join(", "), onclick: () => command("trigger", { part: part.name }, error, again) },
    icon("trigger"), h("span", {}, `${t("li_trigger")}: ${part.name}`));

function alarmList(alarms) {
  if (!alarms.length) return h("p.none", {}, icon("pass"), t("li_noAlarm"));
  const one = (a) => h("li", { "data-code": a.code },
    h("strong", {}, a.about && `${a.about}: `, a.kind ? t(`al_${a.kind}`) : a.message),
    a.kind && a.message && h("span", {}, a.message),
    h("small.quiet", {}, h("code", {}, a.code), ` · ${when(a.since)}`));
  return [h("h2", {}, icon("bell"), `${t("li_alarms")}: ${alarms.length}`), h("ul", {}, alarms.map(one))];
}

/// One camera: its element, and what brings it up to date.
function card(id, again) {
  let [camera, recipes, picture, last] = [null, [], null, null];
  const [state, why, judged, error] = [h("span.state"), h("ul.why"), h("span.judged"), h("p.error", { role: "alert" })];
  const img = h("img", { alt: `${t("li_newest")}: ${id}`, hidden: true, onerror: () => { img.hidden = true; } });
  const seen = h("a.seen", { "aria-label": `${t("li_newest")}: ${id}` }, img, h("span.nothing", {}, t("li_noPicture")), judged);
  const [recipe, waits, time] = [h("dd"), h("dd"), h("dd")];
  const meter = h("meter", { min: 0, max: 1, "aria-label": t("li_worst") });
  const button = (verb, press) => h("button", { "data-command": verb, onclick: press }, icon(verb), h("span", {}, t(`li_${verb}`)));
  const trigger = button("trigger", () => command("trigger", { camera: id }, error, again));
  const pause = button("pause", () => command(camera.paused ? "resume" : "pause", { camera: id }, error, again));
  const change = button("recipe", () => giveRecipe(camera, recipes, again));
  const node = h("article.cam", { "data-id": id },
    h("header", {}, h("h2", {}, id), state), seen, why,
    h("dl", {}, h("dt", {}, t("recipe")), recipe, h("dt", {}, t("li_waits")), waits, h("dt", {}, t("latency")), time), meter,
    may("operator") && h("div.press", {}, trigger, pause, change), error);

  const update = (c, now) => {
    [camera, recipes] = [c, now.recipes];
    const is = c.state === "fault" ? "fault" : c.paused ? "paused" : c.state;
    if (node.dataset.state !== is) replace(state, icon({ fault: "fail", paused: "pause", busy: "review", ready: "pass" }[is]), t(is === "paused" ? "paused" : `c_${is}`));
    node.dataset.state = is;
    const reasons = reasonsOf(c, now.alarms);
    if (why.textContent !== reasons.join("")) replace(why, reasons.map((reason) => h("li", {}, reason)));
    say(recipe, joined(c.pipeline ? `${c.pipeline} @ ${c.pipeline_version}` : t("noPipeline"), by(c.pipeline_by)));
    say(waits, joined(c.triggered && `${t("li_triggers")} ${number(c.triggers_waiting)}`, `${t("li_pictures")} ${number(c.frames_waiting)} / ${number(c.frames_max)}`));
    say(time, timesOf(c));
    meter.hidden = !c.deadline_ms || c.times.worst_ms === null;
    Object.assign(meter, { max: c.deadline_ms || 1, high: 0.8 * (c.deadline_ms || 1), value: c.times.worst_ms || 0 });
    if (c.picture !== picture) {
      picture = c.picture;
      img.hidden = !picture;
      if (picture) img.src = `/api/v1/thumbs/${picture}`;
    }
    if (c.last && c.last.seq !== last) {
      last = c.last.seq;
      seen.href = `/?id=${encodeURIComponent(c.last.id)}`;
      replace(judged, h(`span.badge.${c.last.verdict}`, {}, icon(c.last.verdict), t(`v_${c.last.verdict}`)), h("time", {}, when(c.last.at)));
    }
    trigger.hidden = !c.triggered;
    const verb = c.paused ? "resume" : "pause";
    if (pause.dataset.command !== verb) {
      pause.dataset.command = verb;
      replace(pause, icon(verb), h("span", {}, t(`li_${verb}`)));
    }
  };
  return { node, update };
}

/// Why the camera does not inspect, and what else is wrong about it.
function reasonsOf(c, alarms) {
  const mine = alarms.filter((a) => (a.about === c.id && ["trigger", "image"].includes(a.kind)) || (a.kind === "recipe" && a.about === c.pipeline));
  return [
    c.state === "fault" && c.reason,
    c.paused && joined(`${t("paused")} ${by(c.paused_by)}`, c.since && when(c.since)),
    ...mine.map((a) => a.message),
  ].filter(Boolean);
}

/// How long verdicts took, against the deadline.
function timesOf({ times, deadline_ms: deadline }) {
  const limit = deadline && `${t("li_deadline")} ${ms(deadline)}`;
  if (times.last_ms === null) return joined(limit) || "–";
  return joined(ms(times.last_ms), `${t("li_worst")} ${ms(times.worst_ms)}`, limit, times.late && `${t("li_late")} ${number(times.late)} / ${number(times.parts)}`);
}

function tiles({ at, synchronised, cameras, engine, sinks, disk }) {
  const tile = (name, word, detail, bad) => h("div.tile", { "data-tile": name, class: bad ? "tile wrong" : "tile" }, h("small", {}, t(`li_${name}`)), h("strong", {}, word), h("span.quiet", {}, detail));
  const waiting = cameras.reduce((sum, c) => sum + c.triggers_waiting + c.frames_waiting, 0);
  const off = Date.parse(at) - Date.now();
  const gb = (bytes) => `${number(bytes / GB, 1)} GB`;
  return [
    tile("queue", number(waiting), t("li_queueHint")),
    engine && tile("engine", t(`e_${engine.state}`), joined(engine.model, engine.why, engine.losses && `${t("li_losses")} ${number(engine.losses)}`), engine.state === "resting" || engine.why),
    sinks.map((s) => tile("broker", s.connected ? t("li_reached") : t("li_away"), joined(s.name, `${t("owed")} ${number(s.owed)}`), !s.connected)),
    tile("disk", gb(disk.free_bytes), disk.refuses || `${t("li_floor")} ${gb(disk.free_bytes_min)}`, disk.refuses),
    tile("clock", clock(at), joined(synchronised ? t("li_synchronised") : t("li_alone"), Math.abs(off) > CLOCK_MS && `${t("li_differs")} ${number(off / 1000)} s`), Math.abs(off) > CLOCK_MS),
  ];
}

function giveRecipe(camera, recipes, again) {
  sheet(`${t("li_recipe")}: ${camera.id}`, (close) => {
    const error = h("p.error", { role: "alert" });
    const choice = h("select", { name: "pipeline", "aria-label": t("recipe") }, recipes.map((name) => h("option", { value: name, selected: name === camera.pipeline }, name)));
    return h("form.body", {
      onsubmit: async (e) => {
        e.preventDefault();
        if (await command("pipeline", { camera: camera.id, pipeline: choice.value }, error, again)) close();
      },
    }, h("p.quiet", {}, t("li_recipeHint")), choice, error, h("button.primary#recipe-go", { type: "submit" }, t("li_give")));
  });
}

// Commands that wait for their answer: a second tap is none.
const asked = new Set();

/// True when it was taken; else the words stand in `error`.
async function command(verb, body, error, again) {
  const one = `${verb} ${JSON.stringify(body)}`;
  if (asked.has(one)) return false;
  error.textContent = isFrozen() ? t("li_frozenNo") : "";
  if (isFrozen()) return false;
  asked.add(one);
  try {
    await post(`/api/v1/commands/${verb}`, body);
    toast(joined(body.camera || body.part || t("all"), t(`did_${verb}`)));
    again();
    return true;
  } catch (refused) {
    error.textContent = refusal(refused);
    return false;
  } finally {
    asked.delete(one);
  }
}

/// A refusal in words; those with a reason of their own have it behind them.
function refusal({ code, message }) {
  const key = `rf_${code}`;
  if (t(key) === key) return message;
  return ["fault", "unfit", "not_stored"].includes(code) ? `${t(key)} ${message}` : t(key);
}

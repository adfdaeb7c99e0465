// Whether the station shows life: it says so every second in the stream of events, and the page has a clock of its own.
//
//   deaf (no stream is wanted) --listening--> heard --SILENCE_MS without an event--> frozen --an event--> heard
//
// While it is frozen all that is shown is old, and nothing is commanded: whatever was sent would be carried out when
// nobody expects it any more.

import { h, icon } from "./dom.js";
import { clock, t } from "./words.js";

// Together within three seconds, whenever in the second between two beats it froze.
const SILENCE_MS = 2300;
const LOOK_MS = 200;

let heard = null;
let heardAt = new Date();
let live = false;
let said = { alive: true, alarms: 0 };

export const isFrozen = () => heard !== null && performance.now() - heard > SILENCE_MS;

/// From now on events are waited for, or no longer.
export function listening(is) {
  live &&= is;
  hear(is ? performance.now() : null);
}

/// The stream stands or not.
export function mark(is) {
  live = is;
  show();
}

/// An event has come; that of a beat says how the station is.
export function event(beat) {
  if (beat) said = beat;
  hear(performance.now());
}

function hear(at) {
  heard = at;
  heardAt = new Date();
  show();
}

/// The signs in the head of every view; `toAlarms` opens the view that has them.
export const signs = (toAlarms) => [
  h("button.plain#alarms", { onclick: toAlarms, hidden: true }, icon("bell"), h("span", {}, "")),
  h("span#live.live", {}, h("i"), h("span", {}, "")),
];

/// What is said across every view while the station is frozen or its inspector stalled.
export const banner = () => h("p#frozen", { role: "alert", hidden: true });

const say = (node, words) => { if (node.textContent !== words) node.textContent = words; };

/// Brings the signs up to date.
export function show() {
  const frozen = isFrozen();
  const [alarms, sign, across] = ["alarms", "live", "frozen"].map((id) => document.getElementById(id));
  document.documentElement.classList.toggle("frozen", frozen);
  if (!alarms || !sign || !across) return;
  alarms.hidden = said.alarms === 0;
  alarms.setAttribute("aria-label", `${t("li_alarms")}: ${said.alarms}`);
  say(alarms.lastChild, String(said.alarms));
  sign.className = frozen ? "live frozen" : live ? "live on" : "live";
  say(sign.lastChild, frozen ? t("li_frozen") : live ? t("connected") : t("reconnecting"));
  const words = frozen ? `${t("li_frozenSince")} ${clock(heardAt)}. ${t("li_frozenOld")}` : said.alive ? "" : t("li_stalled");
  across.hidden = !words;
  say(across, words);
}

setInterval(show, LOOK_MS);

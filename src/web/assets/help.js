// Help: what the keys do, what the signs say, how a decision is made.

import { h, icon, sheet } from "./dom.js";
import { t } from "./words.js";
import { may } from "./main.js";

/// Keys and what each does; those that decide are for operators.
const KEYS = [
  ["j ↓", "next"], ["k ↑", "previous"], ["y", "h_pass", true], ["n", "h_fail", true], ["1 – 3", "h_reason", true], ["z", "h_last", true], ["d", "draw", true],
  ["b", "boxes"], ["g", "grid"], ["h", "heat"], ["1 – 9", "h_finding"], ["+ −", "h_zoom"], ["f", "fit"], ["/", "partSearch"], ["?", "h_help"],
];

export function help() {
  const sign = (verdict, words) => h("li", {}, h("span.badge", { class: `badge ${verdict}` }, icon(verdict), h("span", {}, t("v_" + verdict))), h("span", {}, t(words)));
  sheet(t("help"), () => h("div.body.help", {},
    h("p", {}, t("helpDecide")),
    h("h3", {}, t("keys")),
    h("dl.keys", {}, KEYS.filter(([, , decides]) => !decides || may("operator")).map(([key, words]) => [h("dt", {}, key.split(" ").map((k) => (k === "–" ? " – " : h("kbd", {}, k)))), h("dd", {}, t(words))])),
    h("h3", {}, t("helpSigns")),
    h("ul.signs", {}, sign("pass", "helpPass"), sign("fail", "helpFail"), sign("review", "helpReview")),
    h("a.button", { href: "/guide/", target: "_blank", rel: "noopener" }, t("helpGuide"))));
}

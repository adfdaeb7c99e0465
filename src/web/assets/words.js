// Words of the page in the language of whoever reads it. A language is one file, words/<code>.js, and a
// line in `LANGUAGES`; a test holds that all have the same words. What a recipe or a person named stays
// as it is, except the labels of common defects.

import en from "/assets/words-en.js";

/// Code of each language, and what it calls itself.
export const LANGUAGES = { en: "English", zh: "中文", de: "Deutsch", es: "Español", ja: "日本語" };

const given = localStorage.getItem("lang") || navigator.language.slice(0, 2);
export const lang = LANGUAGES[given] ? given : "en";
const words = lang === "en" ? en : (await import(`/assets/words-${lang}.js`)).default;
document.documentElement.lang = lang === "zh" ? "zh-CN" : lang;

export const t = (key) => words[key] ?? en[key] ?? key;

/// Takes another language; the page starts anew with it, where it was.
export function takeLanguage(code) {
  localStorage.setItem("lang", code);
  location.reload();
}

/// A label of a finding: the words for common defects, else what the recipe calls it.
export const label = (name) => (en["L_" + name] ? t("L_" + name) : name.replaceAll("_", " "));

/// What stands for a code of the daemon in the words of who reads it.
const REASON = {
  finding: [/^(.+)$/, (name) => label(name)],
  text_mismatch: [/^(.+) line (\d+)$/, (prompt, line) => `${prompt} ${line}`],
  text_uncertain: [/^(.+) line (\d+)$/, (prompt, line) => `${prompt} ${line}`],
  low_confidence: [/^(.+) ([\d.]+)$/, (what, sure) => `${what.startsWith("nothing else") ? t("wholePicture") : what.startsWith("nothing in the part") ? t("byScore") : label(what)}, ${percent(Number(sure))}`],
  deadline: [/^(\d+) ms late$/, (late) => `+${number(Number(late))} ms`],
  unparsable: [/^(.+) tile (\d+)$/, (prompt) => prompt],
  missing_tile: [/^(\d+) of (\d+)$/, (done, all) => `${done} / ${all}`],
  engine: null, frame: null, queue_full: null, interrupted: null,
};

/// A reason of a verdict ("code: details") in the words of who reads it: [words, details or ""].
export function reason(text) {
  const [, code, rest] = /^([a-z_]+)(?:: (.*))?$/s.exec(text || "") || [];
  if (!code || !(code in REASON)) return [text || "", ""];
  const form = REASON[code];
  const found = form && form[0].exec(rest || "");
  return [t("why_" + code), found ? form[1](...found.slice(1)) : rest || ""];
}

/// The same on one line.
export const reasonLine = (text) => reason(text).filter(Boolean).join(": ");

const locale = () => (lang === "zh" ? "zh-CN" : lang === "en" ? undefined : lang);
export const number = (n, digits = 0) => n === null || n === undefined ? "–" : n.toLocaleString(locale(), { maximumFractionDigits: digits, minimumFractionDigits: digits });
export const percent = (x, digits = 0) => x === null || x === undefined ? "–" : number(x * 100, digits) + " %";

export function clock(at) {
  const d = new Date(at);
  return d.toLocaleTimeString(locale(), { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
}
export function day(at) {
  const d = new Date(at);
  if (d.toDateString() === new Date().toDateString()) return "";
  return d.toLocaleDateString(locale(), { month: "short", day: "numeric" });
}
export const when = (at) => [day(at), clock(at)].filter(Boolean).join(" ");

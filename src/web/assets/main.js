// The page: who is here, what is shown, what is new.
//
//   me --nobody--> login, setup          URL: /?view=…&verdict=…&id=…   (can be shared)
//      '--somebody--> queue | line | charts | recipes | learn | people, live over one event stream

import { get, onLoggedOut, post } from "./api.js";
import { h, icon, replace, sheet, toast } from "./dom.js";
import { LANGUAGES, lang, t, takeLanguage } from "./words.js";
import { Queue } from "./queue.js";
import { takeBackLast } from "./part.js";
import { blind } from "./blind.js";
import { charts } from "./charts.js";
import { report } from "./report.js";
import { people } from "./people.js";
import { help } from "./help.js";
import { cameras } from "./cameras.js";
import { recipes } from "./recipes.js";
import { learn } from "./learn.js";
import { product } from "./product.js";
import { lineView } from "./line.js";
import { banner, event, listening, mark, show as showSigns, signs } from "./pulse.js";

const app = document.getElementById("app");
/// `keys` takes a key of the view that is shown, where that has keys of its own.
export const state = { me: null, view: null, queue: null, keys: null };

const theme = localStorage.getItem("theme");
if (theme) document.documentElement.dataset.theme = theme;

function switchTheme() {
  const dark = document.documentElement.dataset.theme === "dark"
    || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  const next = dark ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  localStorage.setItem("theme", next);
  if (state.view === "charts") show();
}

export const params = () => Object.fromEntries(new URLSearchParams(location.search));

/// Changes the address; `push` makes a place to come back to.
export function setParams(values, push) {
  const next = new URLSearchParams(Object.entries(values).filter(([, v]) => v !== "" && v !== null && v !== undefined));
  const text = next.toString();
  const url = text ? "/?" + text : "/";
  if (url === location.pathname + location.search) return;
  history[push ? "pushState" : "replaceState"](null, "", url);
}

export const may = (role) => {
  const order = ["viewer", "operator", "engineer"];
  return state.me && order.indexOf(state.me.role) >= order.indexOf(role);
};

/// The languages, each in its own words. The page starts anew: a draft is asked about first.
function languages() {
  sheet(t("language"), () => h("div.choices", {}, Object.entries(LANGUAGES).map(([code, name]) =>
    h("button.button", { lang: code, "data-lang": code, "aria-pressed": String(code === lang), onclick: () => { if (!state.queue || state.queue.part.leave()) takeLanguage(code); } }, name))));
}

function door() {
  const setup = state.me && state.me.setup;
  const given = new URLSearchParams(location.hash.slice(1)).get("setup") || "";
  const error = h("p.error", { role: "alert" });
  const field = (name, props) => h("label", {}, h("span", {}, t(name)), h("input", { name, required: true, ...props }));
  const form = h("form.door", {
    onsubmit: async (e) => {
      e.preventDefault();
      const values = Object.fromEntries(new FormData(form));
      try {
        await post(setup ? "/api/v1/setup" : "/api/v1/login", values);
        history.replaceState(null, "", location.pathname + location.search);
        start();
      } catch (refused) {
        error.textContent = refused.message;
      }
    },
  },
  h("div.brand", {}, h("img", { src: "/assets/icon.svg", alt: "", width: 40, height: 40 }), h("strong", {}, "inspectd")),
  h("h1", {}, setup ? t("setup") : t("login")),
  setup && h("p.quiet", {}, t("setupHint")),
  setup && field("code", { value: given, autocomplete: "off", autocapitalize: "characters" }),
  field("name", { autocomplete: "username", autocapitalize: "off", autofocus: !setup || given !== "" }),
  field("password", { type: "password", minlength: setup ? 8 : 1, autocomplete: setup ? "new-password" : "current-password" }),
  error,
  h("button.primary", { type: "submit" }, setup ? t("create") : t("login")),
  h("button.plain", { type: "button", onclick: languages }, `${t("language")}: ${LANGUAGES[lang]}`));
  replace(app, h("main.doorway", {}, form));
  form.querySelector("[autofocus]")?.focus();
}

function frame() {
  const tab = (view, name) => h("button.tab", {
    "aria-current": state.view === view || (view === "charts" && ["report", "blind"].includes(state.view)) ? "page" : null, "data-view": view,
    onclick: () => { setParams(view === "queue" ? {} : { view }, true); show(); },
  }, icon(name), h("span", {}, t(view === "queue" ? "review" : view)));
  const main = h("main#main");
  const line = h("div#cameras.cameras", { role: "status" });
  const risks = h("section#risks.risks", { "aria-label": t("risky") });
  replace(app,
    h("header.bar", {},
      h("div.brand", {}, h("img", { src: "/assets/icon.svg", alt: "", width: 28, height: 28 }), h("strong", {}, "inspectd")),
      h("nav", {}, tab("line", "line"), tab("queue", "list"), tab("charts", "chart"), tab("recipes", "recipe"), tab("learn", "learn"), may("engineer") && tab("people", "people")),
      h("div.end", {},
        signs(() => { setParams({ view: "line" }, true); show(); }),
        h("button.plain.lang", { id: "language", onclick: languages, "aria-label": t("language"), title: t("language") }, lang.toUpperCase()),
        h("button.plain", { id: "help", onclick: help, "aria-label": t("help"), title: `${t("help")} (?)` }, icon("review")),
        h("button.plain", { onclick: switchTheme, "aria-label": t("theme"), title: t("theme") }, icon("sun")),
        h("button.plain.who", { id: "me", title: `${t(state.me.role)} · ${t("changePassword")}`, onclick: password }, state.me.name),
        h("button.plain", { id: "logout", onclick: leave, "aria-label": t("logout"), title: t("logout") }, icon("out")))),
    banner(),
    line,
    risks,
    main);
  // The line view has more about each camera.
  line.hidden = state.view === "line";
  showSigns();
  cameras(line, risks, state.view === "line" && may("engineer"));
  return main;
}

/// One's own new password; it ends one's other sessions.
function password() {
  sheet(t("changePassword"), (close) => {
    const error = h("p.error", { role: "alert" });
    const field = (name, complete) => h("input", { name, type: "password", required: true, minlength: name === "new" ? 8 : 1, placeholder: t(name === "new" ? "newPassword" : "oldPassword"), "aria-label": t(name === "new" ? "newPassword" : "oldPassword"), autocomplete: complete });
    const form = h("form.body", {
      onsubmit: async (e) => {
        e.preventDefault();
        try {
          await post("/api/v1/password", Object.fromEntries(new FormData(form)));
          close();
          toast(t("passwordChanged"));
        } catch (refused) { error.textContent = refused.message; }
      },
    }, field("old", "current-password"), field("new", "new-password"), error, h("button.primary", { id: "password-go", type: "submit" }, t("save")));
    return form;
  });
}

async function leave() {
  await post("/api/v1/logout").catch(() => {});
  start();
}

function show() {
  const given = params();
  state.view = ["line", "charts", "report", "recipes", "learn"].includes(given.view) || (["people", "product"].includes(given.view) && may("engineer")) || (given.view === "blind" && given.study && may("operator")) ? given.view : "queue";
  state.queue?.gone();
  state.queue = state.keys = null;
  const main = frame();
  main.dataset.view = state.view;
  if (state.view === "line") lineView(main);
  else if (state.view === "charts") charts(main);
  else if (state.view === "report") report(main);
  else if (state.view === "blind") blind(main);
  else if (state.view === "recipes") recipes(main);
  else if (state.view === "learn") learn(main);
  else if (state.view === "product") product(main);
  else if (state.view === "people") people(main);
  else {
    state.queue = new Queue(main);
  }
}

let stream = null;
function listen() {
  stream?.close();
  stream = new EventSource("/api/v1/events");
  listening(true);
  stream.addEventListener("beat", (e) => event(JSON.parse(e.data)));
  let lost = false;
  stream.addEventListener("hello", () => {
    event();
    mark(true);
    // What came while we were away is not told again.
    if (lost) state.queue?.refresh();
    lost = false;
  });
  stream.addEventListener("error", () => { mark(false); lost = true; });
  stream.addEventListener("inspection", (e) => state.queue?.arrived(JSON.parse(e.data)));
  stream.addEventListener("review", (e) => state.queue?.reviewed(JSON.parse(e.data)));
  stream.addEventListener("resync", () => state.queue?.refresh());
  stream.addEventListener("end", (e) => {
    // The browser would ask again at once: without access it hears nothing, and of too many pages one
    // would push out the other for ever. So this one waits until somebody looks at it.
    const { reason } = JSON.parse(e.data);
    if (reason === "stopping") return;
    stream.close();
    listening(false);
    lost = true;
    if (reason === "access") start();
    else addEventListener("focus", () => { if (state.me?.name) { listen(); state.queue?.refresh(); } }, { once: true });
  });
}

onLoggedOut(() => { if (state.me?.name) start(); });
addEventListener("popstate", () => { if (state.me?.name) (state.view === "queue" && state.queue && !params().view) ? state.queue.fromAddress() : show(); });
addEventListener("keydown", (e) => {
  // A held key presses a button, or sends a form, again and again: the first time counts.
  if (e.repeat && (e.key === "Enter" || (e.key === " " && !/^(INPUT|TEXTAREA)$/.test(e.target.tagName)))) e.preventDefault();
  if (e.ctrlKey || e.metaKey || e.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(e.target.tagName) || document.querySelector("dialog[open]")) return;
  if (e.key === "?") help();
  else if (e.key === "z") { if (!e.repeat && may("operator")) takeBackLast(state.queue); }
  else if (state.queue?.key(e.key, e.repeat) || state.keys?.(e.key, e.repeat)) e.preventDefault();
});
addEventListener("unhandledrejection", (e) => toast(`${t("failed")}: ${e.reason?.message || e.reason}`, null, "bad"));

async function start() {
  state.me = await get("/api/v1/me");
  if (!state.me.name) {
    stream?.close();
    listening(false);
    return door();
  }
  show();
  listen();
}
start();

// The page: who is here, what is shown, what is new.
//
//   me --nobody--> login, setup          URL: /?view=…&verdict=…&id=…   (can be shared)
//      '--somebody--> queue | charts | recipes | learn | people, live over one event stream

import { get, onLoggedOut, post } from "./api.js";
import { h, icon, replace, sheet, toast } from "./dom.js";
import { switchLanguage, t } from "./words.js";
import { Queue } from "./queue.js";
import { charts } from "./charts.js";
import { people } from "./people.js";
import { cameras } from "./cameras.js";
import { recipes } from "./recipes.js";
import { learn } from "./learn.js";
import { product } from "./product.js";

const app = document.getElementById("app");
export const state = { me: null, view: null, queue: null, live: false };

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
  h("button.plain", { type: "button", onclick: () => { switchLanguage(); door(); } }, t("language")));
  replace(app, h("main.doorway", {}, form));
  form.querySelector("[autofocus]")?.focus();
}

function frame() {
  const tab = (view, name) => h("button.tab", {
    "aria-current": state.view === view ? "page" : null, "data-view": view,
    onclick: () => { setParams(view === "queue" ? {} : { view }, true); show(); },
  }, icon(name), h("span", {}, t(view === "queue" ? "review" : view)));
  const main = h("main#main");
  const line = h("div#cameras.cameras", { role: "status" });
  const risks = h("section#risks.risks", { "aria-label": t("risky") });
  replace(app,
    h("header.bar", {},
      h("div.brand", {}, h("img", { src: "/assets/icon.svg", alt: "", width: 28, height: 28 }), h("strong", {}, "inspectd")),
      h("nav", {}, tab("queue", "list"), tab("charts", "chart"), tab("recipes", "recipe"), tab("learn", "learn"), may("engineer") && tab("people", "people")),
      h("div.end", {},
        h("span#live.live", { class: state.live ? "live on" : "live" }, h("i"), h("span", {}, state.live ? t("connected") : t("reconnecting"))),
        h("button.plain.lang", { onclick: () => { switchLanguage(); show(); } }, t("language")),
        h("button.plain", { onclick: switchTheme, "aria-label": t("theme"), title: t("theme") }, icon("sun")),
        h("button.plain.who", { id: "me", title: `${t(state.me.role)} · ${t("changePassword")}`, onclick: password }, state.me.name),
        h("button.plain", { id: "logout", onclick: leave, "aria-label": t("logout"), title: t("logout") }, icon("out")))),
    line,
    risks,
    main);
  cameras(line, risks);
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
  state.view = ["charts", "recipes", "learn"].includes(given.view) || (["people", "product"].includes(given.view) && may("engineer")) ? given.view : "queue";
  state.queue?.gone();
  state.queue = null;
  const main = frame();
  main.dataset.view = state.view;
  if (state.view === "charts") charts(main);
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
  const mark = (live) => {
    state.live = live;
    const node = document.getElementById("live");
    if (!node) return;
    node.className = live ? "live on" : "live";
    node.lastChild.textContent = live ? t("connected") : t("reconnecting");
  };
  let lost = false;
  stream.addEventListener("hello", () => {
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
    mark(false);
    lost = true;
    if (reason === "access") start();
    else addEventListener("focus", () => { if (state.me?.name) { listen(); state.queue?.refresh(); } }, { once: true });
  });
}

onLoggedOut(() => { if (state.me?.name) start(); });
addEventListener("popstate", () => { if (state.me?.name) (state.view === "queue" && state.queue && !params().view) ? state.queue.fromAddress() : show(); });
addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(e.target.tagName) || document.querySelector("dialog[open]")) return;
  if (e.key === "?") toast(t("help"));
  else if (state.queue?.key(e.key)) e.preventDefault();
});
addEventListener("unhandledrejection", (e) => toast(`${t("failed")}: ${e.reason?.message || e.reason}`, null, "bad"));

async function start() {
  state.me = await get("/api/v1/me");
  if (!state.me.name) {
    stream?.close();
    return door();
  }
  show();
  listen();
}
start();

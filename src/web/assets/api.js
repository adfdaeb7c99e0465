// The same API that machines use: /api/v1/openapi.json.

export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

let whenLoggedOut = () => {};
export function onLoggedOut(what) { whenLoggedOut = what; }

async function ask(method, path, body, signal) {
  const options = { method, signal, headers: {} };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["content-type"] = "application/json";
  }
  const answer = await fetch(path, options);
  if (answer.status === 204) return null;
  const isJson = (answer.headers.get("content-type") || "").includes("json");
  const data = isJson ? await answer.json() : { error: await answer.text() };
  if (answer.ok) return data;
  if (answer.status === 401 && data.code === "login") whenLoggedOut();
  throw new Refused(answer.status, data.code || "error", data.error || answer.statusText);
}

export const get = (path, signal) => ask("GET", path, undefined, signal);
export const post = (path, body) => ask("POST", path, body || {});
export const del = (path) => ask("DELETE", path);

/// A query text without empty values.
export function query(values) {
  const kept = Object.entries(values).filter(([, v]) => v !== "" && v !== null && v !== undefined);
  return new URLSearchParams(kept).toString();
}

// Views that ask again and again for what they show.
//
//   ask --answered--> everyMs --> ask          ask --no answer--> "no connection", the wait doubles up to WAIT_MAX_MS
//
// What was shown before stays, under the sign that says that it is old. Whatever fails, the view goes on by itself.

import { Refused } from "./api.js";
import { h } from "./dom.js";
import { t } from "./words.js";

// The longest wait between two questions.
const WAIT_MAX_MS = 10000;
// An answer that takes longer will not come.
const ANSWER_MS = 15000;

/// Calls `look(signal)` for as long as `main` shows `view`; `look` throws where it got no answer.
export async function poll(main, view, everyMs, look) {
  const shows = () => main.dataset.view === view && main.isConnected;
  const sign = h("p#no-connection", { role: "alert", hidden: true });
  main.before(sign);
  let wait = everyMs;
  while (shows()) {
    try {
      await look(AbortSignal.timeout(ANSWER_MS));
      wait = everyMs;
      sign.hidden = true;
    } catch (error) {
      wait = Math.min(2 * wait, WAIT_MAX_MS);
      sign.textContent = error instanceof Refused ? `${t("failed")}: ${error.message}` : t("noConnection");
      sign.hidden = false;
    }
    await new Promise((go) => setTimeout(go, wait));
  }
  sign.remove();
}

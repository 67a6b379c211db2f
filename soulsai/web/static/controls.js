// The buttons that control the training: each confirms first, and then shows the training node's answer.
import { send } from "./api.js";
import { h, say } from "./dom.js";

const commands = {
  resume: { text: "Resume", title: "Resume the training?", why: "The training node learns on, and the clients play on.", done: "Resumed", when: (phase) => phase === "paused" },
  pause: { text: "Pause", title: "Pause the training?", why: "The training node stops learning and the clients wait. Nothing is lost; resume when you like.", done: "Paused", when: (phase) => phase !== "paused" },
  quicksave: { text: "Quicksave", title: "Save the training now?", why: "Everything is saved now, replay included, as manual_save. An earlier quicksave is replaced.", done: "Saved", when: () => true },
  stop: { text: "Stop", title: "Stop the training?", why: "The training node takes a last checkpoint, tells the clients, and ends the run. It can be resumed later from the command line.", done: "Stopped", danger: true, when: () => true },
};
const about = {
  forget_best: { text: "Forget", title: "Forget the best average?", why: "The best model is found anew among the episodes from now on. Its saved weights stay until a new best replaces them.", done: "Forgotten", danger: true },
  promote: { text: "Promote", title: "Make this the best model?", why: "Its policy takes the place of best_model, until a better average comes.", done: "Promoted" },
  purge: { text: "Purge", title: "Purge this client's experience?", why: "Its experience is removed from the replay, its episodes no longer count for the best model, and it is kept out until it is pardoned.", done: "Purged", danger: true },
  pardon: { text: "Pardon", title: "Let this client in again?", why: "Its experience is admitted again.", done: "Pardoned" },
  enroll: { text: "Enroll", title: "Enroll this client?", why: "It gets a user of its own on the server. Its invite is shown once: send it to the person who plays, and to nobody else.", done: "Enrolled" },
  revoke: { text: "Revoke", title: "Shut this client out?", why: "Its user is removed from the server and its connections end at once.", done: "Revoked", danger: true },
};

export function controls(place, dialog, complain) {
  let shown = "";
  const update = (context) => {
    const status = context.head?.status;
    const usable = context.operator && status && !["ended", "stopping"].includes(status.phase);
    const names = usable ? Object.keys(commands).filter((name) => commands[name].when(status.phase)) : [];
    if (names.join() === shown) return;
    shown = names.join();
    place.replaceChildren(...names.map((name) =>
      h("button", { type: "button", class: commands[name].danger ? "danger" : "", onclick: () => ask({ ...commands[name], command: name, run: context.run }) }, commands[name].text)));
  };

  const ask = ({ command, run, name, text, title: question, why, done, danger, after }) => {
    const title = h("h2", { id: "confirm-title" }, question);
    const whom = name ? h("p", {}, h("strong", { class: "name" }, name)) : null;
    const answer = h("p", { class: "answer", role: "status" });
    const secret = h("div", {});
    const go = h("button", { type: "button", class: danger ? "danger solid" : "primary" }, text);
    const close = h("button", { type: "button", class: "quiet" }, "Cancel");
    close.addEventListener("click", () => dialog.close());
    go.addEventListener("click", async () => {
      go.disabled = true;
      answer.className = "answer waiting";
      say(answer, "Asked. Waiting for the answer…");
      try {
        const outcome = await send("commands", name ? { command, run, about: name } : { command, run });
        answer.className = `answer ${outcome.state}`;
        say(title, outcome.state === "done" ? done : outcome.state === "refused" ? "Refused" : "No answer");
        say(answer, outcome.state === "unanswered" ? `${outcome.message} It may still be carried out: watch the events.` : outcome.message);
        if (outcome.invite) secret.replaceChildren(...invite(outcome.invite));
        after?.();
      } catch (error) {
        if (error.status === 401) { dialog.close(); complain(error); return; }
        answer.className = "answer refused";
        say(answer, error.message);
      }
      go.remove();
      say(close, "Close");
      close.focus();
    });
    dialog.replaceChildren(...[title, whom, h("p", { class: "faint" }, why), answer, secret, h("div", { class: "row end" }, close, go)].filter(Boolean));
    dialog.showModal();
    close.focus();
  };
  // For the other pages: a command about one client or model, by name; `after` is called when it was answered.
  const askAbout = (command, run, name, after) => ask({ ...about[command], command, run, name, after });
  return { update, askAbout };
}

function invite(line) {
  const shown = h("span", { class: "copied", role: "status" });
  const copy = async () => { await navigator.clipboard.writeText(line); say(shown, "copied"); };
  return [h("p", { class: "small faint" }, "Its invite, for SOULSAI_INVITE or `soulsai client --invite`:"), h("textarea", { class: "invite", readonly: true, rows: 4, "aria-label": "Invite" }, line),
    h("div", { class: "row" }, navigator.clipboard ? h("button", { type: "button", class: "tiny", onclick: copy }, "Copy") : null, shown)];
}
